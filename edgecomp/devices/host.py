"""This machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from ..records import Evidence
from . import Run, Steady, bench_arguments, run_bench, to_run
from .facts import SCRIPT, Facts


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
