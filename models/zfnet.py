"""The network of Gong et al. (2014), after Zeiler & Fergus, fitted to 28×28: 220 MB as fp32.

Five convolutions with kernels 7, 5, 3, 3, 3 (25 M multiply-adds together) and dense layers 9216→4096→4096→10,
which hold 99 % of the bytes. Batch norms stand where the original has local response normalisation.
The weights are not shipped: `edgecomp train models/zfnet.py` makes them once per user.
"""

import torch
from torch import nn

from edgecomp.datasets import fashion_mnist
from edgecomp.train import Recipe

recipe = Recipe(epochs=3, batch=128, learning_rate=0.03, weight_decay=5e-4, seed=1, shift=0)
data = fashion_mnist


def _convolution(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class ZFNet(nn.Module):
    """(N, 1, 28, 28) pixels in [0, 1] → (N, 10) logits."""

    def __init__(self, width: int = 4096) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, 32, 7),
            nn.MaxPool2d(3, 2, padding=1),
            *_convolution(32, 64, 5),
            nn.MaxPool2d(3, 2),
            *_convolution(64, 96, 3),
            *_convolution(96, 96, 3),
            *_convolution(96, 256, 3),
        )
        self.dense1 = nn.Linear(256 * 6 * 6, width)
        self.dense2 = nn.Linear(width, width)
        self.dense3 = nn.Linear(width, 10)
        self.dropout = nn.Dropout(0.5)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 4096) activations of the last hidden layer, the features of the paper's image retrieval."""
        x = self.features(x).flatten(1)
        x = self.dropout(self.dense1(self.dropout(x)).relu())
        return self.dense2(x).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense3(self.hidden(x))


def build() -> nn.Module:
    return ZFNet()


def head_start() -> tuple[nn.Module, Recipe]:
    """The convolutions learn below narrow dense layers first, which is three times as fast."""
    return ZFNet(width=512), recipe.model_copy(update={"epochs": 7, "learning_rate": 0.05})


def example_inputs() -> tuple[torch.Tensor]:
    return (torch.zeros(1, 1, 28, 28),)
