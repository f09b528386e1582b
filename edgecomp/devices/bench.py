"""Starts the bench program of a bundle and reads what it prints; the files of its inputs and outputs.

Imported without torch and numpy: listing devices must not wait for them.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from ..errors import DeviceError
from .base import BenchRun


def bench_arguments(
    model: Path | str, inputs: Path | str, outputs: Path | str | None, options: dict[str, int]
) -> list[str]:
    """Those of a run on a file that has been written or verified here."""
    arguments = ["--model", str(model), "--inputs", str(inputs), "--trust", "1"]
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


def to_run(collected: dict[str, Any], instructions: list[int] | None = None) -> BenchRun:
    """The `BenchRun` that JSON lines tell of."""
    return BenchRun(
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
