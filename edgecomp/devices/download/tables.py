"""The model of a segment: which of the layouts that fit its bytes, and how many frequency tables, are smallest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import native
from .layout import BYTES, CELL, LANE, MOST_LANES, MOST_PERIOD, MOST_TABLES, PLACE, Layout

_SLOTS = 4096  # frequencies are 12-bit
_STATES_BYTES = 32
_ROUNDS = 8  # of clustering contexts
_FINEST = 4096  # contexts that are clustered; more are first merged with their neighbours
# What every further symbol in a byte must earn: it is one more step for the decoder.
_STEP = 0.01


@dataclass(frozen=True)
class Tensor:
    """The bytes of a tensor, to be looked for in the file.

    Attributes:
        bits: of a symbol. 8 for whatever is not known to be packed codes.
        lanes: codes of a cell. cells: after so many the next tile of rows begins, see `layers.packing`.
    """

    data: bytes
    bits: int = 8
    lanes: int = MOST_LANES
    cells: int = 1

    def layouts(self) -> Iterator[Layout]:
        """What is worth a try."""
        yield BYTES
        yield from (Layout(8, MOST_LANES, size, PLACE) for size in (2, 4))
        if self.lanes == MOST_LANES:
            return
        period = self.cells if self.cells <= MOST_PERIOD else 1
        yield from (Layout(self.bits, self.lanes, period, CELL, join) for join in (1, 2))
        yield Layout(self.bits, self.lanes, 1, LANE)
        yield Layout(8, self.lanes * self.bits // 8, period, CELL)


@dataclass(frozen=True)
class Tables:
    """A layout with frequencies: `table_of` (contexts,) uint8, `frequencies` (tables, alphabet) uint16.
    `bytes`: what the segment takes with them, up to rounding."""

    layout: Layout
    table_of: np.ndarray
    frequencies: np.ndarray
    bytes: float

    @property
    def cost(self) -> float:
        """Bytes, and a little for every symbol beyond one a byte."""
        return self.bytes * (1 + _STEP * (8 / (self.layout.bits * self.layout.join) - 1))


def best(data: memoryview, tensor: Tensor) -> Tables:
    """The model that makes the tensor's bytes smallest."""
    found = (fitted(data, layout) for layout in tensor.layouts() if layout.fits(len(data)))
    return min(found, key=lambda tables: tables.cost)


def fitted(data: memoryview, layout: Layout) -> Tables:
    """The best number of tables for a layout, and which contexts share one."""
    counts = native.count(data, layout).astype(np.float64)
    merged = np.add.reduceat(counts, np.arange(0, len(counts), -(-len(counts) // _FINEST)))
    group_of = np.arange(len(counts)) // -(-len(counts) // _FINEST)
    tables, number, best = None, 1, None
    while number <= min(MOST_TABLES, len(merged)):
        table_of = _clustered(merged, number)[group_of]
        tables = _of(layout, counts, table_of)
        if best is not None and tables.bytes >= best.bytes:
            break
        best, number = tables, 2 * number
    assert best is not None
    return best


def _of(layout: Layout, counts: np.ndarray, table_of: np.ndarray) -> Tables:
    used, table_of = np.unique(table_of, return_inverse=True)
    sums = np.zeros((len(used), counts.shape[1]))
    np.add.at(sums, table_of, counts)
    frequencies = np.stack([normalised(row) for row in sums])
    bits = (sums * (12 - np.log2(np.maximum(frequencies, 1)))).sum()
    side = np.count_nonzero(frequencies) * 1.2 + (len(table_of) * np.log2(len(used)) / 8 if len(used) > 1 else 0)
    return Tables(layout, table_of.astype(np.uint8), frequencies, bits / 8 + side + _STATES_BYTES)


def normalised(counts: np.ndarray) -> np.ndarray:
    """Frequencies (symbols,) uint16 that add up to 4096, none 0 of a symbol that occurs, for the fewest bits."""
    total = counts.sum()
    if not total:
        counts, total = np.eye(1, len(counts))[0], 1.0
    frequencies = np.where(counts > 0, np.maximum(1, counts * _SLOTS // total), 0)
    while (missing := _SLOTS - int(frequencies.sum())) > 0:
        gain = counts * np.log1p(1 / np.maximum(frequencies, 1)) * (frequencies > 0)
        frequencies[np.argsort(-gain, kind="stable")[: min(missing, max(1, np.count_nonzero(frequencies) // 2))]] += 1
    while frequencies.sum() > _SLOTS:
        loss = np.where(frequencies > 1, -counts * np.log1p(-1 / np.maximum(frequencies, 2)), np.inf)
        frequencies[loss.argmin()] -= 1
    return frequencies.astype(np.uint16)


def _clustered(counts: np.ndarray, number: int) -> np.ndarray:
    """The cluster of each context, so that coding each with its cluster's frequencies takes few bits: k-means with the
    Kullback-Leibler divergence."""
    if number == 1:
        return np.zeros(len(counts), np.int64)
    cluster = _begun(counts, number)
    for _ in range(_ROUNDS):
        sums = np.zeros((number, counts.shape[1]))
        np.add.at(sums, cluster, counts)
        sums += 1e-3 * (counts.sum(0) + 1)  # what never occurs in a cluster costs much, not everything
        after = (counts @ -np.log2(sums / sums.sum(1, keepdims=True)).T).argmin(1)
        if (after == cluster).all():
            break
        cluster = after
    return cluster


def _begun(counts: np.ndarray, number: int) -> np.ndarray:
    """The nearest of contexts of which each is the one that those before it serve worst."""
    shares = (counts + 0.5) / (counts + 0.5).sum(1, keepdims=True)
    lengths = -np.log2(shares)  # (contexts, alphabet): what symbols take with the statistics of a context
    own = (counts * lengths).sum(1)
    best, cluster = np.full(len(counts), np.inf), np.zeros(len(counts), np.int64)
    seed = int(counts.sum(1).argmax())
    for index in range(number):
        bits = counts @ lengths[seed]
        cluster[bits < best] = index
        best = np.minimum(best, bits)
        seed = int((best - own).argmax())
    return cluster
