"""What an engine is: one interface, `Engine`, and what becomes of a task."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import BuildError, EdgecompError
from ..util import progress


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
