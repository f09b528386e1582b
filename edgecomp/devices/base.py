"""What a device is: one interface, `Device`, and what comes out of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from ..records import Evidence, Request


@dataclass(frozen=True)
class BenchRun:
    """What one run of the bench program gave: raw samples, no statistics. `warmup_ms`: the first one is that of a cold
    process. `instructions`: of every inference, warm-up first, where they can be counted. `operators`: with `profile`,
    those of every sample in order, each with its nanoseconds, or instructions where they can be counted."""

    load_ms: float
    warmup_ms: list[float]
    samples_ms: list[float]
    peak_rss_bytes: int
    rss_anon_bytes: int
    instructions: list[int]
    operators: list[tuple[str, int]]


@dataclass(frozen=True)
class DeviceOptions:
    """Which device, and how it is to be treated; see `Request`."""

    serial: str | None = None
    host: str | None = None
    cores: str | None = None
    max_temp_c: float | None = None

    @classmethod
    def of(cls, request: Request) -> DeviceOptions:
        return cls(request.serial, request.host, request.cores, request.max_temp_c)


class Device(Protocol):
    """A place where a bundle's bench program can run. `with device:` around all runs; what is left of them is removed
    at the end, whatever happens. `tells_time`: how long something takes there means something."""

    name: str
    evidence: Evidence
    tells_time: bool

    def missing(self) -> tuple[str, str]:
        """What is missing for this device to work, and the remedy; empty if nothing is."""

    def __enter__(self) -> Self:
        """Raises a DeviceError if the device does not answer or cannot be set up as asked."""

    def __exit__(self, *_: object) -> None: ...

    def describe(self) -> dict[str, Any]:
        """Facts about the device for the report."""

    def state(self) -> dict[str, Any]:
        """What may change while it works: clocks, temperatures, battery."""

    def remarks(self) -> list[str]:
        """What could not be read or set, for the report."""

    def rest(self) -> None:
        """Waits until the device is as cool as asked for."""

    def run(self, bundle: Path, model: Path, inputs: Path, outputs: Path | None = None, **options: int) -> BenchRun:
        """Runs the bench program; `options` are its numeric ones (threads, warmup, repeat, least_ms, profile: 1).

        Raises:
            DeviceError: the program fails or dies.
        """

    def empty_rss_bytes(self, bundle: Path) -> int:
        """Peak memory (VmHWM) of the bench program and its libraries without a model."""


class UnmanagedDevice:
    """What devices have in common that need no setting up and are not watched."""

    def missing(self) -> tuple[str, str]:
        return "", ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def state(self) -> dict[str, Any]:
        return {}

    def remarks(self) -> list[str]:
        return []

    def rest(self) -> None:
        return
