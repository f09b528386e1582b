"""Tucker-2: a 1×1 convolution to fewer channels, the d×d one between fewer, a 1×1 back (Kim et al. 2016, §3).

K ≈ Σ C[p,q]·U[t,p]·V[s,q], by higher-order orthogonal iteration; with inputs U is then fitted to the outputs. R is the
rank of the larger side, the other's is in proportion.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from ..fitting import lowrank
from ..fitting.calibration import Inputs
from ..layers import Factored

KINDS = ("conv",)
CANDIDATES = ("macs=0.1", "macs=0.2", "macs=0.35", "macs=0.6")
_ROUNDS = 10


class Config(lowrank.Reconstructing):
    rank: lowrank.Rank = Field(
        None, description="R: of the larger side, inputs or outputs; below 1 a fraction of the largest one."
    )


def largest_rank(layer: nn.Conv2d) -> int:
    return max(layer.in_channels, layer.out_channels)


def parts(layer: nn.Conv2d, rank: int) -> Factored:
    few, many = (-(-side * rank // largest_rank(layer)) for side in (layer.in_channels, layer.out_channels))
    return Factored(
        lowrank.part(layer, layer.in_channels, few),
        lowrank.part(layer, few, many, "hw"),
        lowrank.part(layer, many, layer.out_channels, last=True),
    )


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> Factored:
    empty = structure(layer, config)
    kernel = layer.weight.detach().float().flatten(2)  # (T, S, d²)
    right = _basis(kernel.transpose(0, 1), empty[0].out_channels)
    for _ in range(_ROUNDS):
        left = _basis(torch.einsum("tsx,sq->tqx", kernel, right), empty[1].out_channels)
        right = _basis(torch.einsum("tsx,tp->spx", kernel, left), empty[0].out_channels)
    core = torch.einsum("tsx,tp,sq->pqx", kernel, left, right)
    parts, inputs = lowrank.filled(empty, layer, right.T, core, left), config.fitted_to(inputs)
    return parts if inputs is None else lowrank.refit_last(parts, layer, inputs)


def _basis(tensor: Tensor, rank: int) -> Tensor:
    """The strongest directions of the first axis, (size, R)."""
    rows = tensor.flatten(1)
    return torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -rank:]


refuse, predict, structure, settle = lowrank.interface(largest_rank, parts, compress)
