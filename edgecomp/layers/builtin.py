"""Codebook layers in operators that every runtime has, for apps that cannot add one. Codes stay codes in the file.

A byte holds as many codes as fit: it is their number in base k (16 → two, 2 → eight, 3 → five), less 128, since
LiteRT's converter knows no unsigned constants. A layer takes one of two forms:

- `lookup`: products of the input with every codeword; sums of these for every value a byte can have; then one of them
  is gathered per byte, and they are added up. No weight is ever decoded.
- `decode`: the weights of some rows at a time are gathered from the codebook and multiplied.

Both work in chunks. Every chunk asks for its bytes with an index that depends on what the chunk before it has computed:
delegates and exporters would otherwise unpack all chunks first, and memory would be that of the dense layer.
"""

from __future__ import annotations

import copy
import functools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BuildError
from .codebook import CodebookConv2d, CodebookEmbedding, CodebookLinear, Coded, CodeFormat
from .recurrent import Recurrence

_CHUNK = 1 << 18  # numbers gathered at a time
_CHUNKS = 32  # at most, for the sake of the graph
_LOOKUP_ROWS = 256  # with fewer the table of a byte's values costs more than it saves
_LOOKUP_BATCH = 8  # with more rows of input it is cheaper to decode once
_OFFSET = 128  # a stored byte is its value less this


def without_custom_ops(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy of `net` whose codebook layers are `Builtin` ones, in the form that is cheapest for these inputs.

    Raises:
        BuildError: a recurrent layer needs a custom op.
    """
    net = copy.deepcopy(net).eval()
    recurrences = [name for name, module in net.named_modules() if isinstance(module, Recurrence)]
    if recurrences:
        raise BuildError(
            f"{', '.join(recurrences)}: the steps of a recurrent layer run in a custom op of edgecomp",
            "Leave --no-custom-ops out.",
        )
    batches: dict[nn.Module, int] = {}

    def note(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        columns = layer.format.columns if isinstance(layer, CodebookLinear) else 1
        batches[layer] = max(batches.get(layer, 0), arguments[0].numel() // columns)

    coded = [layer for layer in net.modules() if isinstance(layer, Coded)]
    hooks = [layer.register_forward_pre_hook(note) for layer in coded]
    with torch.inference_mode():
        net(*example_inputs)
    for hook in hooks:
        hook.remove()
    made = {layer: _builtin(layer, batches.get(layer, 1)) for layer in coded}
    for name, layer in list(net.named_modules(remove_duplicate=False)):
        if layer in made:
            if not name:
                return made[layer]
            net.set_submodule(name, made[layer])
    return net


def codes_per_byte(k: int) -> int:
    """How many digits of base k a byte holds: 16 → 2, 6 → 3, 17 → 1."""
    return max(count for count in range(1, 9) if k**count <= 256)


def join(codes: Tensor, k: int) -> Tensor:
    """(…, n) integers below k → (…, ⌈n / codes_per_byte⌉) int8; the first code is the most significant digit."""
    count = codes_per_byte(k)
    digits = F.pad(codes.int(), (0, -codes.shape[-1] % count)).unflatten(-1, (-1, count))
    return (functools.reduce(lambda value, digit: value * k + digit, digits.unbind(-1)) - _OFFSET).to(torch.int8)


class Builtin(nn.Module):
    """A codebook layer in operators that every runtime has: the buffers, and `times`.

    Attributes:
        widen: makes an fp16 or fp32 codebook fp32; a runtime whose exporter would do it in the file sets its own.
        form: see above.
        codes: int8. For lookup (cells, rows): a cell is neighbours in the order (stage, block). For decode
            (R, stages · C'): R and C are the codes of W downwards and across, C' their bytes.
        why: not looked up, empty if it is.
        codebook: for lookup (stages, groups, s, k), for decode (stages · groups · k, s).
    """

    widen = staticmethod(Tensor.float)

    def __init__(self, layer: Coded, why: str = "") -> None:
        super().__init__()
        f = self.format = layer.format
        self.form: Literal["lookup", "decode"] = "decode" if why else "lookup"
        self.why = why
        codes = layer.unpacked()  # (stages, blocks, lanes)
        if self.form == "lookup":
            joined, codebook = join(codes.flatten(0, 1).T, f.k).T, layer.codebook
        else:
            grid = codes.transpose(1, 2) if f.axis == 0 else codes  # (stages, R, C)
            joined = join(grid, f.k).transpose(0, 1).flatten(1)
            codebook = layer.codebook.transpose(2, 3).reshape(-1, f.s)
        self.register_buffer("codes", joined.contiguous())
        self.register_buffer("codebook", codebook.clone(memory_format=torch.contiguous_format))
        self.register_buffer("scale", layer.scale)
        self.bias = layer.bias

    def words(self) -> Tensor:
        """The codebook in fp32."""
        return self.widen(self.codebook)

    @property
    def remark(self) -> str:
        """The form, why it is not the other one, and what the codes take where that is more than elsewhere."""
        f, count = self.format, codes_per_byte(self.format.k)
        form = "looked up" if self.form == "lookup" else f"decoded in chunks ({self.why})"
        remark = f"without custom op {form}, {8 / count:.3g} bits for a code"
        return remark if f.bits * count >= 8 else f"{remark} instead of {f.bits}"

    def times(self, x: Tensor) -> Tensor:
        """(columns, B) → (rows, B): W x, with scale and bias."""
        y = self._looked_up(x) if self.form == "lookup" else self._decoded(x)
        y = y if self.scale is None else y * self.scale[:, None]
        return y if self.bias is None else y + self.bias[:, None]

    def decode_rows(self, rows: Tensor) -> Tensor:
        """Some rows (n,) int32 of the grid of codes → (n, C, s) fp32, what their codes mean."""
        f = self.format
        across = f.blocks if f.axis == 0 else f.columns
        values = _bytes(self.codes, rows).reshape(len(rows), f.stages, -1)
        index = _digits(values + _OFFSET, f.k)[..., :across].to(torch.int32)
        per_group = -(-f.blocks // f.groups)
        stage = torch.arange(f.stages, dtype=torch.int32)[:, None] * (f.groups * f.k)
        if f.axis == 0:
            group = torch.arange(across, dtype=torch.int32) // per_group * f.k
            index = index + (stage + group)
        else:
            group = torch.div(rows, per_group, rounding_mode="floor") * f.k
            index = index + stage + group[:, None, None]
        return F.embedding(index, self.words()).sum(1)

    def _decoded(self, x: Tensor) -> Tensor:
        f = self.format
        parts: list[Tensor] = []
        for start, stop in _chunks(len(self.codes), f.stages * f.columns * (f.s if f.axis else 1)):
            rows = _range(start, stop, after=parts[-1] if parts else x)
            weights = self.decode_rows(rows)
            if f.axis == 0:
                matrix = weights.reshape(stop - start, f.blocks * f.s)[:, : f.columns]
            else:
                matrix = weights.transpose(1, 2).reshape(-1, f.columns)
            parts.append(torch.bmm(matrix[None], x[None])[0])
        return torch.cat(parts)[: f.rows]

    def _looked_up(self, x: Tensor) -> Tensor:
        f, cells = self.format, len(self.codes)
        sums = self._sums(self._products(x))  # (cells, values, B)
        values, batch = sums.shape[1:]
        table, result = sums.reshape(-1, batch), None
        for start, stop in _chunks(cells, f.rows * batch):
            value = _bytes(self.codes, _range(start, stop, after=x if result is None else result)).to(torch.int32)
            first = torch.arange(start, stop, dtype=torch.int32)[:, None] * values + _OFFSET
            part = F.embedding(value + first, table).sum(0)
            result = part if result is None else result + part
        return result

    def _products(self, x: Tensor) -> Tensor:
        """(columns, B) → (slots, k, B): inner products of the segments with all their codewords; a slot is a stage
        and a block, and slots of zeros fill the last byte."""
        f, batch = self.format, x.shape[1]
        per_group = -(-f.blocks // f.groups)
        x = F.pad(x, (0, 0, 0, f.groups * per_group * f.s - f.columns)).reshape(f.groups, per_group, f.s, batch)
        x = x.transpose(2, 3).reshape(f.groups, per_group * batch, f.s)
        slots = [torch.bmm(x, words).reshape(-1, batch, f.k)[: f.blocks] for words in self.words()]
        missing = -f.stages * f.blocks % codes_per_byte(f.k)
        if missing:
            slots.append(torch.zeros(missing, batch, f.k))
        return torch.cat(slots).transpose(1, 2)

    def _sums(self, products: Tensor) -> Tensor:
        """(slots, k, B) → (cells, k^codes_per_byte, B): what a byte's codes add up to, for every value of it."""
        k, batch = products.shape[1:]
        digits = products.reshape(-1, codes_per_byte(k), k, batch).unbind(1)
        return functools.reduce(lambda sums, digit: (sums[:, :, None] + digit[:, None]).flatten(1, 2), digits)


class BuiltinLinear(Builtin):
    """(…, columns) → (…, rows)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.times(x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], self.format.rows)


class BuiltinConv2d(Builtin):
    """(N, channels, H, W) → (N, rows, H', W'): the matrix times what lies under the kernel at every position."""

    def __init__(self, layer: CodebookConv2d) -> None:
        super().__init__(layer, "a convolution")
        self.geometry = layer.geometry

    def forward(self, x: Tensor) -> Tensor:
        g = self.geometry
        batch = len(x)
        x = F.pad(x, (g["padding"][1], g["padding"][1], g["padding"][0], g["padding"][0]))
        (down, across), (step_y, step_x), (gap_y, gap_x) = g["kernel"], g["stride"], g["dilation"]
        height = (x.shape[2] - gap_y * (down - 1) - 1) // step_y + 1
        width = (x.shape[3] - gap_x * (across - 1) - 1) // step_x + 1
        taps = []
        for top, left in ((i * gap_y, j * gap_x) for i in range(down) for j in range(across)):
            bottom, right = top + step_y * (height - 1) + 1, left + step_x * (width - 1) + 1
            taps.append(x[:, :, top:bottom:step_y, left:right:step_x].transpose(0, 1).flatten(1))
        y = self.times(torch.cat(taps))
        return y.reshape(-1, batch, height, width).transpose(0, 1)


class BuiltinEmbedding(Builtin):
    """(…) integers → (…, columns): rows of the matrix."""

    def __init__(self, layer: CodebookEmbedding) -> None:
        super().__init__(layer, "an embedding")

    def forward(self, index: Tensor) -> Tensor:
        f = self.format
        row = index.reshape(-1).to(torch.int32)
        if f.axis == 0:
            values = self.decode_rows(row).flatten(1)[:, : f.columns]
        else:
            block = torch.div(row, f.s, rounding_mode="floor")
            inside = (row - block * f.s)[:, None] == torch.arange(f.s, dtype=torch.int32)
            values = (self.decode_rows(block) * inside[:, None].float()).sum(2)
        values = values if self.scale is None else values * F.embedding(row, self.scale[:, None])
        return values.reshape(*index.shape, f.columns)


def _builtin(layer: Coded, batch: int) -> Builtin:
    if isinstance(layer, CodebookConv2d):
        return BuiltinConv2d(layer)
    if isinstance(layer, CodebookEmbedding):
        return BuiltinEmbedding(layer)
    return BuiltinLinear(layer, _why_decode(layer.format, batch))


def _why_decode(f: CodeFormat, batch: int) -> str:
    """Why a dense layer cannot be looked up, or should not be; empty if it should."""
    if f.axis == 1:
        return "segments run down the columns"
    if f.rows < _LOOKUP_ROWS:
        return f"{f.rows} rows are too few for tables"
    return f"{batch} rows of input at once" if batch > _LOOKUP_BATCH else ""


def _chunks(rows: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of each chunk of so many rows, of `size` numbers each."""
    step = max(1, _CHUNK // size, -(-rows // _CHUNKS))
    return [(start, min(rows, start + step)) for start in range(0, rows, step)]


def _range(start: int, stop: int, after: Tensor) -> Tensor:
    """The numbers from start to stop, int32, which cannot be known before `after` is."""
    zero = (after.reshape(-1)[:1] < -float("inf")).to(torch.int32)  # of NaN as well
    return torch.arange(start, stop, dtype=torch.int32) + zero


def _bytes(codes: Tensor, rows: Tensor) -> Tensor:
    """Some rows of bytes as fp32: ExecuTorch has a slow path from integers to integers."""
    return F.embedding(rows, codes).float()


def _digits(values: Tensor, k: int) -> Tensor:
    """(…, n) fp32 integers below 256 → (…, n · codes_per_byte(k)), their digits of base k."""
    digits: list[Tensor] = []
    for _ in range(codes_per_byte(k) - 1):
        rest = torch.floor((values + 0.5) * (1 / k))  # half a unit away from where rounding could matter
        digits.append(values - rest * k)
        values = rest
    return values if not digits else torch.stack([values, *reversed(digits)], -1).flatten(-2)
