"""What `edgecomp doctor` looks at: Python packages, compilers, emulator, data, caches."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import dataclass, replace

from ..devices.target import find_target, target_names
from ..errors import EdgecompError
from ..training import datasets
from ..util.files import cache_folder
from ..util.units import format_bytes


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `optional` ones do not make the doctor fail."""

    what: str
    ok: bool
    state: str
    remedy: str = ""
    optional: bool = False


def examine() -> list[Finding]:
    """Everything a build can need."""
    return [
        Finding("Python", True, platform.python_version()),
        _package("torch", "torch"),
        _package("executorch", "edgecomp[executorch]"),
        *(_package(name, "edgecomp[litert]") for name in ("ai-edge-litert", "litert-torch")),
        replace(_package("ray", "edgecomp[ray]"), optional=True),
        *_programs(),
        _fashion_mnist(),
        _cache(),
    ]


def _package(name: str, requirement: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install '{requirement}'")


def _programs() -> list[Finding]:
    programs: dict[str, Finding] = {}
    for name in target_names():
        target = find_target(name)
        tools = [(target.compiler.command, target.compiler.debian)]
        tools += [(target.emulator.command, target.emulator.debian)] if target.emulator else []
        for command, package in tools:
            path = shutil.which(command)
            programs[command] = Finding(
                command, path is not None, path or "not found", "" if path else f"sudo apt-get install {package}"
            )
    for command, package in (("adb", "adb"), ("ssh", "openssh-client")):  # for --on adb and --on ssh
        path = shutil.which(command)
        remedy = "" if path else f"sudo apt-get install {package}"
        programs[command] = Finding(command, path is not None, path or "not found", remedy, optional=True)
    return list(programs.values())


def _fashion_mnist() -> Finding:
    try:
        return Finding("Fashion-MNIST", True, str(datasets.locate()), optional=True)
    except EdgecompError as error:
        return Finding("Fashion-MNIST", False, "not found", error.remedy, optional=True)


def _cache() -> Finding:
    folder = cache_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Finding("cache", True, f"{folder} ({format_bytes(size)})", "may be deleted at any time", optional=True)
