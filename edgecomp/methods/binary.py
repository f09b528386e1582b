"""Binary weights: the sign of every weight and one scale per row (Gong et al. 2014, §3.2.1; ternary as an option).

Ŵ = α·Q with Q of −1 and 1 (and 0 if ternary), α one factor per row: of BWN (Rastegari et al. 2016, §3.1) the optimum
α = mean|w|, Q = sign(W), and with calibration inputs that of ‖X(W−Ŵ)ᵀ‖²: Q by error feedback, α = (wHq)/(qHq).
Several weights make one code, whose codebook lists all their patterns, so that the lookup kernels apply.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..fitting.calibration import Inputs
from ..fitting.error_feedback import Fit, Passes, code_rows
from ..fitting.tables import TableConfig
from ..layers import CodeFormat
from ..layers.matrix import coded_layer, has_bias, unsupported, weight_matrix
from ..records import Cost, Knob

KINDS = ("dense", "embedding")
CODES = True
CANDIDATES = ("ternary=false", "ternary=true")
_ROUNDS = 5  # of threshold and scale, for ternary weights without inputs


class Config(TableConfig):
    KNOB: ClassVar[Knob] = Knob("ternary", (True, False))

    ternary: bool = Field(False, description="Weights may also be 0, which takes 2 bits instead of 1.")
    fit: Fit = "feedback"
    passes: Passes = 1


def refuse(layer: nn.Module, config: Config) -> str:
    return unsupported(layer)


def predict(layer: nn.Module, config: Config) -> Cost:
    return _format(layer, config).cost(has_bias(layer))


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> nn.Module:
    form, matrix = _format(layer, config), weight_matrix(layer)
    if inputs is None or config.fit == "plain":
        signs, scale = _plain(matrix, config.ternary)
    else:
        signs, scale = _calibrated(matrix, inputs, config)
    return config.applied(coded_layer(layer, form, _codes(signs, form), _patterns(form)[None, None], scale))


def _format(layer: nn.Module, config: Config) -> CodeFormat:
    """Patterns of four signs, or of two of three values, fill the 16 entries of a lookup table."""
    rows, columns = weight_matrix(layer).shape
    k, s = (9, 2) if config.ternary else (16, 4)
    return CodeFormat(rows=rows, columns=columns, k=k, s=s, scaled=True)


def _plain(matrix: Tensor, ternary: bool) -> tuple[Tensor, Tensor]:
    scale = matrix.abs().mean(1)
    signs = _signs(matrix, scale, ternary)
    for _ in range(_ROUNDS if ternary else 0):
        scale = (matrix * signs).sum(1) / signs.abs().sum(1).clamp(min=1)
        signs = _signs(matrix, scale, ternary)
    return signs, scale


def _calibrated(matrix: Tensor, inputs: Inputs, config: Config) -> tuple[Tensor, Tensor]:
    signs, scale = _plain(matrix, config.ternary)

    def rounded(target: Tensor, scale: Tensor) -> Tensor:
        return _signs(target, scale, config.ternary)

    return code_rows(matrix, inputs.damped, inputs.upper_factor, signs, scale, rounded, config.passes)


def _signs(matrix: Tensor, scale: Tensor, ternary: bool) -> Tensor:
    signs = torch.where(matrix < 0, -1.0, 1.0)
    return signs * (matrix.abs() > scale[:, None] / 2) if ternary else signs


def _patterns(form: CodeFormat) -> Tensor:
    """(k, s): the values of each code, the first one counting fastest."""
    levels = torch.tensor([-1.0, 1.0] if form.k == 16 else [-1.0, 0.0, 1.0])
    digits = torch.arange(form.k)[:, None] // len(levels) ** torch.arange(form.s)
    return levels[digits % len(levels)]


def _codes(signs: Tensor, form: CodeFormat) -> Tensor:
    """(1, blocks, lanes)."""
    base = 2 if form.k == 16 else 3
    digits = (signs > 0).to(torch.uint8) if base == 2 else (signs + 1).to(torch.uint8)
    padded = nn.functional.pad(digits, (0, form.blocks * form.s - form.columns)).unflatten(1, (-1, form.s))
    powers = base ** torch.arange(form.s, dtype=torch.uint8)
    return (padded * powers).sum(2, dtype=torch.uint8).T[None]
