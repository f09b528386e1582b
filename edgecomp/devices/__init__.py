"""Where exported models run: this machine, the emulator, later a phone. One interface, `Device`."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DeviceError, unknown
from ..records import Evidence

if TYPE_CHECKING:
    from ..discover import Target


@dataclass(frozen=True)
class Run:
    """What one run of the bench program gave: raw samples, no statistics."""

    load_ms: float
    samples_ms: list[float]
    peak_rss_bytes: int
    instructions: list[int]


class Device(Protocol):
    """A place where a bundle's bench program can run."""

    name: str
    evidence: Evidence

    def missing(self) -> str:
        """What is missing for this device to work, with the remedy; empty if nothing is."""

    def describe(self) -> dict[str, Any]:
        """Facts about the device for the report."""

    def run(self, bundle: Path, model: Path, inputs: Path, outputs: Path | None = None, **options: int) -> Run:
        """Runs the bench program; `options` are its numeric ones (threads, warmup, repeat).

        Raises:
            DeviceError: the program fails or dies.
        """


def bench_arguments(model: Path, inputs: Path, outputs: Path | None, options: dict[str, int]) -> list[str]:
    arguments = ["--model", str(model), "--inputs", str(inputs)]
    if outputs is not None:
        arguments += ["--outputs", str(outputs)]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    return arguments


def run_bench(command: list[str], where: str, model: Path, timeout_s: float = 3600) -> dict[str, Any]:
    """Runs the bench program in a child process and collects its JSON lines by key."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{model.name} did not finish within {timeout_s:.0f} s on {where}") from error
    except OSError as error:
        raise DeviceError(f"cannot start {command[0]} on {where}: {error.strerror}") from error
    collected: dict[str, Any] = {"sample_ms": [], "warmup_ms": []}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            for key, value in json.loads(line).items():
                collected[key].append(value) if isinstance(collected.get(key), list) else collected.update({key: value})
    if done.returncode == 0 and "error" not in collected:
        return collected
    reason = collected.get("error") or _cause(done)
    raise DeviceError(
        f"{model} does not run on {where}: {reason}", "The file may be damaged or made for another runtime."
    )


def _cause(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode < 0:
        return f"the program was killed by {signal.Signals(-done.returncode).name}" + (f" ({last})" if last else "")
    return last or f"the program ended with code {done.returncode}"


def chosen(target: Target, on: str | None) -> list[str]:
    """Names of the devices to measure on. The host always takes part, except with `--on none`.

    Raises:
        UsageError: the target has no such device.
        DeviceError: what the device needs is not installed.
    """
    if on == "none":
        return []
    name = on or target.devices[0]
    if name not in {"host", *target.devices}:
        raise unknown(f"device of target {target.name}", name, {"host", "none", *target.devices})
    problem = make(name, target).missing()
    if problem:
        raise DeviceError(problem.partition(";")[0], f"Run: {problem.partition(';')[2].strip()}")
    return list(dict.fromkeys(["host", name]))


def make(name: str, target: Target) -> Device:
    """The device of that name for a target."""
    if name == "qemu":
        from .qemu import Qemu

        return Qemu(target)
    from .host import Host

    return Host()
