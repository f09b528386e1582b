"""The figures of a sweep's files that depend on where they run: time and memory, all of them in turns in one run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import devices, discover, measure, native, progress, timing
from .devices.host import Host
from .export import HOST_TARGET, write_records
from .files import atomic_folder, sha256_file
from .records import Measurement, Model, Request
from .workspace import Workspace, stage_key

_SECONDS = 0.5  # of one file in each of the rounds of timing


def measured_files(
    model: Model, runtime: str, request: Request, files: dict[str, Path], work: Workspace
) -> dict[str, list[Measurement]]:
    """Measurements by name of the file, the first of them `original`; kept while the files stay what they are.

    Raises:
        DeviceError: a program dies on the host or the device.
    """
    target = discover.target(request.target)
    names = devices.chosen(target, request.on)
    digests = {name: sha256_file(path) for name, path in files.items()}
    found: dict[str, list[Measurement]] = {name: [] for name in files}
    with tempfile.TemporaryDirectory() as temporary:
        records = Path(temporary, "inputs")
        write_records(records, measure.first_record(model))
        if names:
            key = stage_key("timing", json.dumps(digests), json.dumps(Host().describe()))
            lines = _once(work, "timing", key, lambda: _timed(files, runtime, records))
            for name, line in lines.items():
                found[name].append(Measurement(**line))
        for device in names[1:]:
            with atomic_folder(work.path("bundle")) as partial:
                native.make_bundle(target, runtime, partial)
            with progress.bar(f"running on {device}", len(files)) as advance:
                for name, path in files.items():
                    run = lambda p=path: _counted(devices.make(device, target), runtime, work, p, records)  # noqa: B023, E731
                    line = _once(work, f"{device}-{name}", stage_key("counted", digests[name], device), run)
                    found[name].append(Measurement(**line))
                    advance(text=name)
    return {name: [_of(name, line) for line in lines] for name, lines in found.items()}


def _of(name: str, line: Measurement) -> Measurement:
    return line.model_copy(update={"artifact": "original" if name == "original" else "compressed"})


def _once(work: Workspace, stage: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found before under the same key, or now."""
    done = work.recall(stage, key)
    if done is None:
        done = make()
        work.record(stage, key, [], done)
    return done


def _timed(files: dict[str, Path], runtime: str, records: Path) -> dict[str, dict[str, Any]]:
    host, bundle = Host(), native.host_bundle(discover.target(HOST_TARGET), runtime)
    jobs = {name: timing.Job(bundle, path, records) for name, path in files.items()}
    lines = {}
    for name, found in timing.in_turns(jobs, seconds=_SECONDS).items():
        percentiles = np.percentile(found.samples_ms, (50, 90, 99)).round(4)
        lines[name] = Measurement(
            evidence=host.evidence,
            artifact="compressed",
            runtime=runtime,
            threads=1,
            **dict(zip(("p50_ms", "p90_ms", "p99_ms"), map(float, percentiles), strict=True)),
            samples=found.samples_ms,
            load_ms=float(np.median(found.load_ms)),
            peak_rss_bytes=found.peak_rss_bytes,
            device=host.describe(),
        ).model_dump()
    return lines


def _counted(device: devices.Device, runtime: str, work: Workspace, path: Path, records: Path) -> dict[str, Any]:
    """Instructions of one warm inference, and peak memory."""
    run = device.run(work.path("bundle"), path, records, threads=1, warmup=1, repeat=3)
    return Measurement(
        evidence=device.evidence,
        artifact="compressed",
        runtime=runtime,
        threads=1,
        peak_rss_bytes=run.peak_rss_bytes,
        instructions=int(np.median(run.instructions[1:])),
        device=device.describe(),
    ).model_dump()
