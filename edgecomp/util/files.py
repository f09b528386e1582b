"""Where files live, and how they are written: complete under their final name, or not at all."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from ..errors import BuildError

_PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(name: str) -> Path:
    """A folder of package data (`targets`, `android_bench`, `models`): inside the wheel, or in the checkout."""
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise BuildError(f"the package data folder {name!r} is missing from {_PACKAGE}", "Install edgecomp again.")


def cache_folder(*parts: str) -> Path:
    """A folder in the user's cache; `EDGECOMP_CACHE` moves it. Created if missing."""
    root = os.environ.get("EDGECOMP_CACHE") or platformdirs.user_cache_dir("edgecomp")
    folder = Path(root, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _temporary(final: Path) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}.partial")


@contextlib.contextmanager
def atomic_file(final: Path) -> Iterator[Path]:
    """Yields a path to write to; on success it becomes `final` in one step, on failure it is removed.

    Raises:
        BuildError: the file cannot be written (disk full, no permission).
    """
    partial = _temporary(final)
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
    partial = _temporary(final)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
    except OSError as error:
        raise BuildError(f"cannot write {final}: {error.strerror or error}", "Check the disk and -o.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(final: Path, text: str) -> None:
    """Atomic `Path.write_text`."""
    with atomic_file(final) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partials(folder: Path) -> None:
    """Removes what killed runs left half-written in `folder`."""
    for partial in folder.glob(".*.partial"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
