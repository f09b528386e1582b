"""One cache: what was made once is kept under a key of all that it depends on, and is checked when it is used.

    key = key_of(weights, "pq", settings, code=FITTING)
    error = remembered(cache_folder("errors"), key, lambda: fit(weights, settings))

The key is made of the arguments, tensors and files by their bytes, and of the code that computes: that of the packages
that are named, not of the whole program. A file with the SHA-256 lies beside what is kept; what does not match it is
made again. Two processes that want the same wait for each other, and one of them makes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..errors import BuildError
from .files import atomic_file, atomic_folder, data_folder, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

# What decides what becomes of a net's layers; what a net gives in a file on this machine or an emulated one, too.
FITTING = ("chain", "compress", "discover", "fitting", "graph", "layers", "load", "methods", "pruning", "records")
FITTING += ("runtimes", "training", "devices.tensors")
RUNNING = (*FITTING, "devices", "export", "measure", "plan", "recover", "util.statistics", "targets", "android_bench")

_PACKAGE = Path(__file__).resolve().parents[1]
_DATA = ("targets", "android_bench")
_SUFFIXES = {".py", ".toml", ".cc", ".c", ".h"}
_LIBRARIES = ("torch", "numpy", "scipy")  # what computes; others show, or have their version in the key
_KEY_LENGTH = 32  # hex digits of a key in the name of a file

# --- keys -------------------------------------------------------------------------------------------------


def key_of(*parts: object, code: Iterable[str] = ()) -> str:
    """A hex digest of arguments, and of the code that computes with them.

    Args:
        parts: None, numbers, text, bytes, tensors, arrays, records, dataclasses, and lists, sets and dicts of such; a
            Path stands for the bytes of its file.
        code: see `code_of`.

    Raises:
        TypeError: a part of another type, whose text might differ from run to run.
    """
    digest = hashlib.sha256(code_of(*code).encode() if code else b"")
    _feed(digest, parts)
    return digest.hexdigest()


@functools.cache
def code_of(*names: str) -> str:
    """A digest of the source files of packages or modules of edgecomp (`fitting`, `auto.trials`), or of the native code
    in `targets` and `android_bench`, and of the versions of the libraries that compute.

    Raises:
        BuildError: there is no such package.
    """
    digest = hashlib.sha256(repr([(name, _version(name)) for name in _LIBRARIES]).encode())
    for name in sorted(set(names)):
        root = data_folder(name) if name in _DATA else _PACKAGE.joinpath(*name.split("."))
        files = sorted(root.rglob("*")) if root.is_dir() else [root.with_suffix(".py")]
        for path in files:
            if path.suffix in _SUFFIXES:
                if not path.is_file():
                    raise BuildError(f"{name!r} is no package of edgecomp", "Install edgecomp again.")
                digest.update(f"{name}\0{path.relative_to(root.parent)}\0{sha256_file(path)}\0".encode())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _feed(digest: Any, part: object) -> None:
    """Adds one part, its type before it and its length where it has one: what differs never reads the same."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")  # nothing of theirs is here if they are not
    if part is None or isinstance(part, bool | int | float | str | bytes):
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(f"{type(part).__name__} {len(data)} ".encode() + data)
    elif torch and isinstance(part, torch.Tensor):
        digest.update(f"tensor {part.dtype} {tuple(part.shape)} ".encode())
        digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif numpy and isinstance(part, numpy.ndarray | numpy.generic):
        array = numpy.ascontiguousarray(part)
        digest.update(f"array {array.dtype} {array.shape} ".encode() + array.tobytes())
    elif isinstance(part, Path):
        digest.update(f"file {sha256_file(part)} ".encode())
    elif isinstance(part, BaseModel):
        _feed(digest, (type(part).__name__, dict(part)))
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        _feed(digest, (type(part).__name__, {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}))
    elif isinstance(part, dict | set | frozenset):
        items = part.items() if isinstance(part, dict) else part
        digest.update(f"{type(part).__name__} {len(part)} ".encode())
        digest.update("".join(sorted(key_of(item) for item in items)).encode())
    elif isinstance(part, list | tuple):
        digest.update(f"list {len(part)} ".encode())
        for item in part:
            _feed(digest, item)
    else:
        raise TypeError(f"a key cannot be made of a {type(part).__name__}: {part!r}")


# --- what is kept -----------------------------------------------------------------------------------------


def remembered(folder: Path, key: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, or gave before for that key: anything that JSON holds."""
    path = _json_path(folder, key)
    with _making(path) as missing:
        if missing:
            _write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def recall(folder: Path, key: str) -> Any:
    """What is kept for the key; None if there is nothing, or it is damaged."""
    path = _json_path(folder, key)
    return json.loads(path.read_text(encoding="utf-8")) if _intact(path) else None


def keep(folder: Path, key: str, value: Any) -> None:
    """Keeps `value` for the key, whatever was kept before."""
    path = _json_path(folder, key)
    with _lock(path):
        _write_json(path, value)


def remembered_tensors(folder: Path, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The same for named tensors, in a safetensors file."""
    from safetensors.torch import load_file, save_file

    def write(path: Path) -> None:
        save_file({name: tensor.detach().contiguous() for name, tensor in make().items()}, path)

    return load_file(remembered_file(folder / f"{key[:_KEY_LENGTH]}.safetensors", write))


def remembered_file(final: Path, make: Callable[[Path], None]) -> Path:
    """`final`, whose path has the key in it; `make` writes it, under another name first.

    Raises:
        BuildError: the file cannot be written; and what `make` raises.
    """
    with _making(final) as missing:
        if missing:
            with atomic_file(final) as partial:
                make(partial)
                _note(final, partial)
    return final


def remembered_folder(final: Path, make: Callable[[Path], None]) -> Path:
    """The same for a folder, which is there and empty when `make` is called."""
    with _making(final) as missing:
        if missing:
            with atomic_folder(final) as partial:
                make(partial)
                _note(final, partial)
    return final


def digest_path(final: Path) -> Path:
    """Where the SHA-256 of a file or folder is written."""
    return final.with_name(f"{final.name}.sha256")


def note(final: Path) -> None:
    """Writes the digest of a file that is there, and taken to be whole."""
    with _lock(final):
        _note(final, final)


def _json_path(folder: Path, key: str) -> Path:
    return folder / f"{key[:_KEY_LENGTH]}.json"


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
        _note(path, partial)


@contextlib.contextmanager
def _making(final: Path) -> Iterator[bool]:
    """Says whether `final` has to be made, and lets no other process make it meanwhile: the digest's file is the lock.
    The digest is written before `final` gets its name, so a process that is killed leaves nothing that passes."""
    if _intact(final):
        yield False
        return
    with _lock(final):
        yield not _intact(final)


@contextlib.contextmanager
def _lock(final: Path) -> Iterator[None]:
    path = digest_path(final)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise BuildError(f"cannot write {path}: {error.strerror}", "Check the disk, or set EDGECOMP_CACHE.") from error
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _note(final: Path, partial: Path) -> None:
    """Writes the digest of `partial`, which becomes `final` next. In place: the file is the lock of others."""
    digest_path(final).write_text(_digest(partial), encoding="utf-8")


_checked: dict[Path, object] = {}  # what this process has found intact, as it was then


def _intact(final: Path) -> bool:
    """Whether `final` is what its digest says; a file that has not changed since is not read again."""
    try:
        state = _state(final)
        if _checked.get(final) != state:
            if digest_path(final).read_text(encoding="utf-8") != _digest(final):
                return False
            _checked[final] = state
    except OSError:
        return False
    return True


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _state(path: Path) -> list[tuple[str, int, int, int]]:
    return [(str(f), (s := f.stat()).st_size, s.st_mtime_ns, s.st_ino) for f in _files(path)]


def _digest(path: Path) -> str:
    if path.is_file():
        return sha256_file(path)
    files = [(str(f.relative_to(path)), f.stat().st_mode & 0o111, sha256_file(f)) for f in _files(path)]
    return hashlib.sha256(repr(files).encode()).hexdigest()
