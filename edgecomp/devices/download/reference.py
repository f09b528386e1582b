"""The decoder in plain Python: the twin of targets/download/decode.cc, which the tests compare it with. Slow."""

from __future__ import annotations

import struct
import zlib

from ...layers.packing import planes
from .container import HEADER_BYTES, parsed_header
from .layout import CELL, LANE, MOST_LANES, MOST_PERIOD, MOST_TABLES, PLACE, Layout

_SLOTS, _STATES, _LOWEST = 4096, 8, 1 << 16


def decode(container: bytes) -> bytes:
    """The file in a container.

    Raises:
        ValueError: it is damaged.
    """
    header = parsed_header(container[:HEADER_BYTES])
    at = HEADER_BYTES + header.deflated_bytes
    inflate = zlib.decompressobj(-15)
    try:
        plain = inflate.decompress(container[HEADER_BYTES:at], header.head_bytes + header.rest_bytes + 1)
    except zlib.error as error:
        raise ValueError("the container is damaged") from error
    _check(inflate.eof and not inflate.unused_data and len(plain) == header.head_bytes + header.rest_bytes)
    numbers, rest, out = _Numbers(plain[: header.head_bytes]), plain[header.head_bytes :], bytearray()
    for _ in range(header.segments):
        gap, length, packed = numbers.take(3)
        _check(gap <= len(rest) and packed <= len(container) - at and len(out) + gap + length <= header.file_bytes)
        out += rest[:gap]
        out += _segment(numbers, length, container[at : at + packed])
        rest, at = rest[gap:], at + packed
    _check(numbers.at == header.head_bytes and at == len(container))
    out += rest
    _check(len(out) == header.file_bytes and zlib.crc32(out) == header.crc32)
    return bytes(out)


def _check(fine: bool) -> None:
    if not fine:
        raise ValueError("the container is damaged")


class _Numbers:
    """LEB128 numbers, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def one(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            _check(self.at < len(self.data))
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("the container is damaged")

    def take(self, count: int) -> list[int]:
        return [self.one() for _ in range(count)]


def _segment(numbers: _Numbers, length: int, payload: bytes) -> bytes:
    bits = numbers.one()
    if bits == 0:
        _check(len(payload) == length)
        return payload
    join, context, lanes, period, count = numbers.take(5)
    _check(
        bits <= 8 and context <= PLACE and lanes <= MOST_LANES and period <= MOST_PERIOD and 1 <= count <= MOST_TABLES
    )
    layout = Layout(bits, lanes, period, context, join)  # type: ignore[arg-type]
    _check(layout.fits(length))
    table_of = numbers.take(layout.contexts) if count > 1 else [0] * layout.contexts
    _check(max(table_of) < count)
    slots = [_slots(numbers, layout.alphabet) for _ in range(count)]
    symbols = _symbols(payload, 8 * length // bits // join, layout, [slots[table] for table in table_of])
    if bits == 8:
        return bytes(symbols)
    cells = (symbols[at : at + layout.symbols] for at in range(0, len(symbols), layout.symbols))
    return b"".join(_packed(_codes(cell, layout), bits) for cell in cells)


def _slots(numbers: _Numbers, alphabet: int) -> list[tuple[int, int, int]]:
    """(symbol, frequency, place among the slots of its symbol) of every slot."""
    slots: list[tuple[int, int, int]] = []
    symbol = 0
    while symbol < alphabet:
        frequency = numbers.one()
        _check(frequency <= _SLOTS)
        slots += [(symbol, frequency, place) for place in range(frequency)]
        symbol += 1 if frequency else 1 + numbers.one()
    _check(len(slots) == _SLOTS)
    return slots


def _symbols(payload: bytes, count: int, layout: Layout, tables: list[list[tuple[int, int, int]]]) -> list[int]:
    """The symbols of a segment, `tables` by context."""
    _check(len(payload) >= 4 * _STATES)
    states = list(struct.unpack(f"<{_STATES}I", payload[: 4 * _STATES]))
    at, symbols = 4 * _STATES, []
    for i in range(count):
        if layout.context == CELL:
            context = i // layout.symbols % layout.period
        elif layout.context == LANE:
            context = symbols[i - layout.symbols] if i >= layout.symbols else 0
        else:
            context = i % layout.symbols % layout.period
        state = states[i % _STATES]
        symbol, frequency, place = tables[context][state % _SLOTS]
        state = frequency * (state // _SLOTS) + place
        if state < _LOWEST:
            _check(at + 2 <= len(payload))
            state = state << 16 | payload[at] | payload[at + 1] << 8
            at += 2
        states[i % _STATES] = state
        symbols.append(symbol)
    _check(at == len(payload) and set(states) == {_LOWEST})
    return symbols


def _codes(symbols: list[int], layout: Layout) -> list[int]:
    """The codes of a cell."""
    mask = (1 << layout.bits) - 1
    return [symbol >> layout.bits * part & mask for part in range(layout.join) for symbol in symbols]


def _packed(codes: list[int], bits: int) -> bytes:
    """A cell's bytes, see `layers.packing`."""
    packed = bytearray()
    for shift, width in planes(bits):
        size, mask = len(codes) * width // 8, (1 << width) - 1
        for byte in range(size):
            lanes = codes[byte::size]
            packed.append(sum((code >> shift & mask) << width * i for i, code in enumerate(lanes)))
    return bytes(packed)
