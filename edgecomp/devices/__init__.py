"""Where exported models run: this machine, the emulator, a phone, another computer. One interface, `Device`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..errors import DeviceError, UsageError, unknown
from ..records import Evidence, Request

if TYPE_CHECKING:
    from ..discover import Target


@dataclass(frozen=True)
class Run:
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
class Place:
    """Which device, and how it is to be treated; see `Request`."""

    serial: str | None = None
    host: str | None = None
    cores: str | None = None
    max_temp_c: float | None = None

    @classmethod
    def of(cls, request: Request) -> Place:
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

    def run(self, bundle: Path, model: Path, inputs: Path, outputs: Path | None = None, **options: int) -> Run:
        """Runs the bench program; `options` are its numeric ones (threads, warmup, repeat, least_ms, profile: 1).

        Raises:
            DeviceError: the program fails or dies.
        """

    def empty_rss_bytes(self, bundle: Path) -> int:
        """Peak memory (VmHWM) of the bench program and its libraries without a model."""


class Steady:
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


def bench_arguments(
    model: Path | str, inputs: Path | str, outputs: Path | str | None, options: dict[str, int]
) -> list[str]:
    arguments = ["--model", str(model), "--inputs", str(inputs)]
    if outputs is not None:
        arguments += ["--outputs", str(outputs)]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    return arguments


def run_bench(command: list[str], where: str, model: Path | None, timeout_s: float = 3600) -> dict[str, Any]:
    """Runs the bench program in a child process and collects its JSON lines by key."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{model} did not finish within {timeout_s:.0f} s on {where}") from error
    except OSError as error:
        raise DeviceError(f"cannot start {command[0]} on {where}: {error.strerror}") from error
    return collect(done, where, model)


def collect(done: subprocess.CompletedProcess[str], where: str, model: Path | None) -> dict[str, Any]:
    """The JSON lines of a finished bench program, by key.

    Raises:
        DeviceError: it ended with an error or a signal.
    """
    collected: dict[str, Any] = {"sample_ms": [], "warmup_ms": [], "operator": []}
    for line in done.stdout.splitlines():
        if line.startswith("{") and (line.endswith("}") or not done.returncode):  # the last one may be cut off
            for key, value in json.loads(line).items():
                collected[key].append(value) if isinstance(collected.get(key), list) else collected.update({key: value})
    if done.returncode == 0 and "error" not in collected:
        return collected
    reason = collected.get("error") or _cause(done)
    raise DeviceError(
        f"{model or 'the bench program'} does not run on {where}: {reason}",
        "Out of memory? The system kills with this signal when there is none left."
        if _signal(done.returncode) == signal.SIGKILL
        else "The file may be damaged or made for another runtime.",
    )


def to_run(collected: dict[str, Any], instructions: list[int] | None = None) -> Run:
    """The `Run` that JSON lines tell of."""
    return Run(
        load_ms=collected["load_ms"],
        warmup_ms=collected["warmup_ms"],
        samples_ms=collected["sample_ms"],
        peak_rss_bytes=collected["peak_rss_bytes"],
        rss_anon_bytes=collected["rss_anon_bytes"],
        instructions=instructions or [],
        operators=[(name, end - begin) for name, begin, end in collected["operator"]],
    )


def _signal(code: int) -> int:
    """The signal that ended a program, 0 for none; shells say 128 + the number."""
    return -code if code < 0 else code - 128 if 128 < code < 128 + 32 else 0


def _cause(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if number := _signal(done.returncode):
        return f"the program was killed by {signal.Signals(number).name}" + (f" ({last})" if last else "")
    return last or f"the program ended with code {done.returncode}"


_OWNER = {"--serial": "adb", "--host": "ssh"}  # options of one device


def chosen(target: Target, on: str | None, place: Place | None = None) -> list[str]:
    """Names of the devices to measure on. The host always takes part, except with `--on none`.

    Raises:
        UsageError: the target has no such device, or it does not take these settings.
        DeviceError: what the device needs is not installed, or it is not there.
    """
    place = place or Place()
    name = on or target.devices[0]
    if name != "none" and name not in {"host", *target.devices}:
        raise unknown(f"device of target {target.name}", name, {"host", "none", *target.devices})
    for option, value in (("--serial", place.serial), ("--host", place.host)):
        if value and name != _OWNER[option]:
            raise UsageError(f"{option} is for --on {_OWNER[option]}, not {name}")
    if name not in _OWNER.values() and (place.cores or place.max_temp_c is not None):
        raise UsageError("--cores and --max-temp are for --on adb and --on ssh")
    if place.cores and not re.fullmatch(r"big|little|(0x)?0*[0-9a-fA-F]*[1-9a-fA-F][0-9a-fA-F]*", place.cores):
        raise UsageError(f"--cores {place.cores}", "Say big, little, or a hexadecimal mask of cores such as f0.")
    if name == "ssh" and not place.host:
        raise UsageError("--on ssh needs a computer", "Name it with --host USER@HOST.")
    if name == "none":
        return []
    problem, remedy = make(name, target, place).missing()
    if problem:
        raise DeviceError(problem, remedy)
    return list(dict.fromkeys(["host", name]))


def listing() -> list[tuple[str, str, str, str]]:
    """Rows (name, what it is, state, remedy) of every device that can be seen from here."""
    from .. import discover
    from . import adb

    rows = [("host", "this machine", "ready", "")]
    targets = [discover.target(name) for name in discover.target_names()]
    for command, target in {t.emulator.command: t for t in targets if t.emulator and "qemu" in t.devices}.items():
        problem, remedy = make("qemu", target).missing()
        rows.append(("qemu", f"{command}, {target.emulator.cpu}", problem or "ready", remedy))
    try:
        for phone in adb.phones():
            state = "ready" if phone.state == "device" else phone.state
            rows.append((f"adb --serial {phone.serial}", phone.model, state, adb.REMEDIES.get(phone.state, "")))
        if not rows[-1][0].startswith("adb"):
            rows.append(("adb", "phones", "none connected", adb.CONNECT))
    except DeviceError as error:
        rows.append(("adb", "phones", error.args[0], error.remedy))
    return [*rows, ("ssh --host USER@HOST", "a Linux computer in the network", "as ssh can reach it", "")]


def make(name: str, target: Target, place: Place | None = None) -> Device:
    """The device of that name for a target."""
    if name == "qemu":
        from .qemu import Qemu

        return Qemu(target)
    if name == "adb":
        from .adb import Adb

        return Adb(target, place or Place())
    if name == "ssh":
        from .ssh import Ssh

        return Ssh(target, place or Place())
    from .host import Host

    return Host()
