"""A regressor in double precision, with an input that is one number for all samples."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 64), nn.Softplus(), nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 1))
        self.register_buffer("mean", torch.randn(20, dtype=torch.float64))

    def forward(self, x, temperature):
        return self.layers(x - self.mean)[:, 0] / temperature


def build():
    torch.manual_seed(0)
    return Net().double()


def example_inputs():
    x = torch.randn(4, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.tensor(2.0, dtype=torch.float64)
