"""The custom operators, as torch sees them: `edgecomp::codebook_linear`, `codebook_conv2d` and `codebook_embedding`.

Here they decode and multiply, which is their definition. On the device the kernels of `targets/kernels` compute on
the codes. All take the codes as stored, see `packing`, and codebooks of shape (stages, groups, s, k). `table_bits` and
`table_group` say how kernels look up products, or that they round instead, see `Tables`; nothing changes here.
`relu`: negative outputs become 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .packing import bits_per_code, unpack

MATRIX = (
    "Tensor codes, Tensor codebook, Tensor? scale, Tensor? bias, int rows, int axis, int tile, "
    "int table_bits, int table_group, bool relu"
)
CONVOLUTION = "int[] kernel, int[] stride, int[] padding, int[] dilation"

_TABLE = "Tensor codes, Tensor codebook, Tensor? scale, int rows, int columns, int axis, int tile"

_library = torch.library.Library("edgecomp", "DEF")
for _name, _arguments in (
    ("codebook_linear", f"Tensor x, {MATRIX}"),
    ("codebook_conv2d", f"Tensor x, {MATRIX}, {CONVOLUTION}"),
    ("codebook_embedding", f"Tensor index, {_TABLE}"),
):
    _library.define(f"{_name}({_arguments}) -> Tensor")
    _library.define(f"{_name}.out({_arguments}, *, Tensor(a!) out) -> Tensor(a!)")


def decode(
    codes: Tensor, codebook: Tensor, scale: Tensor | None, rows: int, columns: int, axis: int, tile: int
) -> Tensor:
    """The matrix that codes stand for.

    Args:
        codes: packed, uint8.
        codebook: (stages, groups, s, k), fp16 or fp32; a group's codebook serves ceil(blocks/groups) blocks in a row.
        scale: (rows,) fp32 factors of the rows, or None.
        rows, columns: shape of the matrix.
        axis: 0 if segments run along the rows, 1 if down the columns.
        tile: see `packing`.

    Returns:
        (rows, columns) fp32, differentiable with respect to `codebook` and `scale`.
    """
    stages, groups, s, k = codebook.shape
    split, lanes = (columns, rows) if axis == 0 else (rows, columns)
    blocks = -(-split // s)
    index = unpack(codes, stages, blocks, lanes, bits_per_code(k), tile).long()
    group_of_block = torch.arange(blocks) // -(-blocks // groups)
    matrix = codebook.new_zeros(lanes, blocks, s, dtype=torch.float32)
    for stage in range(stages):
        words = codebook[stage].float().transpose(1, 2)  # (groups, k, s)
        matrix = matrix + words[group_of_block, index[stage].T]
    matrix = matrix.reshape(lanes, blocks * s)[:, :split]
    matrix = matrix if axis == 0 else matrix.T
    return matrix if scale is None else matrix * scale[:, None]


def _linear(x, codes, codebook, scale, bias, rows, axis, tile, table_bits, table_group, relu):  # type: ignore[no-untyped-def]
    y = F.linear(x, decode(codes, codebook, scale, rows, x.shape[-1], axis, tile), bias)
    return y.relu() if relu else y


def _conv2d(  # type: ignore[no-untyped-def]
    x, codes, codebook, scale, bias, rows, axis, tile, table_bits, table_group, relu, kernel, stride, padding, dilation
):
    channels = x.shape[1]
    matrix = decode(codes, codebook, scale, rows, channels * kernel[0] * kernel[1], axis, tile)
    weight = matrix.reshape(rows, *kernel, channels).permute(0, 3, 1, 2)
    y = F.conv2d(x, weight, bias, stride, padding, dilation)
    return y.relu() if relu else y


def _embedding(index, codes, codebook, scale, rows, columns, axis, tile):  # type: ignore[no-untyped-def]
    return F.embedding(index, decode(codes, codebook, scale, rows, columns, axis, tile))


_library.impl("codebook_linear", _linear, "CompositeExplicitAutograd")
_library.impl("codebook_conv2d", _conv2d, "CompositeExplicitAutograd")
_library.impl("codebook_embedding", _embedding, "CompositeExplicitAutograd")


def output_sizes(sizes, kernel, stride, padding, dilation):  # type: ignore[no-untyped-def]
    """Height and width of what a convolution gives for images of these sizes."""
    rows = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in rows]


@torch.library.register_fake("edgecomp::codebook_linear")
def _fake_linear(x, codes, codebook, scale, bias, rows, *settings):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:-1], rows)


@torch.library.register_fake("edgecomp::codebook_conv2d")
def _fake_conv2d(  # type: ignore[no-untyped-def]
    x, codes, codebook, scale, bias, rows, axis, tile, table_bits, table_group, relu, kernel, stride, padding, dilation
):
    return x.new_empty(x.shape[0], rows, *output_sizes(x.shape[2:], kernel, stride, padding, dilation))


@torch.library.register_fake("edgecomp::codebook_embedding")
def _fake_embedding(index, codes, codebook, scale, rows, columns, axis, tile):  # type: ignore[no-untyped-def]
    return codebook.new_empty(*index.shape, columns, dtype=torch.float32)
