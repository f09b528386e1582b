"""The user's module as it was given, with tensors in a row as inputs and as outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Outputs = tuple[Tensor, ...]
_TIES = 0.02


class Given(nn.Module):
    """Calls `module` with tensors by their place, or by `names` where it takes keywords, in the precision of `dtypes`;
    gives all tensors that it gives."""

    def __init__(
        self, module: nn.Module, names: tuple[str, ...] = (), dtypes: tuple[torch.dtype, ...] | None = None
    ) -> None:
        super().__init__()
        self.module, self.names, self.dtypes = module, names, dtypes

    def forward(self, *inputs: Tensor) -> Outputs:
        if self.dtypes is not None:
            inputs = tuple(x if x.dtype == dtype else x.to(dtype) for x, dtype in zip(inputs, self.dtypes, strict=True))
        keywords = dict(zip(self.names, inputs, strict=True)) if self.names else {}
        return leaves(self.module(**keywords) if self.names else self.module(*inputs))


def leaves(outputs: Any) -> Outputs:
    """All tensors of what a module gives, in order: of tuples, dicts and dataclasses, however they are nested."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return [plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
        return value

    flat = pytree.tree_leaves(pytree.tree_map(plain, outputs))
    return tuple(leaf for leaf in flat if isinstance(leaf, Tensor))


def as_tuple(outputs: Tensor | Outputs) -> Outputs:
    """What a net gives, one tensor or several, as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def distance(got: Outputs, wanted: Outputs) -> float:
    """‖got − wanted‖ / ‖wanted‖ over the finite values of all outputs; infinite where shapes differ, or one is not
    finite where the other is, or another kind of not finite. Of integers a fiftieth may differ: the largest of two
    values that are nearly equal is either."""
    if [x.shape for x in got] != [x.shape for x in wanted]:
        return float("inf")
    difference = norm = 0.0
    for a, b in zip(got, wanted, strict=True):
        if not b.is_floating_point():
            if b.numel() and (a != b).float().mean() > _TIES:
                return float("inf")
            continue
        a, b = a.detach().double(), b.detach().double()
        finite = b.isfinite()
        if not torch.equal(finite, a.isfinite()) or not torch.equal(_kind(a[~finite]), _kind(b[~finite])):
            return float("inf")
        difference += (a[finite] - b[finite]).square().sum().item()
        norm += b[finite].square().sum().item()
    return float((difference / norm) ** 0.5) if norm else (float("inf") if difference else 0.0)


def largest_difference(got: Outputs, wanted: Outputs) -> float:
    """max |got − wanted| over all outputs, of any dtype, where both are finite."""
    apart = [(a.double() - b.double()).abs().nan_to_num(0.0, 0.0, 0.0) for a, b in zip(got, wanted, strict=True)]
    return max((x.max().item() for x in apart if x.numel()), default=0.0)


def _kind(x: Tensor) -> Tensor:
    return x.nan_to_num(0.0, 1.0, -1.0)
