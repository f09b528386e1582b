"""Channels that go together, and taking them out of a net."""

import functools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgecomp.pruning.groups import find_groups
from edgecomp.pruning.surgery import masked, proven, removed
from edgecomp.pruning.widths import cut_sizes, layer_sizes


class RandomNet(nn.Module):
    """A net that a list of words describes: each says how the next features come from those before."""

    def __init__(self, words, flat):
        super().__init__()
        self.words, self.flat, self.layers, width = words, flat, nn.ModuleDict(), 8
        self.layers["first"] = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        for place, word in enumerate(words):
            wide = 2 * width if word == "widen" else width
            groups = {"depthwise": width, "grouped": 4}.get(word, 1)
            if word == "concat":
                wide, width = width, width + 4
                self.layers[str(place)] = nn.Conv2d(wide, 4, 1)
                continue
            parts = [nn.Conv2d(width, wide, 3, padding=1, groups=groups), nn.BatchNorm2d(wide)]
            self.layers[str(place)], width = nn.Sequential(*parts), wide
        self.layers["last"] = nn.Conv2d(width, 8, 3)
        self.layers["dense"] = nn.Linear(8 * 16 if flat else 8, 5)

    def forward(self, x):
        x = self.layers["first"](x).relu()
        for place, word in enumerate(self.words):
            y = self.layers[str(place)](x)
            x = torch.cat([x, y.relu()], 1) if word == "concat" else (x + y).relu() if word == "add" else y.relu()
        x = self.layers["last"](x).sigmoid()
        return self.layers["dense"](x.flatten(1) if self.flat else x.mean((2, 3)))


def random_net(words, flat, seed=0):
    torch.manual_seed(seed)
    net = RandomNet(words, flat)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def zeroed(net, groups, kept, x):
    """Outputs of the net with the removed channels zeroed wherever a layer takes them in."""
    handles = []
    for group in groups:
        gone = [unit for unit in range(group.units) if unit not in kept[group.name].tolist()]
        for part in group.side("in"):

            def zero(_, arguments, index):
                y = arguments[0].clone()
                y[:, index] = 0
                return (y,)

            hook = functools.partial(zero, index=part.index[gone].flatten())
            handles.append(net.get_submodule(part.layer).register_forward_pre_hook(hook))
    outputs = net(x)
    for handle in handles:
        handle.remove()
    return outputs


@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(st.sampled_from(["plain", "add", "concat", "depthwise", "grouped", "widen"]), max_size=5),
    flat=st.booleans(),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_a_pruned_net_is_the_net_with_the_removed_channels_zeroed(words, flat, seed):
    net, x = random_net(words, flat, seed), torch.randn(2, 3, 6, 6)
    groups = [group for group in find_groups(net, (x,)) if not group.reason]
    assert groups
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in groups:
        count = int(torch.randint(1, group.units + 1, (1,), generator=generator))
        kept[group.name] = torch.randperm(group.units, generator=generator)[:count].sort().values
    small = removed(net, groups, kept)
    expected = zeroed(net, groups, kept, x)
    assert torch.allclose(small(x), expected, atol=1e-4, rtol=1e-3)
    assert torch.allclose(masked(net, groups, kept)(x), expected, atol=1e-4, rtol=1e-3)
    sizes = cut_sizes(layer_sizes(net, (x,)), groups, {name: len(units) for name, units in kept.items()})
    for name, size in layer_sizes(small, (x,)).items():
        assert sizes[name] == size


def test_every_channel_of_a_random_net_is_in_a_group():
    net = random_net(["add", "grouped", "depthwise", "concat", "widen"], True)
    groups = find_groups(net, (torch.randn(1, 3, 6, 6),))
    given = [part.layer for group in groups for part in group.side("out", "both")]
    owners = {n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))}
    assert set(given) == owners and all(not g.reason or g.producers == ("layers.dense",) for g in groups)
    grouped = next(group for group in groups if "layers.1.0" in group.producers)
    assert grouped.units == 2  # four groups of two channels


class Shuffled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3)
        self.third, self.fourth, self.dense = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu())
        x = self.third(x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2).relu())
        x = nn.functional.normalize(self.fourth(x), dim=1)
        return self.dense(x.mean((2, 3)))


def test_channels_that_cannot_go_have_a_reason():
    net, x = Shuffled().eval(), torch.randn(2, 1, 8, 8)
    reasons = {group.name: proven(net, group, (x,)).reason for group in find_groups(net, (x,))}
    assert "GroupNorm" in reasons["first"]
    assert "dependency graph" in reasons["second"]
    assert reasons["third"] == ""
    assert "dependency graph" in reasons["fourth"]
    assert "outputs of the net" in reasons["dense"]
