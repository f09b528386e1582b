"""This machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..records import Evidence
from ..util.machine import processor
from .base import BenchRun, UnmanagedDevice
from .bench import bench_arguments, run_bench, to_run
from .bundle import host_bundle
from .facts import SCRIPT, Facts
from .target import find_target

if TYPE_CHECKING:  # listing devices must not wait for torch
    from .tensors import Signature, Tensors


class Host(UnmanagedDevice):
    name = "host"
    evidence: Evidence = "host"
    tells_time = True

    def describe(self) -> dict[str, Any]:
        return {"name": "host", "machine": platform.machine(), "processor": processor(), "cores": os.cpu_count()}

    def state(self) -> dict[str, Any]:
        done = subprocess.run(["sh", "-c", SCRIPT], capture_output=True, text=True, errors="replace")
        return Facts.parse(done.stdout).state()

    def run(self, bundle: Path, model: Path, inputs: Path, outputs: Path | None = None, **options: int) -> BenchRun:
        arguments = bench_arguments(model, inputs, outputs, options)
        return to_run(run_bench([str(bundle / "run.sh"), *arguments], "this machine", model))

    def empty_rss_bytes(self, bundle: Path) -> int:
        return run_bench([str(bundle / "run.sh")], "this machine", None)["peak_rss_bytes"]


HOST_TARGET = "linux-x86_64"


def outputs_on_host(
    runtime: str, path: Path, signature: Signature, inputs: Tensors, batch: int = 1, threads: int = 1
) -> Tensors:
    """What an exported file gives on this machine, in a child process: see `tensors.outputs_of`."""
    from .tensors import outputs_of

    bundle = host_bundle(find_target(HOST_TARGET), runtime)

    def run(records: Path, result: Path) -> None:
        Host().run(bundle, path, records, result, threads=threads)

    return outputs_of(run, signature, inputs, batch)
