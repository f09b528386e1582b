"""A conformer-like block: gated convolutions over time, a class that only changes its parent's forward, log-softmax."""

import torch
from torch import nn
from torch.nn import functional as F


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 0.5


class Causal(nn.Conv1d):
    def forward(self, x):
        return super().forward(F.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class Net(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.subsample = nn.Conv2d(1, 8, 3, stride=2)
        self.into, self.norm = Scaled(8 * 9, dim), nn.LayerNorm(dim)
        self.point, self.depth = nn.Conv1d(dim, 2 * dim, 1), Causal(dim, dim, 5, groups=dim)
        self.bn, self.back = nn.BatchNorm1d(dim), Causal(dim, dim, 3, dilation=2)
        self.out = nn.Linear(dim, 30)

    def forward(self, features):
        x = F.relu(self.subsample(features[:, None]))
        b, c, t, f = x.shape
        x = self.into(x.transpose(1, 2).reshape(b, t, c * f))
        y = F.glu(self.point(self.norm(x).mT), dim=1)
        y = self.back(F.silu(self.bn(self.depth(y))))
        return F.log_softmax(self.out(x + y.mT), -1)


def build():
    torch.manual_seed(0)
    return Net()


def example_inputs():
    return (torch.randn(1, 21, 20, generator=torch.Generator().manual_seed(1)),)
