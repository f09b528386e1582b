"""Compiles native code once, and keeps the result in the user's cache under a digest of what it is made from."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

from ..errors import BuildError
from . import progress
from .cache import key_of, remembered_file
from .files import cache_folder, data_folder


def shared_library(sources: list[Path], name: str) -> Path:
    """A shared library for this very machine (gcc or g++ by suffix), such as the instruction counter for qemu."""
    compiler = "gcc" if all(source.suffix == ".c" for source in sources) else "g++"
    return build(compiler, sources, ["-O3", "-march=native", "-shared", "-fPIC"], name, salt=platform.node())


def build(compiler: str, sources: list[Path], arguments: list[str], name: str, salt: str = "") -> Path:
    """Compiles and links `sources` into the file `name`; it depends on them, the arguments, all headers and `salt`.

    Raises:
        BuildError: there is no such compiler, or it refuses.
    """
    if shutil.which(compiler) is None:
        package = "g++-aarch64-linux-gnu" if "aarch64" in compiler else compiler
        raise BuildError(f"the compiler {compiler} is not installed", f"sudo apt-get install {package}")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    key = key_of(version, name, salt, arguments, [(path.name, path) for path in [*sources, *_headers()]])

    def make(path: Path) -> None:
        progress.note(f"compiling {name} with {compiler}")
        command = [compiler, *(str(source) for source in sources), *arguments, "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{compiler} cannot compile {name}:\n{done.stderr.strip()[-2000:]}")
        path.chmod(0o755)

    return remembered_file(cache_folder("native", key[:16]) / name, make)


def _headers() -> list[Path]:
    folders = (data_folder("targets"), data_folder("android_bench"))
    return sorted(path for folder in folders for path in folder.rglob("*.h"))
