"""What the dot kernels do with codes, see `targets/kernels/codebook_dot/rounding.h`: weights are rounded to int8 with
one scale for the matrix, inputs to 256 levels with a scale and a zero point for each row, or each image of a
convolution."""

from __future__ import annotations

import math

from torch import Tensor

from ..layers import ops
from ..layers.codebook import CodebookConv2d, Coded

_LEVELS = 255
_MOST = 127
_PARTS = 256  # of one level, that codewords are rounded to which are added up
MOST_COLUMNS = 65536  # sums of more do not fit into 32 bits


def rounded_matrix(layer: Coded) -> Tensor:
    """W with weights rounded as kernels do, (rows, columns) fp32."""
    f, words = layer.format, layer.codebook.float()
    scale = words.abs().amax((2, 3)).sum(0).max().clamp(min=1e-30) / _MOST
    parts = 1 if f.stages == 1 else _PARTS
    levels = (words * (parts / scale)).round()
    sums = ops.decode(layer.codes, levels, None, f.rows, f.columns, f.axis, f.tile)
    matrix = (sums / parts + 0.5).floor() * scale if parts > 1 else sums * scale
    return matrix if layer.scale is None else matrix * layer.scale[:, None]


def rounded_inputs(layer: Coded, x: Tensor) -> Tensor:
    """x (…, columns), or (N, channels, height, width) for a convolution, as multiples of the step of their range."""
    dims = (1, 2, 3) if isinstance(layer, CodebookConv2d) else (-1,)
    low, high = x.amin(dims, keepdim=True).clamp(max=0), x.amax(dims, keepdim=True).clamp(min=0)
    step = ((high - low) / _LEVELS).clamp(min=1e-30)
    zero = (-low / step).round()
    return ((x / step).round() + zero).clamp_(0, _LEVELS).sub_(zero).mul_(step)


def relative_error(layer: Coded, rows: Tensor, rounded_rows: Tensor) -> float:
    """‖Y' − Y‖/‖Y‖ of the outputs without bias, both roundings taken together.

    Args:
        rows, rounded_rows: (N, columns): what the matrix multiplies, and the same after `rounded_inputs`.
    """
    exact = rows @ layer.decode().T
    return ((rounded_rows @ rounded_matrix(layer).T - exact).norm() / exact.norm().clamp(min=1e-30)).item()


def positions(layer: Coded, x: Tensor) -> int:
    """How many inputs each weight meets when the layer is called with one of the samples x (N, …)."""
    if not isinstance(layer, CodebookConv2d):
        return x[0].numel() // layer.format.columns
    return math.prod(ops.output_sizes(x.shape[2:], **layer.geometry))
