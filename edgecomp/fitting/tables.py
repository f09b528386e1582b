"""Which tables the kernels look products up in: bytes where a layer's outputs on calibration inputs can bear them. Or
none: where a weight meets many inputs, weights and inputs are rounded to int8 and multiplied.

Tables of bytes are the fastest. All products of one group of tables are rounded with one scale, so that what that adds
to the outputs depends on how much products differ in size, and so on the inputs: it is found by doing as kernels do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.codebook import DOT, CodebookConv2d, CodebookEmbedding, Coded, Tables
from ..records import Record
from . import calibration, int8_products

LIMIT = 0.005  # relative error of a layer's outputs that tables, or products of integers, may add
_GROUPS: tuple[Literal[16, 32, 64], ...] = (64, 32, 16)  # the larger, the faster
_SAMPLES = 64
_ROWS, _LEAST_ROWS = 64, 16
_IMAGES = 16  # rounded as a whole
_PRODUCTS = 1 << 22  # at a time
_LANES = 256
_ROWS_FOR_BYTES = 128


class TableConfig(Record):
    """What every codebook method lets one set."""

    tables: Literal["auto", "8", "16", "exact"] = Field(
        "auto",
        description="Lookup tables hold products of inputs and codewords as integers of 8 or 16 bits, or exact. auto: "
        "8 bits where that adds at most 0.5 % to the error of the layer's outputs. Always exact for k up to 8 or above "
        "16, for few rows, and for axis=y.",
    )

    kernel: Literal["auto", "lookup", "dot", "exact"] = Field(
        "auto",
        description="lookup: products of inputs and codewords are looked up. dot: weights are decoded to int8 and "
        "multiplied with inputs rounded to int8. exact: neither is rounded. auto: dot where a weight meets many inputs "
        "and that adds at most 0.5 % to the error of the layer's outputs, unless tables says otherwise.",
    )

    def applied(self, made: Coded) -> Coded:
        """The layer with what was asked for, as far as there are kernels; the rest is to be chosen."""
        if isinstance(made, CodebookEmbedding):
            return made
        made.may_round = self.kernel == self.tables == "auto"
        if self.kernel == "dot":
            made.tables = Tables(bits=DOT if made.format.columns <= int8_products.MOST_COLUMNS else 32)
        elif self.kernel == "exact":
            made.tables = Tables(bits=32)
        elif self.tables != "auto":
            made.tables = Tables(bits={"8": 8, "16": 16, "exact": 32}[self.tables] if made.format.rounds else 32)
        return made


@torch.no_grad()
def choose_tables(
    net: nn.Module, layer: nn.Module, replacement: nn.Module, samples: calibration.Samples, seed: int = 0
) -> None:
    """Gives the coded layers in `replacement` their tables, by what they get when it is called with what `layer` gets
    in `net`, and says what rounding costs."""
    waiting = [part for part in replacement.modules() if isinstance(part, Coded) and _depends(part)]
    if not waiting:
        return
    generator = torch.Generator().manual_seed(seed)
    given = calibration.alike(calibration.inputs_of(net, layer, samples, _SAMPLES))
    for part in waiting:
        seen = calibration.alike(x for one in given for x in calibration.inputs_of(replacement, part, one))
        part.tables = _choice(part, seen, generator)


def table_errors(layer: Coded, x: Tensor, groups: tuple[int, ...] = _GROUPS) -> Iterator[float]:
    """‖Y' − Y‖/‖Y‖ of the outputs without bias, Y' from tables of bytes, for every number of tables to a scale.

    Args:
        x: (N, columns) fp32. The outputs are those of some of the rows of W.
    """
    f = layer.format
    lanes = torch.linspace(0, f.lanes - 1, min(_LANES, f.lanes)).long()
    products = _products(layer, x)  # (N, tables, k)
    first = torch.arange(products.shape[1]) * f.k
    index = layer.unpacked()[:, :, lanes].permute(2, 1, 0).flatten(1) + first
    scale = 1.0 if layer.scale is None else layer.scale[lanes, None]

    def outputs(tables: Tensor) -> Tensor:
        return F.embedding_bag(index, tables.flatten(1).T.contiguous(), mode="sum") * scale  # (lanes, N)

    size = outputs(products).norm().clamp(min=1e-30)
    for group in groups:
        yield (outputs(rounded(products, group, runs_of(layer)) - products).norm() / size).item()


def rounded(products: Tensor, group: int, runs: int) -> Tensor:
    """What kernels read instead of the products (N, tables, k): multiples of a 127th of the largest of their group.
    Tables come in so many runs, of which each begins with a group of its own."""
    tables = products.unflatten(1, (runs, -1))
    count = tables.shape[2]
    grouped = F.pad(tables, (0, 0, 0, -count % group)).unflatten(2, (-1, group))
    scale = grouped.abs().amax((3, 4), keepdim=True).div_(127).clamp_(min=1e-30)
    return ((grouped / scale).round_() * scale).flatten(2, 3)[:, :, :count].flatten(1, 2)


def runs_of(layer: Coded) -> int:
    """Parts of a row of W whose tables are made by themselves: the positions of a convolution's kernel, if all have the
    same codebook, so that what tables an input pixel has does not depend on where it lies under the kernel."""
    if not isinstance(layer, CodebookConv2d) or layer.format.groups > 1:
        return 1
    height, width = layer.geometry["kernel"]
    return height * width if layer.format.columns // (height * width) % layer.format.s == 0 else 1


def sampled_rows(layer: Coded, x: Tensor, generator: torch.Generator) -> Tensor:
    """Some rows (≤ 64, columns) of what a layer's matrix multiplies when it is called with x."""
    f = layer.format
    count = min(_ROWS, max(_LEAST_ROWS, _PRODUCTS // (f.stages * f.blocks * f.k)))
    if not isinstance(layer, CodebookConv2d):
        rows = x.reshape(-1, x.shape[-1])
        return rows[torch.randperm(len(rows), generator=generator)[:count]].float()
    g = layer.geometry
    x = F.pad(x, (g["padding"][1], g["padding"][1], g["padding"][0], g["padding"][0]))
    taps, starts = [], []
    for kernel, stride, dilation, size in zip(g["kernel"], g["stride"], g["dilation"], x.shape[2:], strict=True):
        places = (size - dilation * (kernel - 1) - 1) // stride + 1
        taps.append(torch.arange(kernel) * dilation)
        starts.append(torch.randint(places, (count, 1), generator=generator) * stride)
    image = torch.randint(len(x), (count, 1, 1), generator=generator)
    down, across = (starts[0] + taps[0])[:, :, None], (starts[1] + taps[1])[:, None, :]
    return x[image, :, down, across].flatten(1).float()  # (rows, height, width, channels) before


def _depends(part: Coded) -> bool:
    """Its inputs say which tables it gets, or what these cost."""
    if isinstance(part, CodebookEmbedding):
        return False
    return part.format.rounds or part.may_round if part.tables is None else part.tables.bits in (DOT, 8)


def _choice(layer: Coded, seen: list[Tensor], generator: torch.Generator) -> Tables:
    """Of a layer that is called with each of `seen` (N, …)."""
    rows = torch.cat([sampled_rows(layer, x, generator) for x in seen])
    if layer.tables is not None and layer.tables.bits == 8:
        (error,) = table_errors(layer, rows, (layer.tables.group,))
        return layer.tables.model_copy(update={"error": error})
    if layer.tables is not None:
        return _dot(layer, seen)
    many = _meets_many(layer, seen)
    dot = _dot(layer, seen) if many and not _bytes_win(layer) else None
    if dot and _is_exact_enough(dot):
        return dot
    if layer.format.rounds:
        for group, error in zip(_GROUPS, table_errors(layer, rows), strict=True):
            if error <= LIMIT:
                return Tables(bits=8, group=group, error=error)
    if many and dot is None:
        dot = _dot(layer, seen)
    return dot if dot and _is_exact_enough(dot) else layer.format.tables


def _is_exact_enough(tables: Tables) -> bool:
    return tables.error is not None and tables.error <= LIMIT


def _dot(layer: Coded, seen: list[Tensor]) -> Tables:
    return Tables(bits=DOT, error=int8_products.relative_error(layer, *_rows_and_rounded(layer, seen)))


def _rows_and_rounded(layer: Coded, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Some rows of what a layer's matrix multiplies, and the same of inputs that are rounded to int8."""
    found: tuple[list[Tensor], list[Tensor]] = [], []
    generators = [torch.Generator().manual_seed(0) for _ in found]
    for x in seen:
        x = x[:_IMAGES].float() if isinstance(layer, CodebookConv2d) else sampled_rows(layer, x, generators[0])
        for rows, generator, inputs in zip(found, generators, (x, int8_products.rounded_inputs(layer, x)), strict=True):
            rows.append(sampled_rows(layer, inputs, generator) if isinstance(layer, CodebookConv2d) else inputs)
    return torch.cat(found[0]), torch.cat(found[1])


def _meets_many(layer: Coded, seen: list[Tensor]) -> bool:
    """Whether decoding weights to int8 pays: products of integers are faster than tables of 16 bits, or of fp32."""
    f = layer.format
    if not layer.may_round or f.columns > int8_products.MOST_COLUMNS:
        return False
    return min(int8_products.positions(layer, x) for x in seen) >= (8 if f.rounds else 4)


def _bytes_win(layer: Coded) -> bool:
    """Whether tables of bytes, where they are exact enough, are as fast as products of integers: those of a pixel are
    made for as many lookups as there are rows."""
    return layer.format.rounds and (not isinstance(layer, CodebookConv2d) or layer.format.rows >= _ROWS_FOR_BYTES)


def _products(layer: Coded, x: Tensor) -> Tensor:
    """Inner products of the segments of x with their codewords, (N, tables, k), block by block and in it stages."""
    f = layer.format
    segments = F.pad(x, (0, f.blocks * f.s - f.columns)).unflatten(1, (f.blocks, f.s)).transpose(0, 1)
    words = layer.codebook.float()[:, torch.arange(f.blocks) // -(-f.blocks // f.groups)]  # (stages, blocks, s, k)
    return torch.stack([torch.bmm(segments, stage) for stage in words], 1).flatten(0, 1).transpose(0, 1)
