"""Samples through an exported file: written as records of as many as the file takes, and read as the net gives them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BuildError
from ..graph.given import Outputs, as_tuple
from ..graph.net import CanonicalNet
from ..graph.trace import batch_of
from .base import Device
from .bench import read_outputs, write_records


@dataclass(frozen=True)
class Form:
    """What a record of a model is.

    Attributes:
        batch: samples in a record, as in the example inputs.
        outputs: what the net gives for one, for shapes and dtypes.
        values: of a file without a net: how many fp32 values of its outputs are read; `outputs` are none then.
    """

    batch: int
    outputs: Outputs
    values: int = 0

    @staticmethod
    @torch.inference_mode()
    def of(net: CanonicalNet | torch.nn.Module, examples: tuple[Tensor, ...]) -> Form:
        return Form(batch_of(examples), as_tuple(net(*examples)))

    def records(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        """Samples (N, …) as records (R, batch, …); the last one is filled up with the last sample."""
        missing = -len(inputs[0]) % self.batch
        full = [torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x for x in inputs]
        return [x.unflatten(0, (-1, self.batch)) for x in full]

    def joined(self, outputs: Outputs, samples: int) -> Outputs:
        """Outputs of records, (R, …), as those of samples, (samples, …); of an output without samples, one a record."""
        if self.values:
            return outputs
        return tuple(
            y.flatten(0, 1)[:samples] if like.dim() and len(like) == self.batch else y
            for y, like in zip(outputs, self.outputs, strict=True)
        )

    def read(self, path: Path, records: int) -> Outputs:
        """What the bench program wrote: all outputs of every record, (R, …), each as in `outputs`.

        Raises:
            BuildError: there are more or fewer bytes than such outputs take.
        """
        if self.values:
            return (read_outputs(path, records, self.values),)
        data = np.fromfile(path, np.uint8)
        for dtypes in (_as_they_are, _narrow):
            kinds = [dtypes(y.dtype) for y in self.outputs]
            sizes = [y.numel() * kind.itemsize for y, kind in zip(self.outputs, kinds, strict=True)]
            if len(data) == records * sum(sizes):
                parts = torch.from_numpy(data.reshape(records, -1)).split(sizes, 1)
                return tuple(
                    part.contiguous().view(kind).reshape(records, *y.shape).to(y.dtype)
                    for part, kind, y in zip(parts, kinds, self.outputs, strict=True)
                )
        raise BuildError(
            f"{path.name}: {len(data)} bytes for {records} records, the module's outputs take {sum(sizes)} each",
            "The exported file has other outputs than the model.",
        )


def _as_they_are(dtype: torch.dtype) -> torch.dtype:
    return dtype


def _narrow(dtype: torch.dtype) -> torch.dtype:
    """Converters to LiteRT make 64-bit integers 32-bit ones."""
    return torch.int32 if dtype == torch.int64 else dtype


def run_on(device: Device, bundle: Path, path: Path, inputs: list[Tensor], form: Form, threads: int = 1) -> Outputs:
    """All outputs of a file for records (R, batch, …) on a device: each output (R, …)."""
    with tempfile.TemporaryDirectory() as temporary:
        records, result = Path(temporary, "inputs"), Path(temporary, "outputs")
        write_records(records, inputs)
        device.run(bundle, path, records, result, threads=threads)
        return form.read(result, len(inputs[0]))
