"""This machine."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from ..records import Evidence
from .base import Run, Steady
from .bench import bench_arguments, read_outputs, run_bench, to_run, write_records
from .bundle import host_bundle
from .facts import SCRIPT, Facts
from .target import find_target


class Host(Steady):
    name = "host"
    evidence: Evidence = "host"
    tells_time = True

    def describe(self) -> dict[str, Any]:
        return {"name": "host", "machine": platform.machine(), "processor": _processor(), "cores": os.cpu_count()}

    def state(self) -> dict[str, Any]:
        done = subprocess.run(["sh", "-c", SCRIPT], capture_output=True, text=True, errors="replace")
        return Facts.parse(done.stdout).state()

    def run(self, bundle: Path, model: Path, inputs: Path, outputs: Path | None = None, **options: int) -> Run:
        arguments = bench_arguments(model, inputs, outputs, options)
        return to_run(run_bench([str(bundle / "run.sh"), *arguments], "this machine", model))

    def empty_rss_bytes(self, bundle: Path) -> int:
        return run_bench([str(bundle / "run.sh")], "this machine", None)["peak_rss_bytes"]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


HOST_TARGET = "linux-x86_64"


def run_on_host(runtime: str, path: Path, inputs: list[Tensor], outputs: int, threads: int = 1) -> Tensor:
    """Runs an exported file on this machine, in a child process.

    Args:
        inputs: one tensor per input of the model, each (N, …) with N records.
        outputs: values per record of the first output.

    Returns:
        (N, outputs) fp32.
    """
    with tempfile.TemporaryDirectory() as temporary:
        records, result = Path(temporary, "inputs"), Path(temporary, "outputs")
        write_records(records, inputs)
        bundle = host_bundle(find_target(HOST_TARGET), runtime)
        Host().run(bundle, path, records, result, threads=threads)
        return read_outputs(result, len(inputs[0]), outputs)
