"""int8: weights of 8 bits with one scale per output channel, multiplied as integers.

Ŵ = α·Q, Q integers from −127 to 127, α = max|w|/127 of each row (Jacob et al. 2018, §2.1; per channel: Krishnamoorthi
2018, §3.1). Rounding to nearest is enough: on the default model the best α by ‖W−Ŵ‖² lowers that by under 1 %, and
error feedback (see `feedback`), which halves the error of the outputs, keeps no more answers: that of the inputs stays.
"""

from typing import Literal

import torch
from torch import nn

from ..calibration import Inputs
from ..layers.matrix import has_bias, kind_of, quantized_layer, unpaddable, weight_matrix
from ..records import Cost, Record

KINDS = ("dense", "conv")
_LARGEST = 127
_SPREAD = 2.0**-16  # least scale of a row, of the layer's largest: a static layer's bias is an int32 in units of it


class Config(Record):
    """activations: how a layer's inputs are rounded to int8. `dynamic`: with scales chosen at run time; outputs stay
    fp32. `static`: with scales fixed by the ranges that calibration data showed, and outputs so too."""

    activations: Literal["dynamic", "static"] = "dynamic"


def refuse(layer: nn.Module, config: Config) -> str:
    if kind_of(layer) == "embedding":
        return "int8 is for layers that multiply; kmeans and pq take embeddings"
    if kind_of(layer) == "conv" and layer.in_channels == layer.groups and config.activations == "dynamic":
        return "one input channel per group: no int8 kernel chooses scales at run time; --set activations=static"
    return unpaddable(layer)


def predict(layer: nn.Module, config: Config) -> Cost:
    weights = layer.weight.numel()
    return Cost(bytes=weights + 4 * len(layer.weight) * (1 + has_bias(layer)), macs=weights)


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> nn.Module:
    matrix = weight_matrix(layer)
    peaks = matrix.abs().amax(1)
    floor = _SPREAD * peaks.max()
    scale = (peaks.clamp(min=floor) if floor > 0 else torch.ones_like(peaks)) / _LARGEST
    codes = (matrix / scale[:, None]).round().clamp(-_LARGEST, _LARGEST)
    return quantized_layer(layer, codes, scale, config.activations == "static")
