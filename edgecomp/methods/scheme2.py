"""Scheme 2: a d×1 convolution to R channels, then a 1×d one (Jaderberg et al. 2014, §2.1, eq. 6).

K[t,s,i,j] ≈ Σ_r h[t,r,j]·v[r,s,i]. Filter reconstruction minimises ‖W−Ŵ‖²: the SVD of K as a matrix (S·d)×(T·d). Data
reconstruction (§2.3) minimises ‖X(W−Ŵ)ᵀ‖² from there, by alternating least squares: h in closed form, v by conjugate
gradients. `joint`: X is what the already approximated layers before give, the target what the original layers gave.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from ..fitting import lowrank
from ..fitting.calibration import Inputs
from ..layers import Factored
from ..layers.matrix import weight_matrix

KINDS = ("conv",)
CANDIDATES = ("macs=0.1", "macs=0.2", "macs=0.35", "macs=0.6")
_ROUNDS = 8
_STEPS = 8  # of conjugate gradients


class Config(lowrank.Reconstructing):
    rank: lowrank.Rank = Field(
        None, description="R: channels between the two convolutions; below 1 a fraction of the largest one."
    )


def largest_rank(layer: nn.Conv2d) -> int:
    height, width = layer.kernel_size
    return min(layer.in_channels * height, layer.out_channels * width)


def parts(layer: nn.Conv2d, rank: int) -> Factored:
    return Factored(
        lowrank.part(layer, layer.in_channels, rank, "h"), lowrank.part(layer, rank, layer.out_channels, "w", last=True)
    )


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> Factored:
    empty = structure(layer, config)
    rank = empty[0].out_channels
    left, values, right = torch.linalg.svd(unfolded(layer), full_matrices=False)
    root = values[:rank].sqrt()
    v, h = _folded(layer, left[:, :rank] * root, right[:rank] * root[:, None])
    inputs = config.fitted_to(inputs)
    if inputs is not None:
        v, h = _fit_outputs(weight_matrix(layer), inputs.damped, v, layer.kernel_size[1])
    return lowrank.filled(empty, layer, v.transpose(1, 2), h)


def unfolded(layer: nn.Conv2d) -> Tensor:
    """K as a matrix: rows run over (i, s), columns over (t, j)."""
    return layer.weight.detach().float().permute(2, 1, 0, 3).flatten(2, 3).flatten(0, 1)


def from_factors(layer: nn.Conv2d, left: Tensor, right: Tensor) -> Factored:
    """The parts that a product in place of `unfolded(layer)` makes."""
    v, h = _folded(layer, left, right)
    with torch.device("meta"):
        empty = parts(layer, len(right))
    return lowrank.filled(empty, layer, v.transpose(1, 2), h)


def _folded(layer: nn.Conv2d, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """v (R, h, S) and h (T, R, w) of the two factors of K as a matrix."""
    height, width = layer.kernel_size
    return left.T.unflatten(1, (height, -1)), right.unflatten(1, (-1, width)).transpose(0, 1)


def _fit_outputs(matrix: Tensor, moment: Tensor, v: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """v (R, h, S) and h (T, R, w) that minimise tr((W−Ŵ)H(W−Ŵ)ᵀ), Ŵ (T, h·w·S) made of them."""
    rank = len(v)
    goal = matrix @ moment
    for sweep in range(_ROUNDS):
        basis = torch.einsum("ris,jk->rjiks", v, torch.eye(width)).reshape(rank * width, -1)
        gram = basis @ moment @ basis.T
        gram.diagonal().add_(1e-6 * gram.diagonal().mean())
        h = torch.linalg.solve(gram, basis @ goal.T).T.unflatten(1, (rank, width))
        if sweep + 1 < _ROUNDS:
            v = _fit_first(goal, moment, v, h)
    return v, h


def _fit_first(goal: Tensor, moment: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """A few steps of conjugate gradients towards the best v, given h and WH."""

    def made(v: Tensor) -> Tensor:
        return torch.einsum("trj,ris->tijs", h, v).flatten(1)

    def adjoint(matrix: Tensor) -> Tensor:
        return torch.einsum("tijs,trj->ris", matrix.unflatten(1, (v.shape[1], h.shape[2], v.shape[2])), h)

    return lowrank.conjugate_gradients(lambda v: adjoint(made(v) @ moment), adjoint(goal), v, _STEPS)


refuse, predict, structure, settle = lowrank.interface(largest_rank, parts, compress, unfolded=unfolded)
