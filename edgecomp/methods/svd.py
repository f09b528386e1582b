"""Singular value decomposition: two thinner layers in place of one (Gong et al. 2014, §3.1).

W (m×n) ≈ B·A, A (R×n), B (m×R). With calibration inputs the product minimises ‖X(W−BA)ᵀ‖²: B spans the R strongest
directions of the layer's outputs, whose second moment is WHWᵀ, and A = BᵀW. A convolution becomes one with R outputs,
and a 1×1.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..fitting import lowrank
from ..fitting.calibration import Inputs
from ..layers import Factored
from ..layers.matrix import has_bias, kind_of, set_weight_matrix, unsupported, weight_matrix

KINDS = ("dense", "embedding")
CANDIDATES = tuple(f"rank={rank}" for rank in (0.006, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4))


class Config(lowrank.Ranked):
    DEFAULT: ClassVar[dict[str, float]] = {"rank": 0.1}

    least_rank: int = Field(
        16, ge=1, description="Layers of lower full rank, such as the last one of a classifier, are left alone."
    )
    fit: Literal["inputs", "plain"] = Field(
        "inputs", description="Minimise the error of the outputs on calibration inputs, or of the weights (plain)."
    )


def refuse(layer: nn.Module, config: Config) -> str:
    full = min(weight_matrix(layer).shape)
    if full < config.least_rank:
        return f"its rank is at most {full}, below least_rank={config.least_rank}"
    if unsupported(layer) or config.worth == 1:  # codes of the parts can be smaller even at full rank
        return unsupported(layer)
    return lowrank.not_worth(layer, structure(layer, config), config)


def unfolded(layer: nn.Module) -> Tensor:
    return weight_matrix(layer)


def from_factors(layer: nn.Module, left: Tensor, right: Tensor) -> Factored:
    """The two layers that a product in place of the weights of a dense layer or convolution makes."""
    with torch.device("meta"):
        empty = parts(layer, len(right))
    return lowrank.filled(empty, layer, right, left)


def largest_rank(layer: nn.Module) -> int:
    return min(weight_matrix(layer).shape)


def parts(layer: nn.Module, rank: int) -> Factored:
    bias = has_bias(layer)
    if kind_of(layer) == "embedding":
        return Factored(nn.Embedding(layer.num_embeddings, rank), nn.Linear(rank, layer.embedding_dim, bias=False))
    if kind_of(layer) == "dense":
        return Factored(nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=bias))
    geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return Factored(
        nn.Conv2d(layer.in_channels, rank, *geometry, bias=False), nn.Conv2d(rank, layer.out_channels, 1, bias=bias)
    )


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> Factored:
    return compress_coded(layer, config, inputs, seed, lambda part, _: part)


def compress_coded(
    layer: nn.Module,
    config: Config,
    inputs: Inputs | None,
    seed: int,
    code: Callable[[nn.Module, Inputs | None], nn.Module],
) -> Factored:
    """`code` turns a part into what takes its place; the second part then makes up for the errors of the first.

    Codes have the same number of bits for all weights, so a random rotation spreads what counts over all R directions
    (as QuIP does for whole layers, Chee et al. 2023, §4.1).
    """
    matrix = weight_matrix(layer)
    empty = structure(layer, config).to_empty(device="cpu")
    rank = min(weight_matrix(empty[0]).shape)
    inputs = None if config.fit == "plain" else inputs
    moment = None if inputs is None else inputs.damped
    left, right = _factors(matrix, inputs, rank)
    rotation = torch.linalg.qr(torch.randn(rank, rank, generator=torch.Generator().manual_seed(seed))).Q
    left, right = left @ rotation, rotation.T @ right
    if kind_of(layer) == "embedding":
        set_weight_matrix(empty[0], left)
        set_weight_matrix(empty[1], right.T)
        return Factored(code(empty[0], None), code(empty[1], None))

    set_weight_matrix(empty[0], right)
    first = code(empty[0], inputs)
    right = first.decode() if first is not empty[0] else right
    moved = right if moment is None else right @ moment
    set_weight_matrix(empty[1], matrix @ moved.T @ torch.linalg.pinv(moved @ right.T, hermitian=True, rtol=1e-6))
    if has_bias(layer):
        empty[1].bias.data.copy_(layer.bias.detach())
    second = code(empty[1], None if inputs is None else inputs.through(right))
    return Factored(first, second)


def _factors(matrix: Tensor, inputs: Inputs | None, rank: int) -> tuple[Tensor, Tensor]:
    """B (m×R) and A (R×n), whichever Gram matrix is smaller."""
    if inputs is None:
        left, right = _directions(matrix, None)
    else:  # those of all ranks, which are the same
        left, right = inputs.cached("svd", lambda: _directions(matrix, inputs.damped), matrix)
    if right is None:
        return left[:, -rank:], left[:, -rank:].T @ matrix
    return left[:, -rank:], right[-rank:]


def _directions(matrix: Tensor, moment: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """B and A of full rank, the strongest direction last; without A if it is BᵀW."""
    rows, columns = matrix.shape
    if rows <= columns:
        weighted = matrix if moment is None else matrix @ moment
        return torch.linalg.eigh(weighted @ matrix.T).eigenvectors, None
    factor = torch.eye(columns) if moment is None else torch.linalg.cholesky(moment)
    whitened = matrix @ factor
    basis = torch.linalg.eigh(whitened.T @ whitened).eigenvectors
    return whitened @ basis, torch.linalg.solve_triangular(factor, basis.T, upper=False, left=False)


_, predict, structure, settle = lowrank.interface(largest_rank, parts, compress, unsupported, unfolded)
