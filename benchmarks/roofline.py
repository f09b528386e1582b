"""How fast a layer could be at most on this machine: the bytes that it must read at the measured bandwidth, and its
operations at the measured peak, whichever takes longer."""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from edgecomp.layers.codebook import DOT, CodebookConv2d, Coded
from edgecomp.layers.quantized import Quantized
from edgecomp.util import compiler

_SECONDS = 0.05
_REPEATS = 3
_SHUFFLED = 16  # codewords that a byte shuffle reaches
_SIDE_BY_SIDE = 16  # fp32 products that one load fetches, of as many rows of inputs

# Operations whose peak is measured, as one reads them.
OPERATIONS = {
    "fp32": "multiply-adds in fp32",
    "int8": "multiply-adds of int8",
    "shuffle": "lookups by byte shuffle",
    "shuffle_avx2": "the same in AVX2 alone",
    "load": "lookups by load",
}


@dataclass(frozen=True)
class Work:
    """What one inference must do at the least: bytes to read, and operations by kind."""

    read_bytes: int
    operations: dict[str, float]


@dataclass(frozen=True)
class Limit:
    """Times of one inference in which all bytes would be read, and all operations done."""

    reading_ms: float
    computing_ms: float

    @property
    def ms(self) -> float:
        return max(self.reading_ms, self.computing_ms)


def bandwidth(size: int, threads: int) -> float:
    """Bytes per second of reading a buffer of about that size again and again: from whichever cache it stays in."""
    return _figure("bytes", (2 ** (round(8 * math.log2(size)) / 8), threads))  # rows of nearly one size are compared


def peak(operation: str, threads: int) -> float:
    """Operations per second of one kind, see OPERATIONS."""
    return _figure(operation, (threads,))


def refresh() -> None:
    """Measures all again that has been asked for, and keeps what is better: a figure that was disturbed is no limit."""
    for name, arguments in list(_known):
        _known[name, arguments] = max(_known[name, arguments], _measured(name, arguments))


def limit(work: Work, threads: int) -> Limit:
    computing = sum(count / peak(operation, threads) for operation, count in work.operations.items())
    return Limit(1000 * work.read_bytes / bandwidth(work.read_bytes, threads), 1000 * computing)


def work(layer: nn.Module, outputs: Tensor, read_bytes: int) -> Work:
    """Of a layer, plain, of integers or coded, that gives `outputs`: (rows of inputs, m) or (N, m, height, width)."""
    positions = outputs.numel() // outputs.shape[1]
    if isinstance(layer, Coded) and layer.effective_tables.bits != DOT:
        return Work(read_bytes, _lookups(layer, positions))
    if isinstance(layer, Coded):
        return Work(read_bytes, {"int8": positions * layer.format.rows * layer.format.columns})
    kind, weights = ("int8", layer.shape) if isinstance(layer, Quantized) else ("fp32", layer.weight.shape)
    return Work(read_bytes, {kind: positions * weights.numel()})


def _lookups(layer: Coded, positions: int) -> dict[str, float]:
    """Products of the inputs with all codewords, and one lookup per code and row of inputs. Where all positions of a
    kernel share a codebook, every pixel needs its products once."""
    f = layer.format
    if f.axis == 1:
        return {"fp32": positions * f.cost(bias=False).macs}
    taps = 1
    if isinstance(layer, CodebookConv2d):
        taps = layer.geometry["kernel"][0] * layer.geometry["kernel"][1]
    together = taps if f.groups == 1 and f.columns // taps % f.s == 0 else 1
    codes = f.stages * f.blocks * f.lanes
    products = positions * f.stages * f.blocks * f.s * f.k / together
    if f.k <= _SHUFFLED:
        return {"fp32": products, "shuffle": positions * codes}
    return {"fp32": products, "load": -(-positions // _SIDE_BY_SIDE) * codes}


_known: dict[tuple[str, tuple[float, ...]], float] = {}


def _figure(name: str, arguments: tuple[float, ...]) -> float:
    if (name, arguments) not in _known:
        _known[name, arguments] = _measured(name, arguments)
    return _known[name, arguments]


def _measured(name: str, arguments: tuple[float, ...]) -> float:
    function = getattr(_library(), f"edgecomp_{name}")
    function.restype = ctypes.c_double
    integers = [ctypes.c_size_t(int(argument)) for argument in arguments]
    return max(function(*integers, ctypes.c_double(_SECONDS)) for _ in range(_REPEATS))


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(compiler.shared_library([Path(__file__).with_suffix(".cc")], "libedgecomp_roofline.so")))
