"""Layers whose weights are codes: a matrix W ≈ Σ_stages codebook[code], kept packed and never unpacked on a device.

The matrix of a convolution is its kernel with one row per output channel and columns in the order (height, width,
input channel), so that a segment covers neighbouring channels at one position.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ..records import Cost, Record
from . import ops
from .packing import best_tile, bits_per_code, pack, packed_bytes, unpack


class CodeFormat(Record):
    """Shape of a coded matrix: what must be known to read its bytes.

    Attributes:
        rows, columns: shape of W (m, n).
        k: codewords per codebook. s: segment length.
        axis: 0 if segments run along the rows (the paper's x), 1 if down the columns (y).
        groups: codebooks per stage; each serves ceil(blocks/groups) neighbouring blocks.
        stages: codes per segment, added up (residual quantization).
        half: codebooks are fp16, else fp32.
        scaled: every row has an fp32 factor.
    """

    rows: int
    columns: int
    k: int
    s: int
    axis: int = 0
    groups: int = 1
    stages: int = 1
    half: bool = True
    scaled: bool = False

    @property
    def lanes(self) -> int:
        return self.rows if self.axis == 0 else self.columns

    @property
    def blocks(self) -> int:
        return -(-(self.columns if self.axis == 0 else self.rows) // self.s)

    @property
    def tile(self) -> int:
        return best_tile(self.lanes)

    @property
    def bits(self) -> int:
        return bits_per_code(self.k)

    @property
    def codes_bytes(self) -> int:
        return packed_bytes(self.stages, self.blocks, self.lanes, self.bits, self.tile)

    @property
    def codebook_shape(self) -> tuple[int, int, int, int]:
        return self.stages, self.groups, self.s, self.k

    @property
    def bytes(self) -> int:
        """Everything stored for the matrix: codes with their padding, codebooks, row scales."""
        codebook = self.stages * self.groups * self.s * self.k * (2 if self.half else 4)
        return self.codes_bytes + codebook + (4 * self.rows if self.scaled else 0)

    @property
    def rounds(self) -> bool:
        """Kernels can look up products as integers: codes take 4 bits, segments run along the rows, and these are not
        too few to fill a register."""
        return self.axis == 0 and self.bits == 4 and self.tile >= 32

    @property
    def tables(self) -> Tables:
        """The fastest that are exact, to about 0.01 %: single weights are decoded faster than their products found."""
        return Tables(bits=16 if self.rounds and self.s > 1 else 32)

    def shared(self, blocks: Literal["own", "shared"] | int) -> CodeFormat:
        """The same with as few codebooks as it takes if so many neighbouring blocks share one."""
        sharing = {"own": 1, "shared": self.blocks}.get(blocks, blocks)  # type: ignore[call-overload]
        return self.model_copy(update={"groups": -(-self.blocks // sharing)})

    def cost(self, bias: bool) -> Cost:
        """What a layer of this format stores and computes for one row of inputs: with axis 0 products of the input
        with every codeword and one sum per code, with axis 1 the sums first."""
        words = self.stages * (self.blocks if self.axis == 0 else self.groups) * self.s * self.k
        return Cost(bytes=self.bytes + 4 * self.rows * bias, macs=words + self.stages * self.blocks * self.lanes)


DOT: Literal[0] = 0  # of `Tables.bits`: none
INT8_PRODUCTS = "int8 products"


class Tables(Record):
    """How a kernel looks up products of inputs and codewords; what there is for k from 9 to 16 along the rows. Or that
    it does not: any codes can be decoded to int8 and multiplied with inputs rounded to int8.

    Attributes:
        bits: 8 or 16: products are rounded to integers that share a scale. 32: they are exact. DOT: weights and inputs
            are rounded.
        group: tables whose products share a scale, 64, 32 or 16; a table is the products of one segment.
        error: what rounding adds to the layer's outputs on calibration inputs, relative; None if it was not measured.
    """

    bits: Literal[0, 8, 16, 32]
    group: Literal[16, 32, 64] = 64
    error: float | None = None

    @property
    def text(self) -> str:
        """For the report: `8-bit, groups of 32, 0.48 %`."""
        if self.bits in (16, 32):
            return "16-bit" if self.bits == 16 else "exact"
        what = INT8_PRODUCTS if self.bits == DOT else f"8-bit, groups of {self.group}"
        return what + ("" if self.error is None else f", {100 * self.error:.2f} %")


class Coded(nn.Module):
    """What the layers share: the buffers, and `decode`.

    Attributes:
        tables: how products are looked up on a device, None until that is chosen: then as exactly as is fast. torch
            multiplies exactly.
        may_round: it may be chosen that inputs are rounded to int8.
    """

    may_round = True

    def __init__(self, format: CodeFormat, bias: bool, tables: Tables | None = None) -> None:
        super().__init__()
        self.format, self.tables = format, tables
        dtype = torch.float16 if format.half else torch.float32
        self.register_buffer("codes", torch.zeros(format.codes_bytes, dtype=torch.uint8))
        self.register_buffer("codebook", torch.zeros(format.codebook_shape, dtype=dtype))
        self.register_buffer("scale", torch.ones(format.rows) if format.scaled else None)
        self.bias = nn.Parameter(torch.zeros(format.rows)) if bias else None

    def store(self, codes: Tensor, codebook: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
        """Fills the layer.

        Args:
            codes: (stages, blocks, lanes), integers below k.
            codebook: (stages, groups, k, s) float.
            scale: (rows,) or None. bias: (rows,) or None.
        """
        self.codes.copy_(pack(codes, self.format.bits, self.format.tile))
        self.codebook.copy_(codebook.transpose(2, 3))
        if scale is not None:
            self.scale.copy_(scale)
        if bias is not None:
            with torch.no_grad():
                self.bias.copy_(bias)

    def decode(self) -> Tensor:
        """The coded matrix, (rows, columns) fp32: exactly what the codes mean."""
        f = self.format
        return ops.decode(self.codes, self.codebook, self.scale, f.rows, f.columns, f.axis, f.tile)

    def words(self) -> Tensor:
        """The codewords, (stages, groups, k, s), as `store` takes them."""
        return self.codebook.transpose(2, 3)

    def unpacked(self) -> Tensor:
        """The codes, (stages, blocks, lanes) uint8."""
        f = self.format
        return unpack(self.codes, f.stages, f.blocks, f.lanes, f.bits, f.tile)

    @property
    def effective_tables(self) -> Tables:
        """The tables, or what stands for them until they are chosen."""
        return self.tables or self.format.tables

    def _matrix_arguments(self) -> tuple[Any, ...]:
        f, tables = self.format, self.effective_tables
        lookup = (tables.bits, tables.group, False)
        return self.codes, self.codebook, self.scale, self.bias, f.rows, f.axis, f.tile, *lookup

    def structure(self) -> dict[str, Any]:
        """Arguments that build an empty layer of this shape, for the checkpoint."""
        tables = self.tables and self.tables.model_dump()
        return {"format": self.format.model_dump(), "bias": self.bias is not None, "tables": tables}

    @classmethod
    def from_structure(cls, structure: dict[str, Any]) -> Self:
        arguments = {name: value for name, value in structure.items() if name != "class"}
        tables = arguments.get("tables")  # older checkpoints have none
        return cls(**{**arguments, "format": CodeFormat(**arguments["format"]), "tables": tables and Tables(**tables)})

    def extra_repr(self) -> str:
        return str(self.format)


class CodebookLinear(Coded):
    """(…, columns) → (…, rows)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.edgecomp.codebook_linear(x, *self._matrix_arguments())


class CodebookConv2d(Coded):
    """(N, channels, H, W) → (N, rows, H', W'); zero padding, one group."""

    def __init__(
        self, format: CodeFormat, bias: bool, geometry: dict[str, list[int]], tables: Tables | None = None
    ) -> None:
        super().__init__(format, bias, tables)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        g = self.geometry
        arguments = (g["kernel"], g["stride"], g["padding"], g["dilation"])
        return torch.ops.edgecomp.codebook_conv2d(x, *self._matrix_arguments(), *arguments)

    def structure(self) -> dict[str, Any]:
        return {**super().structure(), "geometry": self.geometry}


class CodebookEmbedding(Coded):
    """(…) int64 → (…, columns): rows of the coded matrix."""

    def forward(self, index: Tensor) -> Tensor:
        f = self.format
        stored = (self.codes, self.codebook, self.scale)
        return torch.ops.edgecomp.codebook_embedding(index, *stored, f.rows, f.columns, f.axis, f.tile)
