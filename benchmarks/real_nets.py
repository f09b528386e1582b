"""Nets with published weights, compressed in several ways: file, worth, latency, memory, and what the build took.

    python benchmarks/real_nets.py                                   # all nets, some hours
    python benchmarks/real_nets.py --net crnn --way "int8" "8x"

Every way is an `edgecomp build` of its own. Its time, of processors, and the peak of its memory are those of the whole
process with its children, as /usr/bin/time -v tells them. Latency and memory of the file are compared with fp32's in
the same build, on the host, one thread, in turns. What is built already is kept in --out. Writes docs/real-nets.md.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgecomp.report import markdown, read_report
from edgecomp.util.files import write_text
from edgecomp.util.units import format_bytes, format_score

_EXAMPLES = Path(__file__).parents[1] / "examples"
_CODES = ("--method", "pq+int8", "--set", "pq.kinds=dense,conv")
WAYS = {
    "int8": ("--method", "int8"),
    "int4": ("--method", "int4"),
    "int2, other layers int8": ("--method", "int2+int8"),
    **{f"{ratio}x": (*_CODES, "--budget", f"1/{ratio}") for ratio in (5, 8, 12, 20)},
    **{f"{ratio}x, recovered": (*_CODES, "--budget", f"1/{ratio}", "--recover", "2") for ratio in (8, 12, 20)},
    "8x, auto": ("--method", "auto", "--budget", "1/8"),
}
NETS = {"efficientnet_lite1": 21_680_000, "crnn": 15_100_000, "craft": 83_100_000}  # bytes of their fp32 files


@dataclass(frozen=True)
class Built:
    """A finished build; the seconds of processors that it took, and the most memory in bytes."""

    folder: Path
    seconds: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--runtime", default="executorch")
    parser.add_argument("--out", type=Path, default=Path("out/real-nets"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    found = {net: {way: _built(net, way, options) for way in options.way} for net in options.net}
    text = _page(found)
    write_text(options.docs / "real-nets.md", text)
    print(text)


def _built(net: str, way: str, options: argparse.Namespace) -> Built | None:
    """None where the build fails; its message is on the terminal."""
    folder = options.out / options.runtime / f"{net}-{way.replace(', ', '-').replace(' ', '-')}"
    told = folder / "build.txt"
    if not told.is_file():
        command = [sys.executable, "-m", "edgecomp.cli", "build", str(_EXAMPLES / f"{net}.py"), *_arguments(net, way)]
        process = subprocess.Popen([*command, "--runtime", options.runtime, "--on", "host", "-o", str(folder)])
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) not in (0, 1):  # 1: over the budget, which the table shows
            return None
        write_text(told, f"{usage.ru_utime + usage.ru_stime:.0f} {1024 * usage.ru_maxrss}\n")
    seconds, peak = told.read_text().split()
    return Built(folder, float(seconds), int(peak))


def _arguments(net: str, way: str) -> list[str]:
    return [str(NETS[net] // int(a[2:])) if a.startswith("1/") else a for a in WAYS[way]]


def _page(found: dict[str, dict[str, Built | None]]) -> str:
    lines = [
        "# Nets with published weights",
        "",
        "    python benchmarks/real_nets.py",
        "",
        "Every line is a build. What files are worth is measured on inputs that nothing was fitted to, against the "
        "original net (see examples/). Latency and memory: the file's, and in brackets fp32's in the same run; host, "
        "one thread. `build`: time of processors of the whole command, and the most memory it took.",
    ]
    titles = ["way", "file", "×", "metric", "outputs off by", "latency", "peak RSS", "build"]
    for net, ways in found.items():
        rows = [_cells(way, built) for way, built in ways.items() if built is not None]
        lines += ["", f"## {net}", "", markdown.table(titles, rows)]
    return "\n".join(lines) + "\n"


def _cells(way: str, built: Built) -> list[str]:
    report = read_report(built.folder / "report.json")
    size, accuracy = report.size, report.accuracy
    before, now = (
        next(m for m in report.measurements if m.evidence == "host" and m.artifact == name)
        for name in ("original", "compressed")
    )
    return [
        way,
        format_bytes(size.artifact_bytes),
        f"{size.original_bytes / size.artifact_bytes:.1f}",
        f"{accuracy.metric} {format_score(accuracy.compressed, accuracy.unit)}" if accuracy else "",
        f"{report.error.percent:.3g} %" if report.error and report.error.percent is not None else "",
        f"{now.p50_ms:.3g} ms ({before.p50_ms:.3g})",
        f"{format_bytes(now.peak_rss_bytes)} ({format_bytes(before.peak_rss_bytes)})",
        f"{built.seconds:.0f} s, {format_bytes(built.peak_bytes)}",
    ]


if __name__ == "__main__":
    main()
