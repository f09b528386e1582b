"""Finds methods, runtimes, targets and models by file. A new file is a new name; there is no list to edit."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from . import methods as methods_package
from . import runtimes as runtimes_package
from .errors import UsageError, unknown
from .records import Record
from .util.files import data_folder


def method_names() -> list[str]:
    return module_names(methods_package)


def method(name: str) -> ModuleType:
    """The method module of that name."""
    return module("method", methods_package, name)


def prunes(name: str) -> bool:
    """The method of that name takes channels out of the net, instead of treating layers."""
    return getattr(method(name), "PRUNES", False)


def runtime_names() -> list[str]:
    return module_names(runtimes_package)


def runtime(name: str) -> ModuleType:
    """The runtime module of that name."""
    return module("runtime", runtimes_package, name)


def runtime_of_file(path: str) -> str | None:
    """The runtime whose files have the suffix of this one, and are models that one can start from."""
    return next((name for name in runtime_names() if path.endswith(runtime(name).SUFFIX)), None)


def model_files() -> dict[str, Path]:
    """The models of the zoo, by name."""
    return {path.stem: path for path in sorted(data_folder("models").glob("*.py"))}


def target_names() -> list[str]:
    return sorted(path.stem for path in data_folder("targets").glob("*.toml"))


class Compiler(Record):
    command: str
    flags: tuple[str, ...] = ()
    debian: str


class Emulator(Record):
    """`cpu` as qemu names it; `cpuinfo` is what the emulated /proc/cpuinfo says, so that libraries see that CPU."""

    command: str
    cpu: str
    debian: str
    cpuinfo: str = ""


class Sdk(Record):
    """The runtime's headers and libraries for a target, out of the Python package that has them. `wheel` is fetched
    with pip and checked; without one the installed package is used. `libraries` are linked, and shipped along."""

    package: str
    version: str
    wheel: str = ""
    sha256: str = ""
    platform: str = ""
    headers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    folder: str = "."
    libraries: list[str]

    @property
    def module(self) -> str:
        """The folder that the package is installed into."""
        return self.package.replace("-", "_")


class Bundle(Record):
    """The C library that goes along with the program: its loader and shared libraries, and where they are found."""

    loader: str
    folder: str
    libraries: list[str]


class Target(Record):
    """One file of `targets/`: what the place is where the exported model runs."""

    name: str
    description: str
    abi: str
    machine: str
    devices: list[str]
    compiler: Compiler
    emulator: Emulator | None = None
    bundle: Bundle
    runtimes: dict[str, Sdk]


def target(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: no such target, or its file is malformed.
    """
    if name not in target_names():
        raise unknown("target", name, target_names())
    path = data_folder("targets") / f"{name}.toml"
    try:
        return Target(name=name, **tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"{path}: {error}") from error


def configure(method_name: str, settings: dict[str, str]) -> Any:
    """The method's Config with `settings` (text, as from `--set k=16`) filled in.

    Raises:
        UsageError: an unknown setting (the nearest one is named) or a value that does not fit.
    """
    config = method(method_name).Config
    for key in settings:
        if key not in config.model_fields:
            raise unknown(f"setting of {method_name}", key, config.model_fields)
    try:
        return config(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--set {key}={settings.get(key)}: {first['msg']}") from error


def module_names(package: ModuleType) -> list[str]:
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_"))


def module(kind: str, package: ModuleType, name: str) -> ModuleType:
    if name not in module_names(package):
        raise unknown(kind, name, module_names(package))
    return importlib.import_module(f"{package.__name__}.{name}")
