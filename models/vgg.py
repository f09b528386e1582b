"""VGG-11 as it is used for CIFAR-10 (Simonyan & Zisserman 2015, with batch norms), for Fashion-MNIST: 4.6 MB.

Half as wide, so that two cores train it in minutes, and without the last two convolutions, for 28×28 images leave them
one pixel: 23 M multiply-adds. The weights are not shipped: `edgecomp train models/vgg.py` makes them once per user.
"""

import torch
from torch import nn

from edgecomp.datasets import fashion_mnist
from edgecomp.train import Recipe

recipe = Recipe(epochs=3, batch=128, learning_rate=0.05, weight_decay=5e-4, seed=1, shift=1)
data = fashion_mnist

_LAYERS = (32, "pool", 64, "pool", 128, 128, "pool", 256, 256)


def _features() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 1
    for width in _LAYERS:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """(N, 1, 28, 28) pixels in [0, 1] → (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.dense = nn.Linear(256 * 3 * 3, 10)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.dropout(self.features(x).flatten(1)))


def build() -> nn.Module:
    return VGG()


def example_inputs() -> tuple[torch.Tensor]:
    return (torch.zeros(1, 1, 28, 28),)
