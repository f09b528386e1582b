"""From the user's module to its canonical net, and the proof that both compute the same."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BuildError
from .given import Given, Outputs, as_tuple, distance
from .net import CanonicalNet
from .precision import OTHERS, other_precision, to_fp32
from .rebuild import rebuild
from .trace import Examples, Traced, batch_of, trace

_SAME = 1e-4  # relative; sums in another order, as where batch norms are folded
_ROUNDED = 0.05  # the same beside a module that computes in half precision


def canonical(given: Given, examples: Examples, records: list[Examples], name: str) -> CanonicalNet:
    """The canonical net of a module, in fp32.

    Args:
        examples: inputs of the shapes that the exported file is to take.
        records: inputs of these shapes, to compare the outputs of both on.

    Raises:
        BuildError: the module cannot be traced, or the net that comes of it computes something else.
    """
    precision = other_precision(given)
    traced = trace(given, examples, name)
    if precision:
        to_fp32(traced.module)
    net = rebuild(traced)
    wanted = [given_outputs(given, record) for record in records]
    net.batch = net.batch if net.batch is not None or _takes_any_batch(net, records, wanted) else batch_of(examples)
    for record, outputs in zip(records, wanted, strict=True):
        off = distance(net_outputs(net, record), outputs)
        if not off <= (_ROUNDED if precision else _SAME):
            raise BuildError(
                f"{name}: what torch.export traces of the model gives other outputs than the model itself "
                f"({100 * off:.2f} % off)",
                "The forward pass depends on chance, on calls before it, or on the values of its inputs.",
            )
    return net


def of_traced(traced: Traced) -> CanonicalNet:
    """The canonical net of a program that was exported before."""
    return rebuild(traced)


@torch.no_grad()
def given_outputs(given: Given, record: Examples) -> Outputs:
    """What the module gives for a record, in fp32. What it writes to its inputs stays its own."""
    return tuple(single(x) for x in given(*(x.clone() for x in record)))


@torch.no_grad()
def net_outputs(net: CanonicalNet, record: Examples) -> Outputs:
    return as_tuple(net(*map(single, record)))


def single(x: Tensor) -> Tensor:
    """fp32 in the place of other precisions."""
    return x.float() if x.dtype in OTHERS else x


def _takes_any_batch(net: CanonicalNet, records: list[Examples], wanted: list[Outputs]) -> bool:
    """Whether samples do not see each other: records put together give what they give one by one."""
    try:
        together = net_outputs(net, tuple(torch.cat(inputs) for inputs in zip(*records, strict=True)))
        return distance(together, tuple(torch.cat(outputs) for outputs in zip(*wanted, strict=True))) <= _ROUNDED
    except (RuntimeError, IndexError):
        return False
