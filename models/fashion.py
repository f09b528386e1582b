"""The embedded default: two convolutions and two dense layers for Fashion-MNIST, 8 MB as fp32.

What `edgecomp build` compresses when no model is named. The weights lie beside this file as fp16.
"""

from pathlib import Path

import torch
from torch import nn

from edgecomp.datasets import fashion_mnist
from edgecomp.train import Recipe

weights = Path(__file__).with_suffix(".safetensors")
recipe = Recipe(epochs=30, batch=128, learning_rate=0.05, weight_decay=5e-4, seed=1)
data = fashion_mnist


class Fashion(nn.Module):
    """(N, 1, 28, 28) pixels in [0, 1] → (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.dense1 = nn.Linear(32 * 7 * 7, 1280)
        self.dense2 = nn.Linear(1280, 10)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x).flatten(1)
        x = self.dropout(self.dense1(self.dropout(x)).relu())
        return self.dense2(x)


def build() -> nn.Module:
    return Fashion()


def example_inputs() -> tuple[torch.Tensor]:
    return (torch.zeros(1, 1, 28, 28),)
