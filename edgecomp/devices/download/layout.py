"""How the symbols of a segment lie in its bytes, and what chooses their tables; as targets/download/format.h has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MOST_LANES, MOST_PERIOD, MOST_TABLES = 4096, 1 << 16, 64
CELL: Literal[0] = 0  # the number of a symbol's cell, mod the period, chooses its table
LANE: Literal[1] = 1  # the symbol at the same place of the cell before does
PLACE: Literal[2] = 2  # its number in its cell, mod the period, does


@dataclass(frozen=True)
class Layout:
    """Cells of `lanes` codes of `bits` bits, in the bit planes of `layers.packing`; with 8 bits a code is a byte.

    Attributes:
        join: codes of a symbol, 1 or 2: code i and, in the higher bits, code i + lanes / 2.
        period: of CELL and PLACE; cells that are so far apart share a table.
        context: CELL, LANE or PLACE.
    """

    bits: int
    lanes: int
    period: int = 1
    context: Literal[0, 1, 2] = CELL
    join: int = 1

    @property
    def cell_bytes(self) -> int:
        return self.lanes * self.bits // 8

    @property
    def symbols(self) -> int:
        """Of a cell."""
        return self.lanes // self.join

    @property
    def alphabet(self) -> int:
        return 1 << self.bits * self.join

    @property
    def contexts(self) -> int:
        return self.alphabet if self.context == LANE else self.period

    def fits(self, length: int) -> bool:
        """Whether so many bytes can lie so: only cells of bytes may be cut short."""
        place = self.context == PLACE
        return (
            self.bits >= 1
            and self.join in (1, 2)
            and self.bits * self.join <= 8
            and 8 <= self.lanes <= MOST_LANES
            and self.lanes % (8 * self.join) == 0
            and 1 <= self.period <= (8 if place else MOST_PERIOD)
            and (not place or 8 % self.period == 0)
            and (self.bits == 8 or length % self.cell_bytes == 0)
        )


BYTES = Layout(8, MOST_LANES)
