"""Reads and writes containers: docs/download.md describes them byte by byte."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import BuildError, EdgecompError, UsageError
from ...util import progress
from ...util.files import atomic_file, sha256_file, temporary_folder
from ...util.units import format_bytes
from . import native, tables

NAME = "model.edgecomp"
MAGIC, VERSION = b"edgecomp", 1
SUFFIXES = {1: ".pte", 2: ".tflite"}
_HEADER = struct.Struct("<8sIIQ32sIIIQQ")  # and its CRC-32
HEADER_BYTES = _HEADER.size + 4
_SMALLEST = 128  # bytes of a tensor that is worth a segment of its own
_MOST_PER_BYTE = 1000  # what takes less is left to deflate: a container is no bomb


class _NoContainer(ValueError):
    """Other bytes altogether."""


@dataclass(frozen=True)
class Header:
    """What stands in front. `file_bytes`, `sha256`, `crc32`: of the file that it decodes into."""

    suffix: str
    file_bytes: int
    sha256: bytes
    crc32: int
    segments: int
    head_bytes: int
    rest_bytes: int
    deflated_bytes: int


def pack(file: Path, final: Path, tensors: Iterable[tables.Tensor]) -> int:
    """Writes the container of a .pte or .tflite, decodes it again, and compares.

    Args:
        tensors: whose bytes to look for in the file. What is not found, or smaller otherwise, is deflated.

    Returns:
        The container's bytes.

    Raises:
        BuildError: it cannot be written, or decodes into something else.
    """
    data = file.read_bytes()
    with atomic_file(final) as partial:
        partial.write_bytes(_container(data, file.suffix, tensors))
        with temporary_folder() as temporary:
            wrong = native.unpack(partial, temporary / "file")
            if wrong or sha256_file(temporary / "file") != hashlib.sha256(data).hexdigest():
                raise BuildError(f"{final} does not decode into {file}: {wrong or 'other bytes'}")
    return final.stat().st_size


def unpack(container: Path, folder: Path, name: str = "model") -> Path:
    """Decodes a container into `folder`/`name`.pte or .tflite, and compares its SHA-256.

    Raises:
        UsageError: it does not exist, or is no container.
        BuildError: it is damaged, or the file cannot be written.
    """
    header = read_header(container)
    final = folder / f"{name}{header.suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"cannot write {folder}: {error.strerror}", "Name another folder with -o.") from error
    with progress.stage("unpack", str(container)), atomic_file(final) as partial:
        wrong = native.unpack(container, partial)
        if "cannot be written" in wrong:
            raise BuildError(f"cannot write {final}: {wrong}", f"It takes {format_bytes(header.file_bytes)}.")
        if not wrong and bytes.fromhex(sha256_file(partial)) != header.sha256:
            wrong = f"{container}: what it decodes into has another SHA-256"
        if wrong:
            raise BuildError(wrong, "" if "not enough memory" in wrong else _REMEDY)
    return final


_REMEDY = "Download it again, or build it again."


def of_file(container: Path, file: Path) -> Path | None:
    """The container, if it says that it decodes into this very file."""
    try:
        fits = read_header(container).sha256 == bytes.fromhex(sha256_file(file))
    except EdgecompError:
        return None
    return container if fits else None


def read_header(container: Path) -> Header:
    """Raises a UsageError or BuildError if the file does not begin as a container does."""
    try:
        with open(container, "rb") as file:
            return parsed_header(file.read(HEADER_BYTES))
    except FileNotFoundError as error:
        raise UsageError(f"{container} does not exist", "Name the model.edgecomp of a build.") from error
    except OSError as error:
        raise UsageError(
            f"{container} cannot be read: {error.strerror}", "Name the model.edgecomp of a build."
        ) from error
    except _NoContainer as error:
        raise UsageError(f"{container}: {error}", "Name a build's model.edgecomp.") from error
    except ValueError as error:
        raise BuildError(f"{container}: {error}", _REMEDY) from error


def parsed_header(data: bytes) -> Header:
    """Raises a ValueError if these are no bytes of a header."""
    if data[:8] != MAGIC or len(data) < HEADER_BYTES:
        raise _NoContainer("it is no download container of edgecomp")
    _, version, kind, *fields = _HEADER.unpack(data[: _HEADER.size])
    if version != VERSION:
        raise ValueError("the container is of another version of edgecomp")
    if zlib.crc32(data[: _HEADER.size]) != struct.unpack("<I", data[_HEADER.size : HEADER_BYTES])[0]:
        raise ValueError("the container is damaged")
    if kind not in SUFFIXES:
        raise ValueError("the container holds a kind of file that this edgecomp does not know")
    return Header(SUFFIXES[kind], *fields)


# --- writing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segment:
    """Where a tensor lies in the file, its model (None: as it is) and its payload."""

    offset: int
    length: int
    model: tables.Tables | None
    payload: bytes


def _container(data: bytes, suffix: str, tensors: Iterable[tables.Tensor]) -> bytes:
    kind = next(number for number, known in SUFFIXES.items() if known == suffix)
    segments = [segment for place in _places(data, tensors) if (segment := _segment(data, *place)) is not None]
    head, rest, at = bytearray(), bytearray(), 0
    for segment in segments:
        rest += data[at : segment.offset]
        for number in (segment.offset - at, segment.length, len(segment.payload)):
            head += number_bytes(number)
        head += _described(segment.model) if segment.model else number_bytes(0)
        at = segment.offset + segment.length
    rest += data[at:]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    deflated = deflate.compress(bytes(head + rest)) + deflate.flush()
    digest = hashlib.sha256(data).digest()
    header = _HEADER.pack(
        *(MAGIC, VERSION, kind, len(data), digest, zlib.crc32(data)),
        *(len(segments), len(head), len(rest), len(deflated)),
    )
    crc = struct.pack("<I", zlib.crc32(header))
    return b"".join([header, crc, deflated, *(segment.payload for segment in segments)])


def _places(data: bytes, tensors: Iterable[tables.Tensor]) -> list[tuple[int, tables.Tensor]]:
    """Where tensors lie in the file, in its order; of those that overlap the larger one."""
    taken: list[tuple[int, int]] = []
    found = []
    for tensor in sorted(tensors, key=lambda tensor: (-len(tensor.data), tensor.bits)):
        offset = data.find(tensor.data) if len(tensor.data) >= _SMALLEST else -1
        while offset >= 0 and any(offset < end and start < offset + len(tensor.data) for start, end in taken):
            offset = data.find(tensor.data, offset + 1)
        if offset >= 0:
            taken.append((offset, offset + len(tensor.data)))
            found.append((offset, tensor))
    return sorted(found, key=lambda place: place[0])


def _segment(data: bytes, offset: int, tensor: tables.Tensor) -> _Segment | None:
    """The smallest of what can be done to a tensor; None where deflate with the rest of the file is."""
    length = len(tensor.data)
    part = memoryview(data)[offset : offset + length]
    model, deflated = tables.best(part, tensor), len(zlib.compress(part, 6))
    if deflated <= model.bytes or model.bytes * _MOST_PER_BYTE < length:
        return None if deflated < length else _Segment(offset, length, None, bytes(part))
    payload = native.encode(part, model.layout, model.table_of, model.frequencies)
    return _Segment(offset, length, model, payload)


def _described(model: tables.Tables) -> bytes:
    layout = model.layout
    numbers = [layout.bits, layout.join, layout.context, layout.lanes, layout.period, len(model.frequencies)]
    numbers += model.table_of.tolist() if len(model.frequencies) > 1 else []
    for frequencies in model.frequencies:
        at = 0
        while at < len(frequencies):
            numbers.append(int(frequencies[at]))
            at += 1
            if not numbers[-1]:
                zeros = int(np.argmax(np.append(frequencies[at:], 1) > 0))
                numbers.append(zeros)
                at += zeros
    return b"".join(map(number_bytes, numbers))


def number_bytes(number: int) -> bytes:
    """LEB128: seven bits a byte, the lowest first, the highest bit set but in the last one."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
