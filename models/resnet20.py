"""The residual network of He et al. (2016, §4.2) with 20 layers, for Fashion-MNIST: 1.1 MB, 8 M multiply-adds.

Three stages of three blocks with 16, 32 and 64 channels, and 1×1 convolutions where a shortcut changes its width. The
first convolution has stride 2, so that two cores train it in minutes. The weights are not shipped: `edgecomp train
models/resnet20.py` makes them once per user.
"""

import itertools

import torch
from torch import nn

from edgecomp.datasets import fashion_mnist
from edgecomp.train import Recipe

recipe = Recipe(epochs=4, batch=128, learning_rate=0.1, weight_decay=5e-4, seed=1, shift=1)
data = fashion_mnist


class Block(nn.Module):
    """(N, inputs, H, W) → (N, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """(N, 1, 28, 28) pixels in [0, 1] → (N, 10) logits; 6·blocks + 2 layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = [16, *[16] * blocks, *[32] * blocks, *[64] * blocks]
        self.blocks = nn.Sequential(*(Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)))
        self.dense = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.norm(self.conv(x)).relu())
        return self.dense(x.mean((2, 3)))


def build() -> nn.Module:
    return ResNet(blocks=3)


def example_inputs() -> tuple[torch.Tensor]:
    return (torch.zeros(1, 1, 28, 28),)
