"""Input channels by energy: found where the graph allows it, and the network computes what it did."""

import copy

import pytest
import torch
from torch import nn

from edgecomp.fitting import channel_order
from edgecomp.graph.order import channel_producers
from edgecomp.graph.trace import exported


class Plain(nn.Sequential):
    """Every layer but the first takes its channels from the one before it."""

    def __init__(self):
        super().__init__(
            *(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 12, (1, 3), bias=False), nn.GELU(), nn.AdaptiveAvgPool2d(2)),
            *(nn.Conv2d(12, 6, 1), nn.Hardswish(), nn.Flatten()),
            *(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 5)),
        )


class Coupled(nn.Module):
    """A residual connection, groups, a softmax over channels and a layer used twice keep their order."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.grouped = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=2)
        self.twice, self.mixed = nn.Linear(8, 8), nn.Linear(8, 8)
        self.hidden, self.last = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = self.first(x)
        x = self.grouped(x + self.second(x).relu()).mean((2, 3))
        x = self.twice(self.twice(x).relu())
        return self.last(self.hidden(self.mixed(x.relu()).softmax(1)).relu())


class OverWidth(nn.Module):
    """A dense layer that runs over the width of an image does not see its channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.dense = nn.Conv2d(2, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.dense(self.conv(x))


@pytest.mark.parametrize(
    "kind, expected",
    [(Plain, {"3": "0", "6": "3", "9": "6", "11": "9"}), (Coupled, {"last": "hidden"}), (OverWidth, {})],
)
def test_channels_are_reordered_only_where_nothing_changes(kind, expected):
    torch.manual_seed(0)
    net, x = kind().eval(), torch.randn(64, 2, 8, 8)
    producers = channel_producers(exported(net, (x,), "net"))
    assert producers == expected
    before = copy.deepcopy(net)
    channel_order.order_by_energy(net, producers, x)
    assert torch.allclose(net(x), before(x), atol=1e-5)
    for name in producers:
        assert not torch.equal(net.get_submodule(name).weight, before.get_submodule(name).weight)
        energies = channel_order._energies(net, producers, x)[name]
        assert torch.equal(energies, energies.sort(descending=True).values)


def test_a_shared_weight_stays():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[4].weight = net[0].weight
    assert channel_producers(exported(net, (torch.randn(2, 6),), "net")) == {}
