"""CP decomposition: 1×1, d×1 and 1×d for every channel alone, 1×1 (Lebedev et al. 2015, §3).

K[t,s,i,j] ≈ Σ_r A[t,r]·B[s,r]·C[i,r]·D[j,r], by non-linear least squares (see `cpd`).
"""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import nn

from .. import lowrank
from ..calibration import Inputs
from ..cpd import decompose
from ..layers import Factored
from ..records import Cost

KINDS = ("conv",)


class Config(lowrank.Ranked):
    """rank: R, terms. steps: of non-linear least squares, after alternating ones."""

    steps: int = Field(20, ge=0)


def refuse(layer: nn.Module, config: Config) -> str:
    return lowrank.refusal(layer, lambda: structure(layer, config))


def predict(layer: nn.Module, config: Config) -> Cost:
    return lowrank.cost(structure(layer, config))


def structure(layer: nn.Module, config: Config) -> Factored:
    """The parts, without their weights."""

    def parts(rank: int) -> Factored:
        with torch.device("meta"):
            return Factored(
                lowrank.part(layer, layer.in_channels, rank),
                lowrank.part(layer, rank, rank, "h", groups=rank),
                lowrank.part(layer, rank, rank, "w", groups=rank),
                lowrank.part(layer, rank, layer.out_channels, last=True),
            )

    sizes = layer.weight.shape
    return parts(lowrank.choose_rank(layer, config, layer.weight.numel() // max(sizes), parts))


def compress(
    layer: nn.Module,
    config: Config,
    inputs: Inputs | None,
    seed: int,
    code: Callable[[nn.Module, Inputs | None], nn.Module] | None = None,
) -> nn.Module:
    parts = structure(layer, config)
    a, b, c, d = decompose(layer.weight.detach(), parts[0].out_channels, config.steps, seed)
    return lowrank.code_parts(lowrank.filled(parts, layer, b.T, c.T, d.T, a), code)
