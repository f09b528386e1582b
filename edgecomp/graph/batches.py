"""Samples for what takes only so many at a time, as an exported file does, and what comes out put together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.hooks import capture

Tensors = tuple[Tensor, ...]

_MOST = 256  # samples at a time
_LARGEST = 16 << 20  # bytes of an activation; larger ones are taken from the system and given back, layer after layer


def comfortable(net: nn.Module, inputs: Tensors) -> int:
    """How many samples `net` should run at a time: as many as keep every activation small, at most 256."""
    sizes = [1]

    def see(_: str, __: object, output: object) -> None:
        sizes.extend(
            x.numel() * x.element_size() for x in torch.utils._pytree.tree_leaves(output) if torch.is_tensor(x)
        )

    leaves = {name: module for name, module in net.named_modules() if next(module.children(), None) is None}
    with torch.no_grad(), capture(leaves, see):
        net(*(x[:1] for x in inputs))
    return max(1, min(_MOST, _LARGEST // max(sizes)))


def records(inputs: Tensors, batch: int) -> list[Tensors]:
    """So many samples each; the last record is filled up with the last sample. Inputs without samples in front,
    such as the states of a recurrence, go by as many parts as there are records."""
    count, missing = -(-len(inputs[0]) // batch), -len(inputs[0]) % batch
    full = [torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x for x in inputs]
    return list(zip(*(x.split(max(1, len(x) // count)) for x in full), strict=True))


def joined(outputs: Sequence[Tensor] | Tensor, batch: int, count: int) -> Tensor:
    """An output of every record as that of `count` samples: along the samples where it has them, else record by
    record."""
    stacked = outputs if isinstance(outputs, Tensor) else torch.stack(list(outputs))
    along = stacked.dim() > 1 and stacked.shape[1] == batch
    return (stacked.flatten(0, 1) if along else stacked)[:count]
