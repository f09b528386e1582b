"""A net in half precision."""

import torch
from torch import nn


def build():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(net, nn.Flatten(), nn.LayerNorm(96), nn.Linear(96, 10)).half()


def example_inputs():
    return (torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1)).half(),)
