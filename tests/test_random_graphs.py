"""Random graphs of adds, concats, shared layers, subclasses and functional calls: the canonical net is the module."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_any_net import layers_of, net_of
from torch import nn
from torch.nn import functional as F

WIDTH = 8


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class NormAct(nn.BatchNorm1d):
    def forward(self, x):
        return F.silu(super().forward(x))


class RandomNet(nn.Module):
    """What a list of steps says: each takes two values made before, and makes one; all end in the output."""

    STEPS = ("dense", "shared", "own", "functional", "turned", "add", "concat", "norm", "act", "layer_norm", "write")

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.shared, self.free = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH))
        makes = {
            "dense": lambda: nn.Linear(WIDTH, WIDTH),
            "own": lambda: Doubled(WIDTH, WIDTH),
            "concat": lambda: nn.Linear(2 * WIDTH, WIDTH, bias=False),
            "norm": lambda: nn.BatchNorm1d(WIDTH),
            "act": lambda: NormAct(WIDTH),
        }
        self.layers = nn.ModuleList(makes.get(step, nn.Identity)() for step, _, _ in steps)
        for layer in self.layers:
            if isinstance(layer, nn.BatchNorm1d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)

    def forward(self, x):
        values = [x]
        for (step, first, second), layer in zip(self.steps, self.layers, strict=True):
            a, b = values[first % len(values)], values[second % len(values)]
            made = getattr(self, f"_{step}", lambda layer, a, b: layer(a))(layer, a, b)
            values.append(made / (1 + made.abs().mean()))
        return torch.cat(values[1:], -1)

    def _shared(self, layer, a, b):
        return self.shared(a) - self.shared(b)

    def _functional(self, layer, a, b):
        return F.linear(a, self.shared.weight, self.free)

    def _turned(self, layer, a, b):
        return a @ self.shared.weight

    def _add(self, layer, a, b):
        return a + b * self.free

    def _concat(self, layer, a, b):
        return layer(torch.cat([a, b], 1))

    def _layer_norm(self, layer, a, b):
        return F.layer_norm(a + b, (WIDTH,), self.free)

    def _write(self, layer, a, b):
        return F.relu(a).clone().mul_(0.5).add_(b)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.sampled_from(RandomNet.STEPS), st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=9),
    st.integers(0, 99),
)
def test_random_graphs(steps, seed):
    torch.manual_seed(seed)
    net, worst = net_of(RandomNet(steps), torch.randn(1, WIDTH))
    assert worst < 1e-5
    weights = {step for step, _, _ in steps} & {"dense", "shared", "own", "functional", "turned", "concat"}
    assert bool(layers_of(net)) == bool(weights)
