"""Where independent tasks run: processes of this machine, or a cluster. One file, one engine, one interface, `Engine`.

A task is a top-level function of this package with picklable arguments, and pure: the same arguments give the same
bytes, in whatever process. For that every task computes with one thread; there are as many tasks at a time as cores.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import BuildError, EdgecompError, UsageError, unknown
from ..util import progress

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Outcome:
    """What became of one task: its value, or the error that ended it."""

    value: Any = None
    error: EdgecompError | None = None

    def get(self) -> Any:
        """The value; raises the error if there was one."""
        if self.error is not None:
            raise self.error
        return self.value


Done = Callable[[int, Outcome], None]


class Engine(Protocol):
    """Runs tasks that do not depend on each other."""

    name: str
    workers: int

    def share(self, value: Any) -> Any:
        """Puts a value once where all workers can read it, for `run`. It is not to be written to there."""

    def run(
        self, function: Callable[..., Any], tasks: Sequence[Any], *shared: Any, done: Done | None = None
    ) -> list[Outcome]:
        """`function(task, *values of shared)` for every task; outcomes in the order of the tasks.

        Args:
            done: called in this process with the index of a task and its outcome, as soon as it is there.

        An exception is the outcome of its task alone. A worker that dies is replaced, and its task tried again.
        """

    def close(self) -> None:
        """Ends all workers, whatever they are doing."""


def check(name: str | None, address: str | None, workers: int | None) -> None:
    """Refuses what `opened` cannot do, before anything long begins.

    Raises:
        UsageError: an unknown engine, an address of one that has none, Ray where it is not installed.
    """
    if name is not None and name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if address and name != "ray":
        raise UsageError(f"--address {address} is that of a Ray cluster", "Add --engine ray.")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least one is needed")
    if name == "ray":
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UsageError(f"Ray cannot be imported: {error}", "pip install 'edgecomp[ray]'") from error


@contextlib.contextmanager
def opened(name: str, address: str | None = None, workers: int | None = None) -> Iterator[Engine]:
    """The engine of that name, closed again at the end, at an exception and at Ctrl-C.

    Args:
        address: of an existing Ray cluster; one is started on this machine if there is none.
        workers: tasks at a time; as many as there are cores unless told, and on a cluster as it has.
    """
    check(name, address, workers)
    engine: Engine
    if name == "ray":
        from .ray import Ray

        engine = Ray(address, workers)
    else:
        from .local import Local

        engine = Local(workers)
    try:
        yield engine
    finally:
        engine.close()


def attempt(function: Callable[..., Any], task: Any, values: Sequence[Any]) -> Outcome:
    """Runs a task in a worker, with one thread and without a word."""
    import torch

    torch.set_num_threads(1)
    progress.console.quiet = True
    try:
        return Outcome(function(task, *values))
    except EdgecompError as error:
        return Outcome(error=error)
    except Exception as error:
        place = traceback.extract_tb(sys.exc_info()[2])[-1]
        text = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
        return Outcome(error=BuildError(text))
