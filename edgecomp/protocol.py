"""What is measured of exported files on one device, and how: docs/measuring.md in code.

Original and compressed run in the same session, in turns. What a device cannot tell stays None: the emulator never
gives a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import intervals, progress, timing
from .devices import Device
from .records import Measurement


@dataclass(frozen=True)
class Scene:
    """What is measured: files by name, the bundle that runs them, the file of their inputs and what is in it."""

    runtime: str
    bundle: Path
    files: dict[str, Path]
    records: Path
    inputs: str


def measured(device: Device, scene: Scene) -> list[Measurement]:
    """The figures of all files on a device that is entered, one thread.

    Raises:
        DeviceError: a program dies, or the device is lost.
    """
    before = device.state()
    figures = _timed(device, scene) if device.tells_time else _counted(device, scene)
    facts = {**device.describe(), **({"before": before, "after": device.state()} if before else {})}
    empty = device.empty_rss_bytes(scene.bundle)
    return [
        Measurement(
            evidence=device.evidence,
            artifact=name,
            runtime=scene.runtime,
            threads=1,
            empty_rss_bytes=empty,
            inputs=scene.inputs,
            device=facts,
            **figures[name],
        )
        for name in scene.files
    ]


def _timed(device: Device, scene: Scene) -> dict[str, dict[str, Any]]:
    """Times and memory of every file, in turns."""
    jobs = {name: timing.Job(scene.bundle, path, scene.records) for name, path in scene.files.items()}
    return {name: _figures(found) for name, found in timing.in_turns(jobs, device=device).items()}


def _figures(found: timing.Timing) -> dict[str, Any]:
    times = {}
    for percent, (value, interval) in intervals.percentiles(found.processes).items():
        times |= {f"p{percent}_ms": value, f"p{percent}_interval_ms": interval}
    return {
        **times,
        "samples": found.samples_ms,
        "samples_by_process": [len(samples) for samples in found.processes],
        "load_ms": float(np.median(found.load_ms)),
        "first_ms": float(np.median(found.first_ms)),
        "peak_rss_bytes": found.peak_rss_bytes,
        "rss_anon_bytes": found.rss_anon_bytes,
    }


def _counted(device: Device, scene: Scene) -> dict[str, dict[str, Any]]:
    """Instructions of one warm inference, and memory. No times."""
    figures = {}
    with progress.bar(f"running on {device.name}", len(scene.files)) as advance:
        for name, path in scene.files.items():
            run = device.run(scene.bundle, path, scene.records, threads=1, warmup=1, repeat=3)
            figures[name] = {
                "instructions": int(np.median(run.instructions[1:])),
                "peak_rss_bytes": run.peak_rss_bytes,
                "rss_anon_bytes": run.rss_anon_bytes,
            }
            advance()
    return figures
