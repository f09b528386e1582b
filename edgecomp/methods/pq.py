"""Product quantization: segments of s neighbouring weights share k codewords (Gong et al. 2014, §3.2.3).

W is cut into blocks of s columns (axis x) or s rows (axis y); the pieces of a block are clustered by k-means and each
is stored as the number of its codeword. With calibration inputs the clusters minimise the error of the layer's
outputs, ‖X(W−Ŵ)ᵀ‖², block by block: distances are measured in the metric H_i of the block's inputs (METHODS.md §1).
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .. import kmeans
from ..calibration import Inputs
from ..layers import CodeFormat
from ..layers.matrix import empty_coded, unsupported, weight_matrix
from ..records import Cost, Record

KINDS = ("dense", "embedding")
_DAMPING = 0.01


class Config(Record):
    """k: codewords per codebook (codes take ⌈log2 k⌉ bits). s: segment length (weights per code). axis: segments run
    along the inputs (x) or the outputs (y). codebooks: every block has its `own`, or all share one (`shared`).
    codebook_dtype: how codewords are stored. iterations: of k-means."""

    k: int = Field(16, ge=2, le=256)
    s: int = Field(4, ge=1, le=64)
    axis: Literal["x", "y"] = "x"
    codebooks: Literal["own", "shared"] = "own"
    codebook_dtype: Literal["float16", "float32"] = "float16"
    iterations: int = Field(15, ge=1)


def refuse(layer: nn.Module, config: Config) -> str:
    return unsupported(layer)


def predict(layer: nn.Module, config: Config) -> Cost:
    format = _format(layer, config)
    bias = 0 if layer.bias is None else 4 * len(layer.bias)
    tables = format.stages * format.blocks * format.s * format.k if config.axis == "x" else format.codes_bytes
    return Cost(bytes=format.bytes + bias, macs=tables + format.stages * format.blocks * format.lanes)


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> nn.Module:
    format = _format(layer, config)
    points = _segments(weight_matrix(layer), config)
    weights, metric = None, None
    if inputs is not None and config.axis == "x":
        metric = _metric(inputs, config.s)
        if config.codebooks == "shared":
            metric = metric.mean(0, keepdim=True)
        factor = torch.linalg.cholesky(metric)
        points = points @ factor
    elif inputs is not None:
        weights = _damped(inputs.second_moment.diagonal())[None].expand(len(points), -1)

    blocks, lanes, s = points.shape
    if config.codebooks == "shared":
        points = points.reshape(1, blocks * lanes, s)
        weights = None if weights is None else weights.reshape(1, -1)
    codebook, codes = kmeans.fit(points, config.k, config.iterations, weights, seed)
    if metric is not None:
        codebook = torch.linalg.solve_triangular(factor, codebook, upper=False, left=False)

    coded = empty_coded(layer, format)
    coded.store(codes.reshape(1, blocks, lanes), codebook[None], None, layer.bias)
    return coded


def _format(layer: nn.Module, config: Config) -> CodeFormat:
    rows, columns = weight_matrix(layer).shape
    axis = 0 if config.axis == "x" else 1
    format = CodeFormat(
        rows=rows, columns=columns, k=config.k, s=config.s, axis=axis, half=config.codebook_dtype == "float16"
    )
    return format if config.codebooks == "shared" else format.model_copy(update={"groups": format.blocks})


def _segments(matrix: Tensor, config: Config) -> Tensor:
    """(blocks, lanes, s): the pieces of each block, padded with zeros where s does not divide the matrix."""
    if config.axis == "y":
        matrix = matrix.T
    padding = -matrix.shape[1] % config.s
    padded = nn.functional.pad(matrix, (0, padding))
    return padded.unflatten(1, (-1, config.s)).transpose(0, 1)


def _metric(inputs: Inputs, s: int) -> Tensor:
    """Damped blocks of H: positive definite, so that codewords are unique even for inputs that are always zero."""
    blocks = inputs.blocks(s)
    mean = inputs.second_moment.diagonal().mean().clamp(min=1e-12)
    return blocks + _DAMPING * mean * torch.eye(s)


def _damped(moments: Tensor) -> Tensor:
    return moments + _DAMPING * moments.mean().clamp(min=1e-12)
