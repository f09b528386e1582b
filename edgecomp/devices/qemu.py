"""The user-mode emulator: certifies loading, operators, numbers, instructions and memory differences, never time."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .. import compiler, native
from ..discover import Target
from ..files import data_folder
from ..records import Evidence
from . import Run, bench_arguments, run_bench


class Qemu:
    name = "qemu"
    evidence: Evidence = "qemu-arm64"

    def __init__(self, target: Target) -> None:
        assert target.emulator is not None
        self.target, self.emulator = target, target.emulator

    def missing(self) -> str:
        if shutil.which(self.emulator.command):
            return ""
        return f"{self.emulator.command} is not installed; sudo apt-get install {self.emulator.debian}"

    def describe(self) -> dict[str, Any]:
        version = subprocess.run([self.emulator.command, "--version"], capture_output=True, text=True).stdout
        return {"name": "qemu", "cpu": self.emulator.cpu, "emulator": version.splitlines()[0]}

    def run(self, bundle: Path, model: Path, inputs: Path, outputs: Path | None = None, **options: int) -> Run:
        plugin = compiler.shared_library([data_folder("android_bench") / "count.c"], "libedgecomp_count.so")
        with tempfile.TemporaryDirectory() as temporary:
            root, counts = Path(temporary, "root"), Path(temporary, "counts")
            (root / "proc").mkdir(parents=True)
            (root / "proc/cpuinfo").write_text(self.emulator.cpuinfo.lstrip())
            command = [self.emulator.command, "-cpu", self.emulator.cpu, "-L", str(root)]
            command += ["-plugin", f"{plugin},out={counts}"]
            # The bundle's own loader and libraries; nothing of this machine's ARM64 system, if it has one.
            command += [str(bundle / "lib" / self.target.bundle.loader), "--library-path", str(bundle / "lib")]
            command += [str(bundle / native.BENCH), *bench_arguments(model, inputs, outputs, options)]
            result = run_bench(command, f"{self.emulator.command} ({self.emulator.cpu})", model)
            instructions = [int(line) for line in counts.read_text().split()]
        return Run(result["load_ms"], result["sample_ms"], result["peak_rss_bytes"], instructions)
