"""CP decomposition: 1×1, d×1 and 1×d for every channel alone, 1×1 (Lebedev et al. 2015, §3).

K[t,s,i,j] ≈ Σ_r A[t,r]·B[s,r]·C[i,r]·D[j,r], by non-linear least squares (see `fitting.cp`). With inputs A is then
fitted to the outputs.
"""

from pydantic import Field
from torch import nn

from ..fitting import lowrank
from ..fitting.calibration import Inputs
from ..fitting.cp import decompose
from ..layers import Factored

KINDS = ("conv",)
CANDIDATES = ("macs=0.01", "macs=0.02", "macs=0.05")  # more terms take long to find


class Config(lowrank.Reconstructing):
    rank: lowrank.Rank = Field(None, description="R: terms of the sum; below 1 a fraction of the largest one.")
    steps: int = Field(20, ge=0, description="Steps of non-linear least squares, after alternating least squares.")


def largest_rank(layer: nn.Conv2d) -> int:
    return layer.weight.numel() // max(layer.weight.shape)


def parts(layer: nn.Conv2d, rank: int) -> Factored:
    return Factored(
        lowrank.part(layer, layer.in_channels, rank),
        lowrank.part(layer, rank, rank, "h", groups=rank),
        lowrank.part(layer, rank, rank, "w", groups=rank),
        lowrank.part(layer, rank, layer.out_channels, last=True),
    )


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> Factored:
    empty = structure(layer, config)
    a, b, c, d = decompose(layer.weight.detach(), empty[0].out_channels, config.steps, seed)
    parts, inputs = lowrank.filled(empty, layer, b.T, c.T, d.T, a), config.fitted_to(inputs)
    return parts if inputs is None else lowrank.refit_last(parts, layer, inputs)


refuse, predict, structure, settle = lowrank.interface(largest_rank, parts, compress)
