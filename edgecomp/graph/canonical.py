"""From the user's module to its canonical net, and the proof that both compute the same."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BuildError
from .given import Given, Outputs, as_tuple, distance
from .net import CanonicalNet
from .precision import other_precision, single, to_fp32
from .rebuild import rebuild
from .trace import Examples, Traced, batch_of, trace, traced_program

_SAME = 1e-4  # relative; sums in another order, as where batch norms are folded
HALF = 0.05  # the same beside a module that computes in half precision


def canonical(given: Given, examples: Examples, records: list[Examples], name: str) -> CanonicalNet:
    """The canonical net of a module, in fp32.

    Args:
        examples: inputs of the shapes that the exported file is to take, in fp32.
        records: inputs of these shapes, to compare the outputs of both on.

    Raises:
        BuildError: the module cannot be traced, or the net that comes of it computes something else.
    """
    return _compared(_rebuilt(trace(given, examples, name), given), given, examples, records, name)


def of_program(program: torch.export.ExportedProgram, name: str) -> tuple[CanonicalNet, Given, Examples]:
    """The canonical net of a program that was exported before, what calls the program as it is, and its examples."""
    args, keywords = program.example_inputs or ((), {})
    given = Given(
        program.module(check_guards=False), tuple(keywords), tuple(x.dtype for x in (*args, *keywords.values()))
    )
    examples = tuple(single(x).contiguous() for x in (*args, *keywords.values()))
    net = _rebuilt(traced_program(program), given)
    return _compared(net, given, examples, records_for(examples), name), given, examples


def _rebuilt(traced: Traced, given: Given) -> CanonicalNet:
    if other_precision(given):
        to_fp32(traced.module)
    return rebuild(traced)


def _compared(net: CanonicalNet, given: Given, examples: Examples, records: list[Examples], name: str) -> CanonicalNet:
    limit = HALF if other_precision(given) else _SAME
    wanted = [given_outputs(given, record) for record in records]
    if net.batch is None and not _takes_any_batch(net, records, wanted, limit):
        net.batch = batch_of(examples)
    for record, outputs in zip(records, wanted, strict=True):
        off = distance(net_outputs(net, record), outputs)
        if not off <= limit:
            raise BuildError(
                f"{name}: what torch.export traces of the model gives other outputs than the model itself "
                f"({100 * off:.2f} % off)",
                "The forward pass depends on chance, on calls before it, or on the values of its inputs.",
            )
    return net


def records_for(examples: Examples, inputs: Examples | None = None, count: int = 3) -> list[Examples]:
    """The examples, and other records like them: the first samples of `inputs` if there are some, else random ones."""
    size = batch_of(examples)
    if inputs is not None and len(inputs[0]) >= (count - 1) * size:
        return [examples, *(tuple(x[i * size : (i + 1) * size] for x in inputs) for i in range(count - 1))]
    generator = torch.Generator().manual_seed(0)
    return [examples, *(tuple(_random_like(x, generator) for x in examples) for _ in range(count - 1))]


def _random_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers; integers from the range of those in x; what is true or false stays."""
    if x.is_floating_point():
        return torch.randn(x.shape, generator=generator)
    if x.dtype == torch.bool or not x.numel():
        return x
    return torch.randint(int(x.min()), int(x.max()) + 1, x.shape, generator=generator).to(x.dtype)


@torch.no_grad()
def given_outputs(given: Given, record: Examples) -> Outputs:
    """What the module gives for a record, in fp32. What it writes to its inputs stays its own."""
    return tuple(single(x) for x in given(*(x.clone() for x in record)))


@torch.no_grad()
def net_outputs(net: CanonicalNet, record: Examples) -> Outputs:
    return as_tuple(net(*map(single, record)))


def _takes_any_batch(net: CanonicalNet, records: list[Examples], wanted: list[Outputs], limit: float) -> bool:
    """Whether samples do not see each other: records put together give what they give one by one."""
    try:
        together = net_outputs(net, tuple(torch.cat(inputs) for inputs in zip(*records, strict=True)))
        return distance(together, tuple(torch.cat(outputs) for outputs in zip(*wanted, strict=True))) <= limit
    except (RuntimeError, IndexError):
        return False
