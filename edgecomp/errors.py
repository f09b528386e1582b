"""What can go wrong, each with the exit code that the command line ends with (docs/limits.md)."""

import difflib
from collections.abc import Iterable


class EdgecompError(Exception):
    """A message that names the file, layer, shape or setting, and the remedy.

    Args:
        message: what is wrong and where.
        remedy: what the reader can do about it, an imperative sentence.
    """

    exit_code = 3

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  {self.remedy}" if self.remedy else message


class LimitError(EdgecompError):
    """A limit that was stated cannot be met, whatever is done. plan: the nearest one that can be carried out."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "", plan: object = None) -> None:
        super().__init__(message, remedy)
        self.plan = plan


class UsageError(EdgecompError):
    """The request itself is wrong: a typo, an unknown name, a value that cannot be read."""

    exit_code = 2


class BuildError(EdgecompError):
    """The request is fine, but it cannot be built: a broken model file, weights, disk or compiler."""

    exit_code = 3


class DeviceError(EdgecompError):
    """The device or emulator is not there, or what runs on it failed."""

    exit_code = 4


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", f"{remedy}Known: {', '.join(known) or 'none'}.")
