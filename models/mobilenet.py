"""MobileNet (Howard et al. 2017), half as wide and shorter, for Fashion-MNIST: depthwise and 1×1 convolutions, 1.1 MB.

The weights are not shipped: `edgecomp train models/mobilenet.py` makes them once per user.
"""

import torch
from torch import nn

from edgecomp.datasets import fashion_mnist
from edgecomp.train import Recipe

recipe = Recipe(epochs=5, batch=128, learning_rate=0.1, weight_decay=1e-4, seed=1, shift=1)
data = fashion_mnist

_LAYERS = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 256, 1))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class MobileNet(nn.Module):
    """(N, 1, 28, 28) pixels in [0, 1] → (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        layers = _convolution(1, 32, 3, 2)
        for inputs, outputs, stride in _LAYERS:
            layers += [*_convolution(inputs, inputs, 3, stride, inputs), *_convolution(inputs, outputs, 1, 1)]
        self.features = nn.Sequential(*layers)
        self.dense = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.features(x).mean((2, 3)))


def build() -> nn.Module:
    return MobileNet()


def example_inputs() -> tuple[torch.Tensor]:
    return (torch.zeros(1, 1, 28, 28),)
