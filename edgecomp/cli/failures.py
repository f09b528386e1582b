"""What nobody has foreseen: one line for the person, the traceback in a file."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

EXIT_STATUS = 3
_PIPE_STATUS = 141  # what shells say of a program whose reader is gone
_MEMORY = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")


def unexpected(error: BaseException) -> int:
    """Says on stderr what went wrong and where the traceback lies; with EDGECOMP_DEBUG=1 prints it, too.

    Returns:
        The exit code.
    """
    from ..util.progress import failed_stage
    from ..util.text import printable

    text = "".join(traceback.format_exception(error))
    stage = failed_stage()
    where = f" in stage {stage}" if stage else ""
    if is_memory(error):
        said = f"not enough memory{where}: {_first_line(error)}"
        remedy = "Close other programs, name fewer --workers or --layers, or build on a machine with more memory."
    else:
        said = f"unexpected{where}: {_first_line(error)}"
        remedy = "This is a fault of edgecomp: report it with that file."
    path = _kept(text)
    kept = f"the traceback is in {path}" if path else "the traceback could not be written; EDGECOMP_DEBUG=1 prints it"
    print(f"error: {printable(said)}; {kept}\n  {remedy}", file=sys.stderr)
    if os.environ.get("EDGECOMP_DEBUG") == "1":
        print(printable(text, 1_000_000, lines=True), file=sys.stderr)
    return EXIT_STATUS


def of_system(error: OSError) -> int:
    """The same for an error of the operating system, of which some are no fault of edgecomp.

    Returns:
        The exit code.
    """
    from ..util.text import printable

    if error.errno == errno.ENAMETOOLONG:
        print(f"error: a path is too long: {printable(str(error.filename), 80)}", file=sys.stderr)
        return 2
    if isinstance(error, BrokenPipeError):
        return _PIPE_STATUS
    if error.errno == errno.ENOSPC and error.filename is None:
        print("error: no space is left where the output or a file goes\n  Make room, and start again.", file=sys.stderr)
        return EXIT_STATUS
    return unexpected(error)


def show_any_text() -> None:
    """A terminal or file of another encoding than UTF-8 gets escapes for what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # of a stream that became a pipe after it was opened
                stream.reconfigure(errors="backslashreplace")


def written(code: int | None) -> int | None:
    """The exit code of a program whose output is complete; else it says that it is not."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # nothing more is written there, also not by Python at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code if code else of_system(error)
    return code


def is_memory(error: BaseException) -> bool:
    """Whether memory was missing: torch says so with a RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _MEMORY)
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _kept(text: str) -> Path | None:
    from ..util.files import cache_folder

    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (lambda: cache_folder("failures"), lambda: Path(tempfile.mkdtemp(prefix="edgecomp-"))):
        try:
            path = folder() / name
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return path
        except OSError:
            continue
    return None
