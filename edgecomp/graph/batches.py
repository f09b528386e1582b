"""Samples for what takes only so many at a time, as an exported file does, and what comes out put together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


def records(inputs: Tensors, batch: int) -> list[Tensors]:
    """So many samples each; the last record is filled up with the last sample."""
    missing = -len(inputs[0]) % batch
    full = [torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x for x in inputs]
    return list(zip(*(x.split(batch) for x in full), strict=True))


def joined(outputs: Sequence[Tensor] | Tensor, batch: int, count: int) -> Tensor:
    """An output of every record as that of `count` samples: along the samples where it has them, else record by
    record."""
    stacked = outputs if isinstance(outputs, Tensor) else torch.stack(list(outputs))
    along = stacked.dim() > 1 and stacked.shape[1] == batch
    return (stacked.flatten(0, 1) if along else stacked)[:count]
