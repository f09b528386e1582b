"""The user-mode emulator: certifies loading, operators, numbers, instructions and memory differences, never time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from ..records import Evidence
from ..util import compiler
from ..util.files import data_folder, temporary_folder
from .base import BenchRun, UnmanagedDevice
from .bench import bench_arguments, run_bench, to_run
from .bundle import BENCH
from .target import Target


class Qemu(UnmanagedDevice):
    name = "qemu"
    evidence: Evidence = "qemu-arm64"
    tells_time = False

    def __init__(self, target: Target) -> None:
        assert target.emulator is not None
        self.target, self.emulator = target, target.emulator

    def missing(self) -> tuple[str, str]:
        if shutil.which(self.emulator.command):
            return "", ""
        return f"{self.emulator.command} is not installed", f"Run: sudo apt-get install {self.emulator.debian}"

    def describe(self) -> dict[str, Any]:
        version = subprocess.run([self.emulator.command, "--version"], capture_output=True, text=True).stdout
        return {"name": "qemu", "cpu": self.emulator.cpu, "emulator": version.splitlines()[0]}

    def run(self, bundle: Path, model: Path, inputs: Path, outputs: Path | None = None, **options: int) -> BenchRun:
        if options.get("profile"):
            options["profile"] = 2  # operators noted by readings of a clock, which are counted
        result, counts = self._run(bundle, bench_arguments(model, inputs, outputs, options), model)
        until = [0, *(int(line[1:]) for line in counts if line.startswith("@"))]
        microsecond = 1000
        result["operator"] = [(n, until[a // microsecond], until[b // microsecond]) for n, a, b in result["operator"]]
        return to_run(result, [int(line) for line in counts if not line.startswith("@")])

    def empty_rss_bytes(self, bundle: Path) -> int:
        return self._run(bundle, [], None)[0]["peak_rss_bytes"]

    def _run(self, bundle: Path, arguments: list[str], model: Path | None) -> tuple[dict[str, Any], list[str]]:
        """The program's JSON lines, and those of the instruction counter (count.c)."""
        plugin = compiler.shared_library([data_folder("android_bench") / "count.c"], "libedgecomp_count.so")
        with temporary_folder() as temporary:
            root, counts = Path(temporary, "root"), Path(temporary, "counts")
            (root / "proc").mkdir(parents=True)
            (root / "proc/cpuinfo").write_text(self.emulator.cpuinfo.lstrip())
            command = [self.emulator.command, "-cpu", self.emulator.cpu, "-L", str(root)]
            command += ["-plugin", f"{plugin},out={counts}"]
            # The bundle's own loader and libraries; nothing of this machine's ARM64 system, if it has one.
            command += [str(bundle / "lib" / self.target.bundle.loader), "--library-path", str(bundle / "lib")]
            command += [str(bundle / BENCH), *arguments]
            result = run_bench(command, f"{self.emulator.command} ({self.emulator.cpu})", model)
            return result, counts.read_text().split()
