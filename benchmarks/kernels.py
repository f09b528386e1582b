"""Single layers: codes against fp32, int8, int4 and int2 in both runtimes. One run, all in turns.

    python benchmarks/kernels.py                      # dense1 and dense2 of zfnet, and a convolution
    python benchmarks/kernels.py --shapes 4096x1000 256x256x3@14

A shape is INPUTSxOUTPUTS of a dense layer, or INxOUTxKERNEL@SIZE of a convolution with stride 1 that keeps the size.
Weights are normal random numbers: they do not change what a layer costs. Latency: host, one thread, batch 1, median.
Memory: VmHWM of a process that loads the file and runs it once. Instructions: of one warm inference on emulated ARM64.
"""

import argparse
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from edgecomp import calibration, chain, devices, discover, graph, lookup, native, progress, timing
from edgecomp.export import HOST_TARGET, write_records
from edgecomp.units import format_bytes, format_count

SHAPES = ("9216x4096", "4096x4096", "256x256x3@14")
ANDROID = "android-arm64"
PQ = ("k=16", "s=4", "fit=plain", "iterations=1")
# Runtime, method, settings. The first is what the others are compared with.
RIVALS = {
    "fp32, ExecuTorch": ("executorch", "", ()),
    "int8, ExecuTorch": ("executorch", "int8", ()),
    "int8 static, ExecuTorch": ("executorch", "int8", ("activations=static",)),
    "fp32, LiteRT": ("litert", "", ()),
    "int8, LiteRT": ("litert", "int8", ()),
    "int4, LiteRT": ("litert", "int4", ("fit=plain",)),
    "int2, LiteRT": ("litert", "int2", ("fit=plain",)),
    "pq k=16 s=4, ExecuTorch": ("executorch", "pq", PQ),
    "pq k=16 s=4, LiteRT": ("litert", "pq", PQ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    for shape in parser.parse_args().shapes:
        layer, inputs = layer_of(shape)
        with tempfile.TemporaryDirectory() as temporary:
            measure(shape, layer, inputs, Path(temporary))


def layer_of(shape: str) -> tuple[nn.Module, torch.Tensor]:
    """The layer, and inputs for it."""
    torch.manual_seed(0)
    numbers = [int(number) for number in re.split("[x@]", shape)]
    if len(numbers) == 2:
        return nn.Linear(*numbers), torch.randn(1, numbers[0])
    channels, rows, kernel, size = numbers
    return nn.Conv2d(channels, rows, kernel, padding=kernel // 2), torch.randn(1, channels, size, size)


def measure(shape: str, layer: nn.Module, inputs: torch.Tensor, folder: Path) -> None:
    target, host = discover.target(ANDROID), discover.target(HOST_TARGET)
    emulator = devices.make("qemu", target)
    write_records(folder / "inputs", [inputs])
    for runtime in discover.runtime_names():
        native.make_bundle(target, runtime, folder / runtime)
    jobs, instructions, refused = {}, {}, []
    for name, net in nets(layer, inputs, refused):
        runtime = RIVALS[name][0]
        path = folder / f"{len(jobs)}{discover.runtime(runtime).SUFFIX}"
        with progress.stage("export", f"{shape} {name}"):
            discover.runtime(runtime).export(net, (inputs,), path)
            run = emulator.run(folder / runtime, path, folder / "inputs", threads=1, warmup=1, repeat=3)
        instructions[name] = int(np.median(run.instructions[1:]))
        jobs[name] = timing.Job(native.host_bundle(host, runtime), path, folder / "inputs")
    timings = timing.in_turns(jobs, most=2000)
    table = Table(title=shape, title_justify="left")
    for title in ("", "file", "latency", "of fp32", "peak memory", "instructions"):
        table.add_column(title, justify="left" if title == "" else "right")
    first = timings[next(iter(jobs))].p50_ms
    for name, job in jobs.items():
        found = timings[name]
        cells = [format_bytes(job.model.stat().st_size), f"{found.p50_ms:.3g} ms", f"{found.p50_ms / first:.3f}"]
        table.add_row(name, *cells, format_bytes(found.peak_rss_bytes), format_count(instructions[name]))
    console = Console()
    console.print(table)
    for reason in refused:
        console.print(reason, style="dim")


def nets(layer: nn.Module, inputs: torch.Tensor, refused: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """The layer by name of a rival, as a net; `refused` gets the reasons of those that cannot run it."""
    original = nn.Sequential(layer).eval()
    graph.note_image_sizes(original, (inputs,))
    for name, (runtime, method, settings) in RIVALS.items():
        if not method:
            yield name, original
            continue
        (compressor,) = chain.parse(method, (*settings, "kinds=dense,conv"), runtime)
        if reason := compressor.refuse(layer):
            refused.append(f"{name}: {reason}")
            continue
        made = compressor.compress(layer, None, 0)
        calibration.fix_ranges(original, layer, made, inputs)
        lookup.choose_tables(original, layer, made, inputs)
        yield name, nn.Sequential(made).eval()


if __name__ == "__main__":
    main()
