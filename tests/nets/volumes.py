"""Convolutions over three dimensions: strides, "same", groups, transposed; group norms, PReLU, a trilinear resize."""

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv3d(2, 16, 3, stride=(1, 2, 2), padding=1), nn.GroupNorm(4, 16)
        self.act, self.b = nn.PReLU(16), nn.Conv3d(16, 16, (3, 1, 3), padding="same", dilation=(2, 1, 1), bias=False)
        self.bn, self.c = nn.BatchNorm3d(16), nn.Conv3d(16, 16, 3, padding=1, groups=4)
        self.up, self.pool = nn.ConvTranspose3d(16, 8, 2, 2), nn.MaxPool3d(2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = self.act(self.norm(self.a(x)))
        y = F.relu(self.bn(self.b(y)), inplace=True) + y
        y = self.up(self.pool(self.c(y)))
        return self.fc(y.mean((2, 3, 4)))


def build():
    torch.manual_seed(0)
    return Net()


def example_inputs():
    return (torch.randn(1, 2, 6, 12, 12, generator=torch.Generator().manual_seed(1)),)
