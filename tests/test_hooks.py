"""Listening to a net while it runs."""

import pytest
import torch
from torch import nn

from edgecomp.layers.hooks import Enough, capture, named


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_inputs_and_outputs_of_modules_are_seen():
    module, seen = net(), []
    with capture(named(module, nn.Linear), lambda name, x, y: seen.append((name, x[0].shape, y.shape))):
        module(torch.zeros(5, 2))
    assert seen == [("0", (5, 2), (5, 3)), ("2", (5, 3), (5, 1))] and not hooks(module)
    with capture({1: module[1]}, lambda key, x: seen.append((key, len(x))), before=True):
        module(torch.zeros(5, 2))
    assert seen[2:] == [(1, 1)] and not hooks(module)


def test_a_listener_ends_the_pass_that_is_meant():
    module, seen = net(), []

    def first(name, x):
        seen.append(name)
        raise Enough

    with capture(named(module, nn.ReLU, nn.Linear), lambda name, x, y: seen.append(f"after {name}")):
        with capture({"relu": module[1]}, first, before=True):
            module(torch.zeros(1, 2))
        seen.append("goes on")
    assert seen == ["after 0", "relu", "goes on"] and not hooks(module)


def test_hooks_are_gone_after_an_error():
    module = net()
    with pytest.raises(RuntimeError), capture(named(module, nn.Linear), lambda *_: None):
        module(torch.zeros(1, 7))
    assert not hooks(module)
