"""What the bench program reads and writes: record after record, the bytes of all inputs, and of all outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..graph.batches import Tensors, joined, records
from ..util.files import temporary_folder


class TensorSpec(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        return cls(tensor.dtype, tuple(tensor.shape))


class Signature(NamedTuple):
    """The inputs and outputs of an exported file, as it takes and gives them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def write_records(path: Path, inputs: list[Tensor] | Tensors, signature: Signature | None = None) -> None:
    """Writes N records.

    Args:
        inputs: one tensor per input of the file, (N, …). With a signature they get its dtypes.
    """
    if signature is not None:
        inputs = [x.to(spec.dtype) for x, spec in zip(inputs, signature.inputs, strict=True)]
    with open(path, "wb") as file:
        for record in zip(*inputs, strict=True):
            for tensor in record:
                file.write(tensor.contiguous().numpy().tobytes())


def read_outputs(path: Path, signature: Signature) -> Tensors:
    """All outputs of the N records in a file, (N, …) each, in fp32 where they are of half precision."""
    fields = [(f"{i}", _numpy(spec.dtype), spec.shape) for i, spec in enumerate(signature.outputs)]
    records = np.fromfile(path, np.dtype(fields))
    tensors = (torch.from_numpy(np.ascontiguousarray(records[name])) for name, *_ in fields)
    return tuple(x.float() if x.dtype == torch.float16 else x for x in tensors)


def outputs_of(run: Callable[[Path, Path], object], signature: Signature, inputs: Tensors, batch: int) -> Tensors:
    """What a file gives for samples, as a net would give it for all at once.

    Args:
        run: runs the file on records, and writes its outputs.
        inputs: (N, …) each. batch: samples in a record.
    """
    with temporary_folder() as temporary:
        given, result = Path(temporary, "inputs"), Path(temporary, "outputs")
        split = records(inputs, batch)
        write_records(given, [torch.stack(x) for x in zip(*split, strict=True)], signature)
        run(given, result)
        return tuple(joined(output, batch, len(inputs[0])) for output in read_outputs(result, signature))


def _numpy(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=dtype).numpy().dtype
