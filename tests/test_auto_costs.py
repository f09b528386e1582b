"""What candidates of `auto` cost beside bytes of weights: containers, instructions, memory; and limits on them."""

import copy
import json

import pytest
import torch
from torch import nn

from edgecomp import discover
from edgecomp.auto import candidates as market
from edgecomp.auto import single
from edgecomp.auto.candidates import Group
from edgecomp.chain import restore
from edgecomp.compress import replace_weights
from edgecomp.layers.matrix import kind_of

NAMES = ("pq", "kmeans", "svd", "svd:kmeans", "scheme2:pq", "cp:kmeans")
LAYERS = ("0", "2", "4", "7", "9", "11")
FEW = ("--set", "auto.methods=kmeans,int8", "--set", "auto.samples=256", "--set", "auto.rounds=2")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU()]
    dense = [nn.Flatten(), nn.Linear(32 * 36, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*convolutions, *dense).eval()


def group_of(net, name):
    layer = net.get_submodule(name)
    return Group((name,), kind_of(layer), sum(4 * p.numel() for p in layer.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_the_container_of_a_net_is_that_of_its_layers(net, name, tmp_path):
    runtime, x = discover.runtime("executorch"), torch.randn(1, 1, 12, 12)

    def container(made, weights):
        runtime.export(made, (x,), tmp_path / "m.pte")
        return (tmp_path / "m.pte").stat().st_size - weights

    made, weights, expected, coded = copy.deepcopy(net), 0, 0, 0
    for place in LAYERS:
        group = group_of(net, place)
        leave, *found = market.candidates(net, group, (name,), "executorch")
        weights += found[0].bytes if found else leave.bytes
        if found:
            layer = copy.deepcopy(net.get_submodule(place))
            made.set_submodule(place, replace_weights(layer, restore(name, found[0].settings), None, 0))
            own, plain = (single.container_bytes(layer, c, "executorch") for c in (found[0], leave))
            expected += own - plain
            coded += 1
    plain = container(net, sum(group_of(net, place).bytes for place in LAYERS))
    got = container(made, weights) - plain
    assert abs(got - expected) <= 700 * coded, f"predicted {expected}, got {got}, of {plain} before"


@pytest.mark.xdist_group("auto")
def test_a_limit_on_instructions_is_kept_by_the_file(edgecomp, right_model, tmp_path):
    limited = ("build", right_model, "--method", "auto", "--budget", "100kB", *FEW, "--on", "qemu", "-o", "out")
    done = edgecomp(*limited, "--max-instructions", "52.3k")  # as it is: 53.1 k
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (verdict,) = [limit for limit in report["limits"] if limit["name"] == "instructions"]
    assert verdict["verdict"] == "pass" and verdict["value"] <= 52_300
    done = edgecomp(*limited, "--max-instructions", "5k")
    message = " ".join(done.stderr.split())
    assert done.returncode == 1 and "no plan is within 5.0 k of instructions: the nearest takes" in message
    assert "Held back by" in message and "The nearest plan" in done.stdout


@pytest.mark.xdist_group("auto")
def test_a_limit_on_memory_is_one_on_what_the_model_adds(edgecomp, right_model, tmp_path):
    limited = ("build", right_model, "--method", "auto", "--budget", "100kB", *FEW, "--on", "host", "-o", "out")
    done = edgecomp(*limited, "--max-ram", "2MB")  # the program itself takes more
    assert done.returncode == 0, done.stdout + done.stderr
    done = edgecomp(*limited, "--max-ram", "20kB")
    assert done.returncode == 1 and "of ram: the nearest takes" in " ".join(done.stderr.split())
