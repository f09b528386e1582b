"""`.tflite` files: read, and written so that constants lie where custom ops may read them in place.

The schema is that of the runtime (`ai_edge_litert.schema_py_generated`): a model is its `ModelT` tree of objects.
"""

from __future__ import annotations

import hashlib
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema

from ...devices.tensors import Signature, TensorSpec
from ...errors import BuildError
from ...util.files import atomic_file

IDENTIFIER = b"TFL3"
_ALIGNMENT = 64  # LiteRT refuses to hand a custom op a constant that lies anywhere else


_REMEDY = "Fetch it again, or convert it again, with fixed sizes; `Interpreter(path).allocate_tensors()` must work."

_SECONDS = 25  # and as many more for every 100 MB: what takes longer does not come to an end

# Verifies and prepares what comes on its standard input, as far as this is possible without others' custom operators.
_VERIFIER = """
import sys
from ai_edge_litert.interpreter import Interpreter
try:
    Interpreter(model_content=sys.stdin.buffer.read()).allocate_tensors()
except Exception as error:
    if "unresolved custom op" not in str(error):
        sys.exit(" ".join(str(error).split()))
"""

_DTYPES = {
    **{"FLOAT32": torch.float32, "FLOAT16": torch.float16, "FLOAT64": torch.float64, "BOOL": torch.bool},
    **{"INT8": torch.int8, "UINT8": torch.uint8, "INT16": torch.int16, "INT32": torch.int32, "INT64": torch.int64},
}


def read(path: Path) -> Any:
    """The `ModelT` of a file that we wrote. Damaged files are not recognised here; see `verified`."""
    return parse(path.read_bytes())


def verified(data: bytes, source: str) -> Any:
    """The `ModelT` of the bytes of anybody's file.

    Native code sees them in a child process alone: it may die of them. What its verifier has passed can be parsed here,
    with all indices checked.

    Raises:
        BuildError: the bytes are not those of a whole .tflite.
    """
    if data[4:8] != IDENTIFIER:
        raise BuildError(f"{source} is not a .tflite file: bytes 4 to 8 are {data[4:8]!r}, not {IDENTIFIER!r}")
    limit = _SECONDS * (1 + len(data) / 100e6)
    try:
        child = subprocess.run([sys.executable, "-c", _VERIFIER], input=data, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{source} is damaged: LiteRT has not verified it within {limit:.0f} s", _REMEDY) from error
    if child.returncode:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        died = f"the verifier died of {signal.Signals(-child.returncode).name}" if child.returncode < 0 else ""
        reason = died or (lines or ["no reason given"])[-1]
        raise BuildError(f"{source} is damaged, or not for this version of LiteRT: {reason}", _REMEDY)
    try:
        model = parse(data)
        problem = _dangling(model)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise BuildError(f"{source} is damaged: {problem}", _REMEDY)
    return model


def signature(path: Path) -> Signature:
    """What the file takes and gives, in the order of its graph, which is the runtime's; nothing else of it is read."""
    model = schema.Model.GetRootAs(np.memmap(path, np.uint8, "r"))
    graph = model.Subgraphs(model.SignatureDefs(0).SubgraphIndex() if model.SignatureDefsLength() else 0)

    def spec(index: int) -> TensorSpec:
        tensor = graph.Tensors(index)
        shape = tuple(tensor.Shape(i) for i in range(tensor.ShapeLength()))
        return TensorSpec(_DTYPES[name_of(schema.TensorType, tensor.Type())], shape)

    inputs = tuple(spec(graph.Inputs(i)) for i in range(graph.InputsLength()))
    return Signature(inputs, tuple(spec(graph.Outputs(i)) for i in range(graph.OutputsLength())))


def parse(data: bytes) -> Any:
    """The `ModelT` of the bytes of a file that is known to be whole."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # behind the flatbuffer, as in files beyond its 2 GB
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
    return model


def _dangling(model: Any) -> str:
    """The first index that points at nothing; empty if none does."""
    buffers, graphs = len(model.buffers), model.subgraphs
    if not graphs:
        return "it has no graph"
    checks = [("buffer of metadata", [m.buffer for m in _list(model.metadata)], buffers)]
    for graph in graphs:
        tensors, operators = len(_list(graph.tensors)), _list(graph.operators)
        checks += [
            ("buffer of a tensor", [tensor.buffer for tensor in _list(graph.tensors)], buffers),
            ("tensor of a graph", [*_list(graph.inputs), *_list(graph.outputs)], tensors),
            ("operator code", [op.opcodeIndex for op in operators], len(_list(model.operatorCodes))),
        ]
        for op in operators:
            given = [index for index in _list(op.inputs) if index != -1]  # which is one left out
            checks.append(("tensor of an operator", [*given, *_list(op.outputs), *_list(op.intermediates)], tensors))
    for signature in _list(model.signatureDefs):
        checks.append(("graph of a signature", [signature.subgraphIndex], len(graphs)))
        tensors = len(_list(graphs[min(signature.subgraphIndex, len(graphs) - 1)].tensors))
        mapped = [entry.tensorIndex for entry in [*_list(signature.inputs), *_list(signature.outputs)]]
        checks.append(("tensor of a signature", mapped, tensors))
    for what, indices, count in checks:
        for index in indices:
            if not 0 <= index < count:
                return f"{what} {index}, of {count}"
    return ""


def name_of(enumeration: type, value: int) -> str:
    """The name of a value of one of the schema's enumerations."""
    return next((name for name, number in vars(enumeration).items() if number == value), f"number {value}")


def operation(code: Any) -> str:
    """The name of an `OperatorCodeT`; of a custom one its own."""
    name = name_of(schema.BuiltinOperator, max(code.builtinCode, code.deprecatedBuiltinCode))
    return text(code.customCode) if name == "CUSTOM" else name


def operator(model: Any, kind: str, inputs: list[int], output: int, options: Any = None, custom: str = "") -> Any:
    """A new `OperatorT` of a kind: a builtin's name, or CUSTOM with its own. The model gets its code if it lacks it.

    Args:
        inputs, output: tensors of the graph. options: a builtin's, such as `PadOptionsT()`.
    """
    op = schema.OperatorT()
    op.opcodeIndex = _code(model, getattr(schema.BuiltinOperator, kind), custom)
    op.inputs, op.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    if options is not None:
        op.builtinOptions = options
        op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    if custom:
        op.customOptions = [0]
    return op


def op_settings(
    matrix: tuple[int, int, int],
    scaled: bool,
    biased: bool,
    lookup: tuple[int, int, bool],
    geometry: Iterable[int] = (),
) -> np.ndarray:
    """What our custom operators must know beyond shapes, (n,) int32, in the order of `targets/litert/op.h`.

    Args:
        matrix: rows, axis, tile. scaled, biased: whether there are row scales, a bias.
        lookup: bits and group of the tables, ReLU.
        geometry: of a convolution, height and width of kernel, stride, padding, dilation.
    """
    return np.array([*matrix, scaled, biased, *lookup, *geometry], np.int32)


def _code(model: Any, builtin: int, custom: str) -> int:
    """The index of an operator code, added if it is not there in version 1."""
    for index, code in enumerate(model.operatorCodes):
        known = max(code.builtinCode, code.deprecatedBuiltinCode), text(code.customCode), code.version
        if known == (builtin, custom, 1):
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = builtin, 1
    code.deprecatedBuiltinCode = min(builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    code.customCode = custom or None
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def text(stored: bytes | str | None) -> str:
    """A string of the tree."""
    return stored.decode(errors="replace") if isinstance(stored, bytes) else stored or ""


def _list(vector: Any) -> Any:
    """An absent vector is an empty one."""
    return () if vector is None else vector


def write(model: Any, path: Path) -> None:
    """Writes a `ModelT`: the same bytes for the same model."""
    for code in model.operatorCodes:
        code.version = max(code.version, 1)  # the runtime finds no custom op of version 0
    _share_buffers(model)
    builder = flatbuffers.Builder(1024)
    model.buffers = [_Aligned(buffer.data) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    with atomic_file(path) as partial:
        partial.write_bytes(builder.Output())


def _share_buffers(model: Any) -> None:
    """Lets constants of equal bytes lie in the file once."""
    first: dict[bytes, int] = {}
    left: set[int] = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            held = tensor.buffer < len(model.buffers) and not tensor.isVariable
            data = model.buffers[tensor.buffer].data if held else None
            if data is None or len(data) == 0:
                continue
            kept = first.setdefault(hashlib.sha256(np.asarray(data, np.uint8)).digest(), tensor.buffer)
            if kept != tensor.buffer:
                left.add(tensor.buffer)
                tensor.buffer = kept
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for index in left - used:
        model.buffers[index].data = None


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

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802, the generated code calls it
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
