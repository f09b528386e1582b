"""Single layers: codes against fp32, int8, int4 and int2 in both runtimes. One run, all in turns, 1 and 2 threads.

    python benchmarks/kernels.py                      # dense layers of zfnet and VGG, four convolutions
    python benchmarks/kernels.py --shapes 4096x1000 256x256x3@14
    python benchmarks/kernels.py --shapes 9216x4096 --ours k=16,s=2 k=16,s=8 k=256,s=4 rq:k=16,s=8
    python benchmarks/kernels.py --shapes 9216x4096 --batch 16
    python benchmarks/kernels.py --model zfnet vgg --markdown docs/kernels.md

A shape is INPUTSxOUTPUTS of a dense layer, or INxOUTxKERNEL@SIZE of a convolution with stride 1 that keeps the size.
With --model, a shape that one of these trained nets has is that layer, with its calibration inputs; a convolution of
another SIZE than in its net gets what reaches it from many calibration images side by side. Else weights are normal
random numbers, and inputs are such behind a ReLU: costs are the same but for the tables, which are of bytes where a
layer's own inputs let them be. What the columns mean is said below the tables. Ctrl-C leaves on the screen what has
been measured.
"""

import argparse
import copy
import functools
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kernels_page
import numpy as np
import roofline
import torch
from kernels_page import THREADS, Layer, Row
from rich.console import Console
from rich.table import Table
from torch import nn

from edgecomp import chain, discover
from edgecomp.devices import bundle, timing
from edgecomp.devices.host import HOST_TARGET, Host
from edgecomp.devices.probe import count_instructions
from edgecomp.devices.target import find_target
from edgecomp.devices.tensors import write_records
from edgecomp.fitting import calibration, tables
from edgecomp.fitting.calibration import CALIBRATION_SAMPLES
from edgecomp.graph.order import note_image_sizes
from edgecomp.layers.matrix import explicit_padding, kind_of
from edgecomp.load import load
from edgecomp.records import Model, Request
from edgecomp.util import progress
from edgecomp.util.files import write_text

SHAPES = (
    *("9216x4096", "4096x4096", "4096x1000", "25088x4096"),
    *("64x64x3@56", "128x128x3@28", "256x256x3@14", "512x512x3@7"),
)
ANDROID = "android-arm64"
SAMPLES = 64  # inputs that ranges and tables are fitted to; a convolution gets one, which has many pixels
RUNTIMES = {"executorch": "ExecuTorch", "litert": "LiteRT"}
OURS, BYTES = "k=16,s=4", "k=16,s=4,tables=8"  # the tables that builds choose, and what bytes would cost
# Of convolutions: what weights cost that meet many inputs.
PRODUCTS = ("k=16,s=4,kernel=dot", "k=256,s=4,kernel=dot")
FITTING = ("fit=plain", "iterations=1")  # of random weights: how good the codes are does not change what they cost
# Runtime, method, settings.
RIVALS = {
    "fp32, ExecuTorch": ("executorch", "", ()),
    "int8, ExecuTorch": ("executorch", "int8", ("activations=dynamic",)),
    "int8 static, ExecuTorch": ("executorch", "int8", ("activations=static",)),
    "fp32, LiteRT": ("litert", "", ()),
    "int8, LiteRT": ("litert", "int8", ("activations=dynamic",)),
    "int4, LiteRT": ("litert", "int4", ("fit=plain",)),
    "int2, LiteRT": ("litert", "int2", ("fit=plain",)),
}
Entry = tuple[str, str, tuple[str, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument(
        "--batch", type=int, default=1, choices=range(1, SAMPLES + 1), metavar="N", help="of dense layers"
    )
    parser.add_argument(
        "--model", nargs="+", default=(), metavar="NAME", help="trained nets of the zoo, or model files, to take from"
    )
    parser.add_argument(
        "--ours", nargs="+", default=(), metavar="[METHOD:]KEY=VALUE,…", help=f"more rows, beside pq:{OURS}; ExecuTorch"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="writes the page, after every shape")
    options = parser.parse_args()
    progress.remember_interrupts()
    models = [load(Request(model=name)) for name in options.model]
    layers: list[Layer] = []
    try:
        for shape in options.shapes:
            found = (subject for model in models if (subject := taken_from(model, shape)))
            subject = next(found, None) or made_up(shape)
            layer = Layer(shape, 1 if "@" in shape else options.batch, subject.origin)
            layers.append(layer)
            try:
                with tempfile.TemporaryDirectory() as temporary:
                    measure(layer, subject, options.ours, Path(temporary))
            finally:
                show(layer)
            if options.markdown:
                write_text(options.markdown, kernels_page.page(layers))
    except KeyboardInterrupt:
        progress.note("interrupted")
        sys.exit(130)
    finally:
        conclude(layers)


@dataclass(frozen=True)
class Subject:
    """A layer, inputs for it (N, …), and, if it is a trained net's, statistics of more of them and where it is from."""

    layer: nn.Module
    samples: torch.Tensor
    statistics: calibration.Inputs | None = None
    origin: str = ""


def measure(layer: Layer, subject: Subject, more: tuple[str, ...], folder: Path) -> None:
    """Fills `layer` as it goes."""
    inputs = subject.samples[: layer.batch]
    write_records(folder / "inputs", [inputs])
    for runtime in RUNTIMES:
        empty_run_bytes(runtime)
    for name, entry, made in replacements(subject, entries(more, subject), layer.refused):
        with progress.stage("export", f"{layer.title} {name}"):
            path = folder / f"{len(layer.rows)}{discover.runtime(entry[0]).SUFFIX}"
            row = exported(name, entry, made, inputs, path)
        layer.rows.append(row)
        with progress.stage("emulate", f"{layer.title} {name}"):
            row.instructions = count_instructions(path, folder / "inputs", row.runtime, ANDROID)[0]
    with progress.stage("time", layer.title):
        for row in layer.rows:
            for threads in row.threads:
                roofline.limit(row.work, threads)
        time_all(layer, folder / "inputs")
        roofline.refresh()


def made_up(shape: str) -> Subject:
    """Random weights, and what comes out of a ReLU."""
    torch.manual_seed(0)
    numbers = [int(number) for number in re.split("[x@]", shape)]
    if len(numbers) == 2:
        return Subject(nn.Linear(*numbers), torch.randn(SAMPLES, numbers[0]).relu())
    channels, rows, kernel, size = numbers
    layer = nn.Conv2d(channels, rows, kernel, padding=kernel // 2)
    return Subject(layer, torch.randn(1, channels, size, size).relu())


def taken_from(model: Model, shape: str) -> Subject | None:
    """The net's first layer of that shape, else a convolution that has it on larger images; None if there is none."""
    if model.data is None:
        return None
    (images,) = model.data.calibration.inputs
    wanted, _, size = shape.partition("@")
    larger: Subject | None = None
    for name, layer in model.net.named_modules():
        if kind_of(layer) not in ("dense", "conv"):
            continue
        (samples,) = calibration.inputs_of(model.net, layer, images[:SAMPLES])
        found, _, own = shape_of(layer, samples).partition("@")
        if found != wanted:
            continue
        statistics = calibration.gather(model.net, layer, images[:CALIBRATION_SAMPLES])
        origin = f"{model.name}'s {name}"
        if own == size:
            return Subject(copy.deepcopy(layer), samples, statistics, origin)
        if larger is None and int(own) < int(size):
            across = -(-int(size) // int(own))
            (samples,) = calibration.inputs_of(model.net, layer, side_by_side(images, across))
            samples = samples[:, :, : int(size), : int(size)].contiguous()
            larger = Subject(copy.deepcopy(layer), samples, statistics, f"{origin} on {across}×{across} images")
    return larger


def side_by_side(images: torch.Tensor, across: int) -> torch.Tensor:
    """(N, C, H, W) → (1, C, across·H, across·W)."""
    rows = images[: across**2].unflatten(0, (across, across))
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)[None]


def shape_of(layer: nn.Module, samples: torch.Tensor) -> str:
    """As it is written on the command line; empty if it cannot be."""
    if isinstance(layer, nn.Linear):
        return f"{layer.in_features}x{layer.out_features}"
    kernel, size = layer.kernel_size[0], samples.shape[2]
    made = nn.Conv2d(layer.in_channels, layer.out_channels, kernel, padding=kernel // 2)
    same = explicit_padding(made) == explicit_padding(layer) and made.extra_repr() == layer.extra_repr()
    return f"{layer.in_channels}x{layer.out_channels}x{kernel}@{size}" if same and samples.shape[3] == size else ""


def entries(more: tuple[str, ...], subject: Subject) -> dict[str, Entry]:
    """Rivals, then ours in both runtimes, then more of ours in ExecuTorch."""
    found: dict[str, Entry] = dict(RIVALS)
    fitting, made_up = (FITTING, (BYTES,)) if subject.statistics is None else ((), ())
    products = PRODUCTS if kind_of(subject.layer) == "conv" else ()
    for text in dict.fromkeys((OURS, *made_up, *products, *more)):
        method, settings = (text if ":" in text else f"pq:{text}").split(":", 1)
        name, known = f"{method} {settings.replace(',', ' ')}", discover.method(method).Config.model_fields
        common = [*fitting, *(("codebooks=shared",) if kind_of(subject.layer) == "conv" else ())]
        chosen = (*(one for one in common if one.partition("=")[0] in known), *settings.split(","))
        for runtime in RUNTIMES if text in (OURS, BYTES) else ("executorch",):
            found[f"{name}, {RUNTIMES[runtime]}"] = (runtime, method, chosen)
    return found


def replacements(
    subject: Subject, wanted: dict[str, Entry], refused: list[str]
) -> Iterator[tuple[str, Entry, nn.Module]]:
    """What takes the place of the layer, by name; `refused` gets the reasons of those that cannot."""
    plain, samples = subject.layer, subject.samples
    original = nn.Sequential(plain).eval()
    note_image_sizes(original, (samples,))
    fitted: dict[tuple[str, tuple[str, ...]], nn.Module] = {}
    for name, entry in wanted.items():
        runtime, method, settings = entry
        if not method:
            yield name, entry, plain
            continue
        (compressor,) = chain.parse(method, (*settings, "kinds=dense,conv"), runtime)
        if reason := compressor.refuse(plain):
            refused.append(f"{name}: {reason}")
            continue
        if (method, settings) not in fitted:
            made = fitted[method, settings] = compressor.compress(plain, subject.statistics, 0)
            calibration.fix_ranges(original, plain, made, samples)
            tables.choose_tables(original, plain, made, samples)
        yield name, entry, fitted[method, settings]


def exported(name: str, entry: Entry, made: nn.Module, inputs: torch.Tensor, path: Path) -> Row:
    runtime, method, _ = entry
    net = nn.Sequential(made).eval()
    discover.runtime(runtime).export(net, (inputs,), path)
    with torch.no_grad():
        expected = net(inputs)
    read = sum(len(constant.data) for constant in discover.runtime(runtime).constants(path)) + inputs.nbytes
    got = run_once(runtime, path, inputs).reshape(expected.shape)
    ours = method not in ("", "int8", "int4", "int2")
    return Row(
        name=name,
        runtime=runtime,
        ours=ours,
        path=path,
        threads=(1,) if ours and runtime == "litert" else THREADS,  # it shows custom ops no threads
        work=roofline.work(made, expected, read),
        error=((got - expected).norm() / expected.norm()).item(),
        file_bytes=path.stat().st_size,
    )


def run_once(runtime: str, path: Path, inputs: torch.Tensor) -> torch.Tensor:
    """The outputs, flat."""
    with tempfile.TemporaryDirectory() as temporary:
        records, result = Path(temporary, "inputs"), Path(temporary, "outputs")
        write_records(records, [inputs])
        Host().run(host_bundle(runtime), path, records, result, threads=1)
        return torch.from_numpy(np.fromfile(result, np.float32))


def time_all(layer: Layer, inputs: Path) -> None:
    """All files with all their numbers of threads, in turns."""
    keys = {f"{row.name}, {threads}": (row, threads) for row in layer.rows for threads in row.threads}
    jobs = {
        key: timing.TimingJob(host_bundle(row.runtime), row.path, inputs, threads)
        for key, (row, threads) in keys.items()
    }
    found: dict[str, timing.Timing] = {}
    try:
        timing.in_turns(jobs, most=2000, timings=found)
    finally:
        for key, (row, threads) in keys.items():
            row.timings[threads] = found.get(key, timing.Timing())
            if threads == 1 and row.timings[1].peak_rss_bytes:
                row.over_empty_bytes = row.timings[1].peak_rss_bytes - empty_run_bytes(row.runtime)


def host_bundle(runtime: str) -> Path:
    return bundle.host_bundle(find_target(HOST_TARGET), runtime)


@functools.cache
def empty_run_bytes(runtime: str) -> int:
    """Peak memory of the bench program with a net that gives back what it gets: no operator, no XNNPACK."""
    with tempfile.TemporaryDirectory() as temporary:
        path, records, inputs = Path(temporary, "net"), Path(temporary, "inputs"), torch.zeros(1, 8)
        discover.runtime(runtime).export(nn.Identity().eval(), (inputs,), path)
        write_records(records, [inputs])
        runs = [Host().run(host_bundle(runtime), path, records, threads=1) for _ in range(5)]
        return int(np.median([run.peak_rss_bytes for run in runs]))


def show(layer: Layer) -> None:
    if layer.rows:
        table(layer.title, *kernels_page.figures(layer))
        table("how far from the limit", *kernels_page.limits(layer))
    for reason in layer.refused:
        console().print(reason, style="dim")


def conclude(layers: list[Layer]) -> None:
    if layers:
        table("peaks of this machine", *kernels_page.peaks())
        table("claims", *kernels_page.verdicts(layers))
        for note in kernels_page.notes():
            console().print(note, style="dim")


def table(title: str, titles: list[str], rows: list[list[str]]) -> None:
    shown = Table(title=title, title_justify="left")
    for number, text in enumerate(titles):
        shown.add_column(text, justify="right" if number else "left")
    for row in rows:
        shown.add_row(*row)
    console().print(shown)


@functools.cache
def console() -> Console:
    """Wide enough where nobody says how wide it is."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 170)


if __name__ == "__main__":
    main()
