"""Weights rounded to a grid of 8, 4 or 2 bits with one scale per output channel: what int8, int4 and int2 share.

Ŵ = α·Q, Q integers of the grid, α one factor per row. `nearest` lets α be that of the largest weight. `plain` takes the
α of the least ‖W−Ŵ‖², `feedback` that of ‖X(W−Ŵ)ᵀ‖², with Q by error feedback (GPTQ: Frantar et al. 2022, §3).
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..layers import CodeFormat
from ..layers.codebook import Coded
from ..layers.matrix import coded_layer, has_bias, kind_of, quantized_layer, unpaddable, unsupported, weight_matrix
from ..layers.quantized import LEVELS_OF_WEIGHTS, Arithmetic
from ..records import Cost, Record
from .calibration import Inputs
from .error_feedback import Fit, Passes, code_rows

_SPREAD = 2.0**-16  # least scale of a row, of the layer's largest: a static layer's bias is an int32 in units of it
# Where the search for a row's scale begins, in units of its weights' root mean square: about the best step for normal
# weights, and for such as have longer tails. Every start is improved so many times.
_STARTS = {4: (0.2, 0.27, 0.34, 0.45, 0.6, 0.8, 1.1), 2: (0.5, 0.75, 1.0, 1.3, 1.7, 2.4)}
_STEPS = 3
_STRIP = 1 << 22  # weights treated at once


class Config(Record):
    """What all integer methods let one set."""

    activations: Literal["auto", "dynamic", "static"] = Field(
        "auto",
        description="How inputs are rounded to int8. dynamic: with scales chosen at run time; outputs stay fp32. "
        "static: with scales fixed by calibration data, outputs too. auto: what the runtime is faster at; dynamic "
        "without data.",
    )


class CalibratedConfig(Config):
    """The same where weights have so few bits that they are fitted to the inputs."""

    fit: Fit = "feedback"
    passes: Passes = 1


def interface(bits: int) -> tuple[Callable[..., str], Callable[..., Cost], Callable[..., nn.Module], Callable]:
    """`refuse`, `predict`, `compress` and `arithmetic` of the method that stores so many bits a weight."""

    def refuse(layer: nn.Module, config: Config) -> str:
        return unsupported(layer) if kind_of(layer) == "embedding" else unpaddable(layer)

    def predict(layer: nn.Module, config: Config) -> Cost:
        weights = layer.weight.numel()
        if kind_of(layer) == "embedding":
            return _rows_format(layer, bits).cost(bias=False)
        return Cost(bytes=-(-weights * bits // 8) + 4 * len(layer.weight) * (1 + has_bias(layer)), macs=weights)

    def arithmetic(config: Config) -> Arithmetic:
        return Arithmetic(bits, config.activations == "static")

    def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> nn.Module:
        matrix = weight_matrix(layer)
        if not isinstance(config, CalibratedConfig):
            codes, scale = nearest(matrix, bits)
        else:
            codes, scale = plain(matrix, bits)
            if inputs is not None and config.fit == "feedback":
                codes, scale = code_rows(
                    matrix, inputs.damped, inputs.upper_factor, codes, scale, _rounder(bits), config.passes
                )
                scale = _spread(scale)
        if kind_of(layer) == "embedding":
            return _rows_of_integers(layer, codes, scale, bits)
        return quantized_layer(layer, codes, scale, arithmetic(config))

    return refuse, predict, compress, arithmetic


def _rows_format(layer: nn.Module, bits: int) -> CodeFormat:
    rows, columns = layer.weight.shape
    return CodeFormat(rows=rows, columns=columns, k=2**bits, s=1, scaled=True)


def _rows_of_integers(layer: nn.Module, codes: Tensor, scale: Tensor, bits: int) -> Coded:
    """What is looked up is not multiplied: the integers are codes, and the levels they stand for the codebook."""
    form, lowest = _rows_format(layer, bits), -(2 ** (bits - 1))
    levels = torch.arange(lowest, lowest + form.k, dtype=torch.float32)
    index = (codes - lowest).to(torch.uint8).T
    return coded_layer(layer, form, index[None], levels[None, None, :, None], scale)


def nearest(matrix: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Q (rows, columns) and α (rows,) with every weight within the grid."""
    scale = _spread(matrix.abs().amax(1) / LEVELS_OF_WEIGHTS[bits][1])
    return _rounder(bits)(matrix, scale), scale


def plain(matrix: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The same with the α of the least ‖W−Ŵ‖² that is found from several starts."""
    rows = max(1, _STRIP // matrix.shape[1])
    scale = _spread(torch.cat([_least_squares(strip, bits) for strip in matrix.split(rows)]))
    return _rounder(bits)(matrix, scale), scale


def _least_squares(matrix: Tensor, bits: int) -> Tensor:
    """α of every row: rounding and the best α for what was rounded, in turns, from every start."""
    lowest, highest = LEVELS_OF_WEIGHTS[bits]
    high, low, size = matrix.amax(1), matrix.amin(1), matrix.square().mean(1).sqrt()
    starts = [torch.maximum(high / highest, low / lowest), *(factor * size for factor in _STARTS[bits])]
    best, least = torch.zeros(len(matrix)), torch.full((len(matrix),), torch.inf)
    for scale in starts:
        for _ in range(_STEPS):
            codes = _rounder(bits)(matrix, scale)
            power = codes.square().sum(1)
            scale = torch.where(power > 0, (matrix * codes).sum(1) / power.clamp(min=1), scale)
            error = (matrix - scale[:, None] * codes).square().sum(1)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def _rounder(bits: int) -> Callable[[Tensor, Tensor], Tensor]:
    """(weights (rows, …), α (rows,)) → the nearest integers of the grid."""

    def rounded(matrix: Tensor, scale: Tensor) -> Tensor:
        return (matrix / scale[:, None].clamp(min=1e-30)).round_().clamp_(*LEVELS_OF_WEIGHTS[bits])

    return rounded


def _spread(scale: Tensor) -> Tensor:
    """Scales that are neither zero nor tiny beside the layer's largest."""
    floor = _SPREAD * scale.max()
    return scale.clamp(min=floor) if floor > 0 else torch.full_like(scale, 1 / 128)
