"""The character classifier of Jaderberg et al. (2014) and Lebedev et al. (2015): four maxout convolutions, 10.5 MB.

Grey 24×24 images of 36 characters. The second and third layer hold over 90 % of the multiply-adds. The weights are not
shipped: `edgecomp train models/charnet.py` makes them once per user.
"""

import torch
from torch import nn

from edgecomp.datasets import characters
from edgecomp.train import Recipe

recipe = Recipe(epochs=6, batch=128, learning_rate=0.02, weight_decay=5e-4, seed=1, shift=0, flip=False)
data = characters


class Maxout(nn.Module):
    """The largest of `pieces` neighbouring groups of channels: (N, pieces·C, H, W) → (N, C, H, W)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *others = x.chunk(self.pieces, 1)
        for other in others:
            first = torch.maximum(first, other)
        return first


class CharNet(nn.Module):
    """(N, 1, 24, 24) images of mean 0 and variance 1 → (N, 36) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 96, 9), nn.Conv2d(48, 128, 9)
        self.conv3, self.conv4 = nn.Conv2d(64, 512, 8), nn.Conv2d(128, 144, 1)
        self.maxout2, self.maxout4 = Maxout(2), Maxout(4)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxout2(self.conv1(x))
        x = self.dropout(self.maxout2(self.conv2(x)))
        x = self.dropout(self.maxout4(self.conv3(x)))
        return self.maxout4(self.conv4(x)).flatten(1)


def build() -> nn.Module:
    return CharNet()


def example_inputs() -> tuple[torch.Tensor]:
    return (torch.zeros(1, 1, 24, 24),)
