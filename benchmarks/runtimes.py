"""One network in both runtimes, plain and compressed: file, accuracy, latency, memory, instructions. One run.

    python benchmarks/runtimes.py                  # zfnet: trains it first if it must, then about half an hour
    python benchmarks/runtimes.py --model fashion

Every net is built once and exported to both runtimes; the files are kept in --out and used again. Latency: host, one
thread, all files in turns. Memory: VmHWM of a process that loads the file and runs it once. Instructions: of one warm
inference on emulated ARM64. Writes docs/runtimes.md; a net that a runtime cannot run has its reason there.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgecomp import chain, discover, measure
from edgecomp.compress import compress
from edgecomp.devices import timing
from edgecomp.devices.bundle import kept_bundle
from edgecomp.devices.host import HOST_TARGET
from edgecomp.devices.probe import count_instructions
from edgecomp.devices.target import find_target
from edgecomp.devices.tensors import write_records
from edgecomp.export import export
from edgecomp.load import load
from edgecomp.plan import plan as make_plan
from edgecomp.records import Artifact, Model, Request
from edgecomp.recover import recover
from edgecomp.report import markdown
from edgecomp.report.figures import left_alone
from edgecomp.training.scores import score
from edgecomp.util import progress
from edgecomp.util.files import write_text
from edgecomp.util.units import format_bytes, format_count
from edgecomp.util.workspace import Workspace

NETS = {
    "int8": ("int8", ()),
    "int8, dynamic": ("int8", ("activations=dynamic",)),
    "int4": ("int4", ()),
    "int2, convolutions int8": ("int2+int8", ()),
    "pq": ("pq", ()),
    "pq, s=10": ("pq", ("s=10",)),
    "pq+int8": ("pq+int8", ()),
    "svd:pq, rank 400": ("svd:pq", ("rank=400",)),
}


@dataclass
class Row:
    """A file; `left`: what was left alone in it, and why."""

    runtime: str
    net: str
    path: Path
    left: str = ""
    accuracy: float = 0
    instructions: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zfnet")
    parser.add_argument("--out", type=Path, default=Path("out/runtimes"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    model = load(Request(model=options.model))
    rows = _build(model, options.out)
    with tempfile.TemporaryDirectory() as temporary:
        inputs = Path(temporary, "inputs")
        write_records(inputs, [x[None] for x in model.data.test.take(0)])
        _run(model, rows, inputs)
        bundles = {r: kept_bundle(find_target(HOST_TARGET), r) for r in discover.runtime_names()}
        jobs = {f"{row.runtime} {row.net}": timing.TimingJob(bundles[row.runtime], row.path, inputs) for row in rows}
        timings = timing.in_turns(jobs)
    text = _page(model, rows, timings)
    write_text(options.docs / "runtimes.md", text)
    print(text)


def _build(model: Model, out: Path) -> list[Row]:
    """Rows by runtime, the uncompressed file first. What is compressed for one runtime serves the other too."""
    rows: dict[str, list[Row]] = {runtime: [] for runtime in discover.runtime_names()}
    for net, (method, settings) in NETS.items():
        for runtime, found in rows.items():
            request = Request(model=model.name, method=method, settings=settings, runtime=runtime)
            with Workspace(out / "-".join([model.name, method, *settings])) as work:
                plan = make_plan(model, request, work)
                compressed = recover(model, plan, compress(model, plan, work), work)
                artifact = export(model, plan, compressed, work)
            if not found:
                found.append(Row(runtime, "fp32", artifact.original_path))
            found.append(Row(runtime, net, artifact.path, _left_alone(artifact, method)))
    return [row for found in rows.values() for row in found]


def _left_alone(artifact: Artifact, method: str) -> str:
    """Layers that their method or the runtime could not take, not those that it was not meant for."""
    lines = artifact.layers[:-1]
    unused = {chain.join(*names) for names in chain.split(method)} - {line.method for line in lines}
    reasons = [(line.name, line.method, line.reason) for line in lines if " takes " not in line.reason]
    left = [f"no layer can be {name} in this runtime" for name in sorted(unused)]
    return "; ".join(left + [f"{layers}: {reason}" for layers, reason in left_alone(reasons)])


def _run(model: Model, rows: list[Row], inputs: Path) -> None:
    """Accuracy on the host, instructions on the emulator."""
    for row in rows:
        with progress.stage("run", f"{row.runtime} {row.net}"):
            row.accuracy = score(model.data, measure.test_outputs(model, row.runtime, row.path))
            row.instructions = count_instructions(row.path, inputs, row.runtime, "android-arm64")[0]


def _page(model: Model, rows: list[Row], timings: dict[str, timing.Timing]) -> str:
    test = model.data.test
    lines = [
        f"# {model.name} in both runtimes",
        "",
        f"    python benchmarks/runtimes.py --model {model.name}",
        "",
        f"Top-1 over {len(test):,} samples of {test.name}, of the exported files. Latency: median on the host, one "
        "thread, all files in turns in one run; memory: VmHWM of a process that loads the file and runs it once. "
        "Instructions: of one warm inference on emulated ARM64, which says nothing about memory traffic. × is against "
        "fp32 in the same runtime.",
    ]
    titles = ["net", "file", "×", "top-1", "latency", "×", "peak RSS", "ARM64 instructions"]
    for runtime in dict.fromkeys(row.runtime for row in rows):
        found = [row for row in rows if row.runtime == runtime]
        cells = [_cells(row, found[0], timings) for row in found]
        lines += ["", f"## {runtime}, {discover.runtime(runtime).version()}", "", markdown.table(titles, cells)]
        notes = [f"- {row.net}: {row.left}" for row in found if row.left]
        lines += ["", "Left alone:", "", *notes] if notes else []
    return "\n".join(lines) + "\n"


def _cells(row: Row, plain: Row, timings: dict[str, timing.Timing]) -> list[str]:
    before, now = (timings[f"{row.runtime} {name}"] for name in (plain.net, row.net))
    size, ratio = row.path.stat().st_size, plain.path.stat().st_size / row.path.stat().st_size
    cells = [row.net, format_bytes(size), f"{ratio:.1f}", f"{row.accuracy:.2f} %"]
    cells += [f"{now.p50_ms:.3g} ms", f"{before.p50_ms / now.p50_ms:.1f}", format_bytes(now.peak_rss_bytes)]
    return [*cells, format_count(row.instructions)]


if __name__ == "__main__":
    main()
