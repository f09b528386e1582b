"""The C++ of targets/download: the decoder that apps compile, and the loops of the encoder."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np

from ...util import compiler
from ...util.files import data_folder
from .layout import Layout

_MESSAGE = 512


def count(data: memoryview, layout: Layout) -> np.ndarray:
    """How often each symbol follows each context: (contexts, alphabet) uint64."""
    counts = np.zeros((layout.contexts, layout.alphabet), np.uint64)
    bytes_ = np.frombuffer(data, np.uint8)
    if not _library().edgecomp_count(_at(bytes_), bytes_.size, *_fields(layout), _at(counts)):
        raise ValueError(f"{bytes_.size} bytes cannot lie as {layout}")
    return counts


def encode(data: memoryview, layout: Layout, table_of: np.ndarray, frequencies: np.ndarray) -> bytes:
    """The payload of a segment.

    Args:
        table_of: (contexts,) the table of each context.
        frequencies: (tables, alphabet), 4096 in each row; of no symbol that occurs 0.
    """
    bytes_, table_of = np.frombuffer(data, np.uint8), np.ascontiguousarray(table_of, np.uint8)
    frequencies = np.ascontiguousarray(frequencies, np.uint16)
    out = np.empty(64 + 2 * (bytes_.size * 8 // layout.bits), np.uint8)  # a symbol takes a word at most
    size = _library().edgecomp_encode(
        *(_at(bytes_), bytes_.size, *_fields(layout)),
        *(_at(table_of), _at(frequencies), len(frequencies), _at(out), out.size),
    )
    if not size:
        raise ValueError(f"{bytes_.size} bytes cannot be coded as {layout}")
    return out[:size].tobytes()


def unpack(container: Path, final: Path) -> str:
    """Decodes a container into a file; why it could not be, or an empty text."""
    message = ctypes.create_string_buffer(_MESSAGE)
    _library().edgecomp_unpack(bytes(container), bytes(final), message, _MESSAGE)
    return message.value.decode(errors="replace")


def _fields(layout: Layout) -> tuple[int, int, int, int, int]:
    return layout.bits, layout.join, layout.lanes, layout.period, layout.context


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _library() -> ctypes.CDLL:
    """Raises a BuildError where there is no compiler."""
    sources = sorted((data_folder("targets") / "download").glob("*.cc"))
    library = ctypes.CDLL(str(compiler.shared_library(sources, "libedgecomp_download.so")))
    library.edgecomp_encode.restype = ctypes.c_uint64
    size, pointer, number = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint32
    layout = (number, number, number, number, number)
    library.edgecomp_count.argtypes = (pointer, size, *layout, pointer)
    library.edgecomp_encode.argtypes = (pointer, size, *layout, pointer, pointer, number, pointer, size)
    library.edgecomp_unpack.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    return library
