"""What is measured of exported files on one device, and how: docs/measuring.md in code.

Original and compressed run in the same session, in turns. What a device cannot tell stays None: the emulator never
gives a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..records import LayerTime, Measurement
from ..util import progress, statistics
from . import timing
from .base import Device

_PROFILED = 50  # inferences that the times of operators are the medians of


@dataclass(frozen=True)
class BenchInputs:
    """What is measured: files by name, the bundle that runs them, the file of their inputs, and what is in it."""

    runtime: str
    bundle: Path
    files: dict[str, Path]
    records: Path
    what: str


def measured(device: Device, inputs: BenchInputs) -> list[Measurement]:
    """The figures of all files on a device that is entered, one thread, in their order. Files of other names than those
    of artifacts are compressed ones.

    Raises:
        DeviceError: a program dies, or the device is lost.
    """
    before = device.state()
    figures = _timed(device, inputs) if device.tells_time else _counted(device, inputs)
    facts = {**device.describe(), **({"before": before, "after": device.state()} if before else {})}
    empty = device.empty_rss_bytes(inputs.bundle)
    return [
        Measurement(
            evidence=device.evidence,
            artifact=name if name in ("original", "custom-op") else "compressed",
            runtime=inputs.runtime,
            threads=1,
            empty_rss_bytes=empty,
            inputs=inputs.what,
            device=facts,
            layer_profile=_profile(device, inputs, inputs.files[name]),
            **figures[name],
        )
        for name in inputs.files
    ]


def _timed(device: Device, inputs: BenchInputs) -> dict[str, dict[str, Any]]:
    """Times and memory of every file, in turns."""
    jobs = {name: timing.TimingJob(inputs.bundle, path, inputs.records) for name, path in inputs.files.items()}
    return {name: _figures(timed) for name, timed in timing.in_turns(jobs, device=device).items()}


def _figures(timed: timing.Timing) -> dict[str, Any]:
    times = {}
    for percent, (value, interval) in statistics.percentiles(timed.processes).items():
        times |= {f"p{percent}_ms": value, f"p{percent}_interval_ms": interval}
    return {
        **times,
        "samples": timed.samples_ms,
        "samples_by_process": [len(samples) for samples in timed.processes],
        "load_ms": float(np.median(timed.load_ms)),
        "first_ms": float(np.median(timed.first_ms)),
        "peak_rss_bytes": timed.peak_rss_bytes,
        "rss_anon_bytes": timed.rss_anon_bytes,
    }


def _profile(device: Device, inputs: BenchInputs, path: Path) -> list[LayerTime]:
    """The operators of one warm inference, from a process of its own; empty where the runtime does not tell."""
    repeat = _PROFILED if device.tells_time else 1
    options = {"threads": 1, "warmup": 3 if device.tells_time else 1, "repeat": repeat, "profile": 1}
    operators = device.run(inputs.bundle, path, inputs.records, **options).operators
    count = len(operators) // repeat
    names = [name for name, _ in operators[:count]]
    values = np.median([[value for _, value in operators[i * count : (i + 1) * count]] for i in range(repeat)], axis=0)
    times = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        title = name if "#" in name or names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}"
        if device.tells_time:
            times.append(LayerTime(name=title, ms=round(value / 1e6, 6)))
        else:
            times.append(LayerTime(name=title, instructions=int(value)))
    return times


def _counted(device: Device, inputs: BenchInputs) -> dict[str, dict[str, Any]]:
    """Instructions of one warm inference, and memory. No times."""
    figures = {}
    with progress.bar(f"running on {device.name}", len(inputs.files)) as advance:
        for name, path in inputs.files.items():
            run = device.run(inputs.bundle, path, inputs.records, threads=1, warmup=1, repeat=2)
            figures[name] = {
                "instructions": min(run.instructions[1:]),
                "peak_rss_bytes": run.peak_rss_bytes,
                "rss_anon_bytes": run.rss_anon_bytes,
            }
            advance()
    return figures
