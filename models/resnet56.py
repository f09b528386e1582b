"""The residual network of He et al. (2016, §4.2) with 56 layers, for Fashion-MNIST: 3.4 MB, 24 M multiply-adds.

As resnet20 with nine blocks in each stage. The weights are not shipped: `edgecomp train models/resnet56.py` makes them
once per user.
"""

import importlib.util
from pathlib import Path

from torch import nn

from edgecomp.datasets import fashion_mnist

_spec = importlib.util.spec_from_file_location("edgecomp_model_resnet20", Path(__file__).with_name("resnet20.py"))
_resnet20 = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_resnet20)

recipe, example_inputs, data = _resnet20.recipe, _resnet20.example_inputs, fashion_mnist


def build() -> nn.Module:
    return _resnet20.ResNet(blocks=9)
