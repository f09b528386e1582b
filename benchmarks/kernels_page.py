"""What kernels.py measures of a layer, and how it is shown: tables, the claims of the kernels, the page."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import roofline

from edgecomp import discover
from edgecomp.devices.host import Host
from edgecomp.devices.timing import Timing
from edgecomp.report import markdown
from edgecomp.util.units import format_bytes, format_count

THREADS = (1, 2)
_SAME = "¹"
BYTES = "tables=8"
_NOTES = (
    "Latency: median on this machine, all files and numbers of threads in turns in one run. ours ÷: time or "
    "instructions of `pq k=16 s=4` in the same runtime over those of the row: below 1 ours is faster. Memory: VmHWM of "
    "a process that loads the file and runs it once with one thread, over that of an empty net. Instructions: "
    "of one warm inference on emulated ARM64 (cortex-a76), one thread; they say nothing about memory traffic. Error: "
    "relative L2 distance of the outputs from torch's of the same compressed layer, in fp32: what tables in integers, "
    "or the kernel, add to it.",
    f"{_SAME} LiteRT shows custom ops no threads: ours is the same program, timed with one.",
)
_LIMIT_NOTES = (
    "Bytes read: every constant of the file as it is stored there (codes, codebooks, scales, biases; what a runtime "
    "packs anew or wider at loading is not seen) and the inputs, each once. Reading: at the bandwidth of a loop that "
    "reads a buffer of that size again and again. Computing: at the peak of loops in registers alone. Ours: products "
    "of the inputs with all codewords in fp32 (of a convolution with one codebook once per pixel), then a lookup and "
    "an addition per code and row of inputs. The limit is the longer of the two; ÷ says how many times longer the row "
    "takes.",
)


@dataclass
class Row:
    """One file of a layer. error: see the page. over_empty_bytes: peak memory over an empty run."""

    name: str
    runtime: str
    ours: bool
    path: Path
    threads: tuple[int, ...]
    work: roofline.Work
    error: float
    instructions: int = 0
    over_empty_bytes: int = 0
    file_bytes: int = 0
    timings: dict[int, Timing] = field(default_factory=dict)

    def ms(self, threads: int) -> float | None:
        """Median, None if it has not been measured; with one thread if the file cannot use more."""
        timing = self.timings.get(threads if threads in self.threads else 1)
        return timing.p50_ms if timing and timing.samples_ms else None


@dataclass
class Layer:
    """All files of one layer, and why others are missing. The first of ours in each runtime is what is compared."""

    shape: str
    batch: int
    origin: str  # the trained net's layer it is; empty: random numbers
    rows: list[Row] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return self.shape + batch + (f" ({self.origin})" if self.origin else "")

    def ours(self, row: Row, settings: str = "") -> Row | None:
        """In the runtime of the row; those with these settings."""
        ours = (other for other in self.rows if other.ours and other.runtime == row.runtime)
        return next((other for other in ours if settings in other.name), None)

    def time_ratio(self, row: Row, threads: int, settings: str = "") -> float | None:
        """Our time over the row's."""
        ours = self.ours(row, settings)
        mine, other = ours.ms(threads) if ours else None, row.ms(threads)
        return mine / other if mine and other else None

    def instruction_ratio(self, row: Row, settings: str = "") -> float | None:
        ours = self.ours(row, settings)
        return ours.instructions / row.instructions if ours and ours.instructions and row.instructions else None


@dataclass(frozen=True)
class Claim:
    """Ours takes at most `limit` times as much as each of `rivals`, batch 1, one thread. what: time or instructions."""

    shape: str
    what: str
    against: str
    rivals: tuple[str, ...]
    limit: float


_DENSE = "9216x4096"
_INT8 = ("int8, ExecuTorch", "int8 static, ExecuTorch")
CLAIMS = (
    Claim(_DENSE, "time", "LiteRT int2", ("int2, LiteRT",), 0.6),
    Claim(_DENSE, "time", "LiteRT int4", ("int4, LiteRT",), 0.35),
    Claim(_DENSE, "time", "ExecuTorch int8", _INT8, 0.15),
    Claim(_DENSE, "time", "fp32", ("fp32, ExecuTorch", "fp32, LiteRT"), 0.05),
    Claim(_DENSE, "ARM64 instructions", "int8", (*_INT8, "int8, LiteRT"), 0.5),
    Claim("256x256x3@14", "time", "ExecuTorch int8", _INT8, 1.0),
)

Table = tuple[list[str], list[list[str]]]


def figures(layer: Layer) -> Table:
    """Titles and rows: what was measured."""
    titles = ["", "file"]
    for threads in THREADS:
        titles += [_threads(threads), "ours ÷"]
    titles += ["memory", "instructions", "ours ÷", "error"]
    rows = []
    for row in layer.rows:
        cells = [row.name, format_bytes(row.file_bytes)]
        for threads in THREADS:
            same = "" if threads in row.threads else _SAME
            cells += [_ms(row.ms(threads), same), _ratio(layer.time_ratio(row, threads))]
        cells += [format_bytes(row.over_empty_bytes), format_count(row.instructions) if row.instructions else ""]
        rows.append([*cells, _ratio(layer.instruction_ratio(row)), f"{100 * row.error:.2g} %"])
    return titles, rows


def limits(layer: Layer) -> Table:
    """Titles and rows: the least that the machine would need, and how far from it each row is."""
    titles = ["", "bytes read", "operations"]
    for threads in THREADS:
        titles += [f"reading, {_threads(threads)}", "computing", "÷ limit"]
    rows = []
    for row in layer.rows:
        operations = [f"{format_count(count)} {kind}" for kind, count in row.work.operations.items()]
        cells = [row.name, format_bytes(row.work.read_bytes), " + ".join(operations)]
        for threads in THREADS:
            if threads not in row.threads:
                cells += ["", "", ""]
                continue
            limit = roofline.limit(row.work, threads)
            speed = row.work.read_bytes / limit.reading_ms / 1e6
            cells += [f"{_ms(limit.reading_ms)} ({speed:.0f} GB/s)", _ms(limit.computing_ms)]
            measured = row.ms(threads)
            cells.append(f"{measured / limit.ms:.1f}" if measured else "")
        rows.append(cells)
    return titles, rows


def peaks() -> Table:
    rows = [
        [text, *(f"{roofline.peak(operation, threads) / 1e9:.0f} G/s" for threads in THREADS)]
        for operation, text in roofline.OPERATIONS.items()
    ]
    return ["peak", *map(_threads, THREADS)], rows


def verdicts(layers: list[Layer]) -> Table:
    """Every claim, and what this run says about it: of the tables that builds choose and, if those are others, of
    bytes."""
    single = {layer.shape: layer for layer in layers if layer.batch == 1}
    rows = []
    for claim in CLAIMS:
        layer = single.get(claim.shape)
        rows.append(_verdict(claim, layer, ""))
        if layer and any(BYTES in row.name for row in layer.rows):
            rows.append(_verdict(claim, layer, BYTES))
    return ["batch 1, 1 thread: ours takes, at most", "measured", ""], rows


def _verdict(claim: Claim, layer: Layer | None, settings: str) -> list[str]:
    text = f"{claim.shape}: {claim.limit:g}× the {claim.what} of {claim.against}" + (
        f", {settings}" if settings else ""
    )
    found = {row.name: row for row in layer.rows if row.name in claim.rivals} if layer else {}
    ratios = {}
    for name, row in found.items():
        timed = claim.what == "time"
        ratio = layer.time_ratio(row, 1, settings) if timed else layer.instruction_ratio(row, settings)
        if ratio is not None:
            ratios[name] = ratio
    if len(ratios) < len(claim.rivals):  # the missing one could be the fastest
        return [text, "", "not measured"]
    measured = ", ".join(f"{ratio:.3f}× {name}" for name, ratio in ratios.items())
    return [text, measured, "holds" if max(ratios.values()) <= claim.limit else "**missed**"]


def page(layers: list[Layer]) -> str:
    """All of it in Markdown."""
    parts = ["# Kernels: single layers in both runtimes", _heading(), markdown.table(*verdicts(layers))]
    parts += map(_wrapped, _NOTES)
    for layer in layers:
        parts += [f"## {layer.title}", markdown.table(*figures(layer)), *(f"- {reason}" for reason in layer.refused)]
    parts += ["## How far from the limit", *map(_wrapped, _LIMIT_NOTES), markdown.table(*peaks())]
    for layer in layers:
        parts += [f"### {layer.title}", markdown.table(*limits(layer))]
    return "\n\n".join(parts) + "\n"


def notes() -> tuple[str, ...]:
    return _NOTES + _LIMIT_NOTES


def _heading() -> str:
    host = Host().describe()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("edgecomp", "torch")]
    versions += [f"{runtime} {discover.runtime(runtime).version()}" for runtime in discover.runtime_names()]
    command = shlex.join(["python", "benchmarks/kernels.py", *sys.argv[1:]])
    about = (
        f"{host['processor']} ({host['machine']}, {host['cores']} cores, {platform.system()}); commit {_commit()}; "
        f"{datetime.date.today().isoformat()}; {', '.join(versions)}. A layer of a trained net has its calibration "
        "inputs; a convolution on n×n images gets what reaches it from so many of them side by side. Elsewhere weights "
        "are normal random numbers, and inputs such behind a ReLU; tables of bytes would add more than 0.5 % to their "
        "outputs, so that builds would take 16 bits for them, and so does `pq k=16 s=4`. `pq` has a codebook per block "
        "of a dense layer, and one for a whole convolution."
    )
    return f"    {command}\n\n{_wrapped(about)}"


def _commit() -> str:
    """Short hash; uncommitted changes are said."""
    folder = str(Path(__file__).parent)

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/*.py", ":/*.cc", ":/*.h", ":/*.inc")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with uncommitted changes" if changed else "")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def _ms(value: float | None, mark: str = "") -> str:
    return f"{value:.3g} ms{mark}" if value else ""


def _ratio(value: float | None) -> str:
    return f"{value:.3f}" if value else ""
