"""`.tflite` files: read, and written so that constants lie where custom ops may read them in place.

The schema is that of the runtime (`ai_edge_litert.schema_py_generated`): a model is its `ModelT` tree of objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .files import atomic_file

IDENTIFIER = b"TFL3"
_ALIGNMENT = 64  # LiteRT refuses to hand a custom op a constant that lies anywhere else


def read(path: Path) -> Any:
    """The `ModelT` of a file. Damaged files are not recognised here; see `verify`."""
    data = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # behind the flatbuffer, as in files beyond its 2 GB
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
    return model


def write(model: Any, path: Path) -> None:
    """Writes a `ModelT`: the same bytes for the same model."""
    for code in model.operatorCodes:
        code.version = max(code.version, 1)  # the runtime finds no custom op of version 0
    builder = flatbuffers.Builder(1024)
    model.buffers = [_Aligned(buffer.data) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    with atomic_file(path) as partial:
        partial.write_bytes(builder.Output())


def make_builtin(model: Any, custom: str, builtin: int) -> None:
    """Makes the custom ops of a name builtin ones, which need no options."""
    for number, code in enumerate(model.operatorCodes):
        if code.customCode == custom.encode():
            code.customCode, code.builtinCode, code.deprecatedBuiltinCode = None, builtin, min(builtin, 127)
            for op in (op for graph in model.subgraphs for op in graph.operators if op.opcodeIndex == number):
                op.customOptions = None


class _Aligned(schema.BufferT):
    """A buffer whose bytes begin at a multiple of 64 in the file."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.data = None if data is None else np.asarray(data, np.uint8)

    def Pack(self, builder: flatbuffers.Builder) -> int:
        vector = None
        if self.data is not None:
            size = len(self.data)
            builder.StartVector(1, size, _ALIGNMENT)
            head = builder.head - size
            builder.Bytes[head : head + size] = self.data.tobytes()
            builder.head = head
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)
