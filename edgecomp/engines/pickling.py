"""Values on their way to other processes: pickled, with the bytes of tensors apart, so that they can lie in memory that
processes share and are not copied into each.

Only what this program wrote itself is ever unpickled: model files and archives go through `load`.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterable
from typing import Any

import cloudpickle
import torch
from torch import Tensor


def pack(value: Any) -> list[Any]:
    """The pickle of a value (classes of model files go along in it), then the buffers of its tensors."""
    file, buffers = io.BytesIO(), []
    _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    return [file.getbuffer(), *(buffer.raw() for buffer in buffers)]


def unpack(parts: Iterable[Any]) -> Any:
    """The value again. Its tensors are the buffers themselves: they are not to be written to."""
    first, *buffers = parts
    return pickle.loads(first, buffers=buffers)


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if type(value) is not Tensor or value.device.type != "cpu" or value.layout != torch.strided:
            return super().reducer_override(value)
        value = value.detach()
        if not _dense(value):
            value = value.contiguous()
        flat = value.as_strided((value.numel(),), (1,))  # as it lies in memory, channels_last or not
        data = pickle.PickleBuffer(flat.view(torch.uint8).numpy()) if value.numel() else b""
        return _tensor, (data, value.dtype, tuple(value.shape), value.stride())


def _dense(value: Tensor) -> bool:
    """Its elements lie side by side, in whatever order."""
    steps = sorted((step, size) for step, size in zip(value.stride(), value.shape, strict=True) if size > 1)
    expected = 1
    for step, size in steps:
        if step != expected:
            return False
        expected *= size
    return True


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    if len(data) == 0:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of memory that cannot be written to
        return torch.frombuffer(data, dtype=dtype).as_strided(shape, stride)
