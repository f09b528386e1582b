"""Compiles native code once, and keeps the result in the user's cache under a digest of what it is made from."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import BuildError
from . import progress
from .cache import keep, key_of, recall, remembered_file
from .files import cache_folder, data_folder, temporary_folder


def shared_library(sources: list[Path], name: str) -> Path:
    """A shared library for this very machine (gcc or g++ by suffix), such as the instruction counter for qemu."""
    compiler = "gcc" if all(source.suffix == ".c" for source in sources) else "g++"
    return build(compiler, sources, ["-O3", "-march=native", "-shared", "-fPIC"], name, salt=platform.node())


def build(
    compiler: str, sources: list[Path], flags: list[str], name: str, link: Sequence[str] = (), salt: str = ""
) -> Path:
    """Compiles sources and links them, and objects among them, into the file `name`.

    Args:
        link: more arguments of the linker. salt: what else the result depends on.

    Raises:
        BuildError: there is no such compiler, or it refuses.
    """
    parts = objects(compiler, [path for path in sources if path.suffix != ".o"], flags, name, salt)
    parts += [path for path in sources if path.suffix == ".o"]

    def make(path: Path) -> None:
        _run([compiler, *map(str, parts), *flags, *link, "-o", str(path)], name)
        path.chmod(0o755)

    key = key_of(_version(compiler), name, salt, flags, list(link), parts)
    return remembered_file(cache_folder("native", key[:16]) / name, make)


def objects(compiler: str, sources: list[Path], flags: list[str], name: str, salt: str = "") -> list[Path]:
    """An object file for each source, compiled on all cores; it depends on the source, the flags and all headers.

    Args:
        name: of what they are, for people.
    """
    version, headers = _version(compiler), [(path.name, path) for path in _headers()]
    told = threading.Semaphore()

    def compiled(source: Path) -> Path:
        def make(path: Path) -> None:
            if told.acquire(blocking=False):  # once for all
                progress.note(f"compiling {name} with {compiler}")
            _run([compiler, "-c", str(source), *flags, "-o", str(path)], source.name)

        key = key_of(version, salt, flags, (source.name, source), headers)
        return remembered_file(cache_folder("native", key[:16]) / f"{source.stem}.o", make)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, sources))


def require(*compilers: str) -> None:
    """Refuses to begin without these compilers, unless what they made before may still be there.

    Raises:
        BuildError: one is missing.
    """
    for compiler in compilers:
        _version(compiler)


def _run(command: list[str], what: str) -> None:
    if shutil.which(command[0]) is None:
        raise _missing(command[0])
    with temporary_folder() as own:  # a compiler that is killed leaves its temporary files
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(own)})
    if done.returncode:
        raise BuildError(f"{command[0]} cannot compile {what}:\n{done.stderr.strip()[-2000:]}")


def _version(compiler: str) -> str:
    """Of a compiler that is gone that of before: what it has compiled is found by it."""
    folder, key = cache_folder("compilers"), key_of(compiler)
    known = recall(folder, key)
    if shutil.which(compiler) is None:
        if isinstance(known, str):
            return known
        raise _missing(compiler)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    if version != known:
        keep(folder, key, version)
    return version


def _missing(compiler: str) -> BuildError:
    package = "g++-aarch64-linux-gnu" if "aarch64" in compiler else compiler
    return BuildError(f"the compiler {compiler} is not installed", f"sudo apt-get install {package}")


def _headers() -> list[Path]:
    folders = (data_folder("targets"), data_folder("android_bench"))
    return sorted(path for folder in folders for path in folder.rglob("*.h"))
