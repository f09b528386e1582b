"""Scheme 1: M separable basis filters on every input channel, then a 1×1 (Jaderberg et al. 2014, §2.1, eq. 4).

K[t,s] ≈ Σ_m a[t,s,m]·v_m·h_mᵀ, the T·S filters of d×d in a basis of M filters that all input channels share, each an
outer product: a CP decomposition of all filters. With data reconstruction (§2.3) a is fitted to the layer's outputs.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from ..fitting import lowrank
from ..fitting.calibration import Inputs
from ..fitting.cp import decompose
from ..layers import Factored

KINDS = ("conv",)
CANDIDATES = ("macs=0.1", "macs=0.2", "macs=0.35", "macs=0.6")
_STEPS = 20  # of non-linear least squares


class Config(lowrank.Reconstructing):
    rank: lowrank.Rank = Field(None, description="M: basis filters; below 1 a fraction of the largest one.")


def largest_rank(layer: nn.Conv2d) -> int:
    height, width = layer.kernel_size
    return height * width


def parts(layer: nn.Conv2d, rank: int) -> Factored:
    channels, many = layer.in_channels, layer.in_channels * rank
    return Factored(
        lowrank.part(layer, channels, many, "h", groups=channels),
        lowrank.part(layer, many, many, "w", groups=many),
        lowrank.part(layer, many, layer.out_channels, last=True),
    )


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> Factored:
    empty = structure(layer, config)
    rank = empty[0].out_channels // layer.in_channels
    v, h = _basis(layer.weight.detach().float().flatten(0, 1), rank, seed)
    spread = [part.repeat(layer.in_channels, 1) for part in (v, h)]
    parts = lowrank.filled(empty, layer, *spread, torch.zeros(empty[2].weight.shape))
    return lowrank.refit_last(parts, layer, config.fitted_to(inputs))


def _basis(filters: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """v (M, h) and h (M, w) whose outer products span the filters (count, h, w) best: a CP decomposition."""
    # The second moment of the filters says as much as they do, and is small.
    strength, modes = torch.linalg.eigh(torch.einsum("cij,ckl->ijkl", filters, filters).flatten(2).flatten(0, 1))
    small = (modes * strength.clamp(min=0).sqrt()).T.unflatten(1, filters.shape[1:])  # (h·w, h, w)
    _, v, h, _ = decompose(small[..., None], rank, _STEPS, seed)
    return nn.functional.normalize(v.T, dim=1), nn.functional.normalize(h.T, dim=1)


refuse, predict, structure, settle = lowrank.interface(largest_rank, parts, compress)
