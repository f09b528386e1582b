"""A run in an app against one of the bench program: builds as modules in a JVM on this machine, in turns.

    python benchmarks/app.py out/demo                 # one build or several, of either runtime
    python benchmarks/app.py out/demo --rounds 15

A round runs the bench program for a second, then the JVM for a second after one that warms it up; one thread, the same
input. The ratio is the median over the rounds of the ratio of their medians, and lies between the quartiles beside it.
What the JVM runs is what an app calls, `EdgecompModel.run(float[]…)`: arrays copied in and out. Needs a JDK and CMake.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from edgecomp.devices.android import write_module
from edgecomp.devices.bench import run_bench
from edgecomp.devices.bundle import kept_bundle
from edgecomp.devices.host import HOST_TARGET
from edgecomp.devices.target import find_target

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from android_module import compiled, java_command

SECONDS = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs="+", type=Path, metavar="DIR", help="folder of a build with float inputs")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    table = Table("build", "runtime", "bench program", "JVM", "ratio", "quartiles")
    for build in arguments.builds:
        table.add_row(build.resolve().name, *_compared(build, arguments.rounds))
    Console().print(table)


def _compared(build: Path, rounds: int) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (model,) = write_module([build], folder / "module")
        runtime, asset = model.report.runtime, folder / "module/src/main/assets" / model.asset
        made = compiled(runtime, folder / "module", folder)
        inputs = folder / "inputs"
        sizes = [int(np.prod(tensor["shape"])) for tensor in model.inputs]
        inputs.write_bytes(np.random.default_rng(5).standard_normal(sum(sizes)).astype(np.float32).tobytes())
        bench = [str(kept_bundle(find_target(HOST_TARGET), runtime) / "run.sh"), "--trust", "1"]
        bench += ["--model", str(asset), "--inputs", str(inputs), "--warmup", "20", "--least_ms", str(1000 * SECONDS)]
        java = java_command(made, folder / "module", folder / "files", "time", inputs, SECONDS)
        pairs = [(_bench(bench), _java(java, made)) for _ in range(rounds)]
    ratios = np.array([there / here for here, there in pairs])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    here, there = np.median(pairs, axis=0)
    return runtime, f"{here:.4f} ms", f"{there:.4f} ms", f"{middle:.3f}", f"{low:.3f}–{high:.3f}"


def _bench(command: list[str]) -> float:
    return float(np.median(run_bench(command, "this machine", Path(command[0]))["sample_ms"]))


def _java(command: list[str], made: Path) -> float:
    environment = {"LD_LIBRARY_PATH": str(made / "libraries"), "PATH": "/usr/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
