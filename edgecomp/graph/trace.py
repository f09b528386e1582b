"""The trace of the user's module: a graph of operators for any batch size where `torch.export` can, else for one."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from ..errors import BuildError
from .given import Given

Examples = tuple[Tensor, ...]


@dataclass(frozen=True)
class Traced:
    """`module` has the graph. `batch`: the only number of samples it takes, as in the examples; None if any."""

    module: fx.GraphModule
    batch: int | None


def exported(net: nn.Module, examples: Examples, name: str) -> torch.export.ExportedProgram:
    """`torch.export` of a net for inputs of the examples' shapes.

    Raises:
        BuildError: torch.export refuses the net; its own message is passed on.
    """
    try:
        with _quiet():
            return torch.export.export(net, examples)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if place := re.search(r"Caused by: .*?([^/\s]+:\d+ in \w+)", str(error)):
            reason += f", at {place[1]}"
        raise BuildError(
            f"{name}: torch.export cannot trace the model: {reason}",
            "The forward pass must be free of data-dependent Python control flow; try torch.export.export() on it.",
        ) from error


def trace(given: Given, examples: Examples, name: str) -> Traced:
    """Traces the module in evaluation mode.

    Raises:
        BuildError: torch.export refuses it.
    """
    given.eval()
    program, batch = _for_any_batch(given, examples), None
    if program is None:
        program, batch = exported(given, examples, name), batch_of(examples)
    with _quiet():
        return Traced(program.module(check_guards=False), batch)


def traced_program(program: torch.export.ExportedProgram) -> Traced:
    """The same of a program that was exported before."""
    module = program.module(check_guards=False)
    inputs = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    fixed = [int(x.shape[0]) for x in inputs if isinstance(x, Tensor) and x.dim() and isinstance(x.shape[0], int)]
    return Traced(module, fixed[0] if fixed else None)


def batch_of(examples: Examples) -> int:
    """The number of samples in the examples."""
    return next((len(x) for x in examples if x.dim()), 1)


def _for_any_batch(given: Given, examples: Examples) -> torch.export.ExportedProgram | None:
    """None where the number of samples cannot be left open. Two copies of the examples are traced: sizes of 1 are
    taken for constants."""
    if not all(x.dim() for x in examples):
        return None
    twice = tuple(torch.cat([x, x]) for x in examples)
    try:
        with _quiet():
            return torch.export.export(given, twice, dynamic_shapes=(tuple({0: Dim.DYNAMIC} for _ in twice),))
    except Exception:
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings, and the whole graph that torch.export prints where it fails: its message is enough."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
