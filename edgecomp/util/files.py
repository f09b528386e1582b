"""Where files live, and how they are written: complete under their final name, or not at all."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import BuildError
from . import leftovers
from .leftovers import cache_folder as cache_folder

_PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(name: str) -> Path:
    """A folder of package data (`targets`, `android_bench`, `models`): inside the wheel, or in the checkout."""
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise BuildError(f"the package data folder {name!r} is missing from {_PACKAGE}", "Install edgecomp again.")


@contextlib.contextmanager
def atomic_file(final: Path) -> Iterator[Path]:
    """Yields a path to write to; on success it becomes `final` in one step, on failure it is removed.

    Raises:
        BuildError: the file cannot be written (disk full, no permission).
    """
    partial = leftovers.partial(final)
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, final)
    except OSError as error:
        raise BuildError(f"cannot write {final}: {error.strerror or error}", "Check the disk and -o.") from error
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """The same for a folder; an existing `final` is replaced."""
    partial = leftovers.partial(final)
    try:
        partial.mkdir(parents=True)
        yield partial
        replace(partial, final)
    except OSError as error:
        raise BuildError(f"cannot write {final}: {error.strerror or error}", "Check the disk and -o.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace(new: Path, final: Path) -> None:
    """Gives a file or folder the name of another one, which is gone then, and stays if that fails.

    Raises:
        OSError: it fails.
    """
    if not final.is_dir() or final.is_symlink():
        os.replace(new, final)
        new.unlink(missing_ok=True)  # where both names were of the same file, which does not count as a change
        return
    aside = leftovers.partial(final)  # a folder cannot be replaced in one step
    os.rename(final, aside)
    try:
        os.rename(new, final)
    except OSError:
        os.rename(aside, final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder outside of the results, gone at the end; that of a process that is killed goes at the next start.

    Raises:
        BuildError: it cannot be made.
    """
    folder = leftovers.partial(Path(tempfile.gettempdir(), "edgecomp"))
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise BuildError(f"cannot write to {folder.parent}: {error.strerror}", "Set TMPDIR to a folder.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(final: Path, text: str) -> None:
    """Atomic `Path.write_text`."""
    with atomic_file(final) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partials(folder: Path) -> None:
    """Removes what killed runs left half-written in `folder`, which nobody else writes to."""
    for partial in folder.glob(".*.partial"):
        leftovers.remove(partial)


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
