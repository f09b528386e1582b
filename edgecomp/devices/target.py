"""Targets: what the place is where an exported model runs. One file of `targets/` is one target."""

from __future__ import annotations

import tomllib

from ..errors import UsageError, unknown
from ..records import Record
from ..util.files import data_folder


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


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: no such target, or its file is malformed.
    """
    if name not in target_names():
        raise unknown("target", name, target_names())
    path = data_folder("targets") / f"{name}.toml"
    try:
        return Target(name=name, **tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:  # of TOML, of pydantic, a name twice
        raise UsageError(f"{path}: {error}") from error
