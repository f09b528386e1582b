"""Values of a `.tflite`'s tensors, from LiteRT's interpreter in a child process: native code may die of a foreign file,
and of its damaged ones hang."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import BuildError
from ...graph.batches import Tensors, joined, records
from ...util.files import temporary_folder
from . import flatbuffer
from .file_net import FileNet
from .reader import main_graph, shape_of

_PATIENCE_S = 600  # for a record

# Says when it is ready, runs the file on every record that comes, and writes the bytes of some of its tensors. XNNPACK
# would not show those within it.
_PROGRAM = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
task = json.loads(sys.stdin.buffer.readline())
try:
    net = Interpreter(
        task["file"],
        num_threads=task["threads"],
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    net.allocate_tensors()
    with open(task["pipe"], "wb") as pipe:
        pipe.write(bytes(1))
        for _ in range(task["records"]):
            pipe.flush()
            for index, dtype, shape in task["inputs"]:
                size = np.dtype(dtype).itemsize * int(np.prod(shape))
                net.set_tensor(index, np.frombuffer(sys.stdin.buffer.read(size), dtype).reshape(shape))
            net.invoke()
            for index, shape in task["tensors"]:
                values = net.get_tensor(index)
                if values.dtype != np.float32 or list(values.shape) != shape:
                    sys.exit(f"tensor {index} is {values.dtype} {values.shape}, the file says float32 {shape}")
                pipe.write(values.tobytes())
except Exception as error:
    sys.exit(" ".join(str(error).split()))
"""


def values_of(
    file: bytes, net: FileNet, samples: Tensors, batch: int, tensors: list[int]
) -> Iterator[tuple[np.ndarray, ...]]:
    """What tensors of a file hold when it has run, record by record: fp32, of the shapes that the file says.

    Args:
        file: that of the net, or one written from it, whose tensors have the same indices.
        samples: (N, …) for each input. batch: samples in a record.
        tensors: indices in the main graph; all are FLOAT32.

    Raises:
        BuildError: the file does not run, or takes longer than ten minutes for a record.
    """
    model = flatbuffer.parse(file)
    if main_graph(model) != 0:
        raise BuildError(f"{net.source}: its signature is not of the first graph, which alone can be listened to")
    shapes = [shape_of(model.subgraphs[0].tensors[index]) for index in tensors]
    split = records(samples, batch)
    with temporary_folder() as temporary:
        path = Path(temporary, "model.tflite")
        path.write_bytes(file)
        first = zip(net.inputs, (x.numpy() for x in split[0]), strict=True)
        task = {
            "file": str(path),
            "records": len(split),
            "inputs": [[given.tensor, x.dtype.str, list(x.shape)] for given, x in first],
            "tensors": [[index, list(shape)] for index, shape in zip(tensors, shapes, strict=True)],
            "threads": torch.get_num_threads(),
        }
        child = _Child(task, net.source)
        try:
            for record in split:
                child.put(record)
                yield tuple(child.array(shape) for shape in shapes)
        finally:
            child.close()


def first_output(net: FileNet, samples: Tensors, batch: int) -> Tensor:
    """What the file gives first, (N, …) as a net would; see `values_of`."""
    index = int(flatbuffer.parse(net.file).subgraphs[0].outputs[0])
    outputs = [torch.from_numpy(values) for (values,) in values_of(net.file, net, samples, batch, [index])]
    return joined(outputs, batch, len(samples[0]))


class _Child:
    """The process, its standard input, and the pipe that it writes to."""

    def __init__(self, task: dict[str, object], source: str) -> None:
        self._source, self._errors = source, tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        self._pipe, end = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=[end],
        )
        os.close(end)
        try:
            self._write(json.dumps({**task, "pipe": end}).encode() + b"\n")
            self._read(np.empty(1, np.uint8))
        except BaseException:
            self.close()
            raise

    def put(self, record: Tensors) -> None:
        for x in record:
            self._write(x.contiguous().numpy().tobytes())

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next one that it gives."""
        values = np.empty(shape, np.float32)
        self._read(values.reshape(-1).view(np.uint8))
        return values

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        os.close(self._pipe)
        self._errors.close()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError as error:  # it has ended
            raise self._failure() from error

    def _read(self, into: np.ndarray) -> None:
        left = memoryview(into)
        while left:
            if not select.select([self._pipe], [], [], _PATIENCE_S)[0]:
                raise BuildError(f"{self._source} takes longer than {_PATIENCE_S} s for one record")
            got = os.readv(self._pipe, [left])
            if not got:
                raise self._failure()
            left = left[got:]

    def _failure(self) -> BuildError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = signal.Signals(-code).name if code < 0 else (lines or ["no reason given"])[-1]
        remedy = "`Interpreter(path).invoke()` of ai_edge_litert must work on it."
        if "edgecomp" in reason:
            remedy = "It is coded already: give the file that it was made of, or leave out --data."
        return BuildError(f"{self._source} does not run in LiteRT's interpreter: {reason}", remedy)
