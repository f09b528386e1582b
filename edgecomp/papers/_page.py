"""Rows, tables and plots of the experiments on convolutions: accuracy against measured speed-up."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from ..report import markdown
from ._bench import axes, draw
from ._conv import Accuracy, Approximation, ConvBench, Cost


@dataclass(frozen=True)
class Row:
    """One net with factorized layers: its accuracy and cost; `alone` the costs (before, after) of single layers."""

    name: str
    accuracy: Accuracy
    before: Cost
    after: Cost
    alone: dict[str, tuple[Cost, Cost]]

    @classmethod
    def of(cls, name: str, accuracy: Accuracy, shape: Approximation, costs: dict[str, Cost]) -> Row:
        alone = {layer: (costs[layer], costs[shape.alone(layer)]) for layer in shape.layers}
        return cls(name, accuracy, costs["original"], costs[str(shape)], alone)

    @property
    def speedup(self) -> float:
        return self.before.p50_ms / self.after.p50_ms

    @property
    def best(self) -> float:
        """Accuracy, after fine-tuning if there was any."""
        return self.accuracy.tuned[0] if self.accuracy.tuned else self.accuracy.accuracy


def nearest(rows: list[Row], speedup: float) -> Row:
    """The row of about that speed."""
    return min(rows, key=lambda row: abs(row.speedup / speedup - 1))


def rows_table(bench: ConvBench, rows: list[Row], layers: tuple[str, ...]) -> str:
    """Ranks, costs, accuracy and what fine-tuning made of it."""
    titles = ["", "channels", "file", "time", "net", *layers, "ARM64 instructions"]
    titles += ["accuracy", "drop", "agreement", "fine-tuned", "drop"]
    return markdown.table(titles, [_cells(bench, row, layers) for row in rows])


def _cells(bench: ConvBench, row: Row, layers: tuple[str, ...]) -> list[str]:
    def speedup(layer: str) -> str:
        return f"{row.alone[layer][0].p50_ms / row.alone[layer][1].p50_ms:.1f}×" if layer in row.alone else ""

    accuracy, tuned = row.accuracy, row.accuracy.tuned
    return [
        row.name,
        ", ".join(map(str, accuracy.ranks)),
        f"{row.after.bytes / 1e6:.2f} MB",
        f"{row.after.p50_ms:.3f} ms",
        f"{row.speedup:.2f}×",
        *map(speedup, layers),
        f"{row.before.instructions / row.after.instructions:.1f}× fewer",
        f"{accuracy.accuracy:.2f} %",
        f"{bench.original - accuracy.accuracy:+.2f}",
        f"{accuracy.agreement:.2f} %",
        f"{tuned[0]:.2f} %" if tuned else "",
        f"{bench.original - tuned[0]:+.2f}" if tuned else "",
    ]


def cost_note(bench: ConvBench, costs: Row) -> str:
    """How the figures of a page were got."""
    assert bench.model.data is not None
    data = bench.model.data
    sentences = (
        f"Model `{bench.model.name}`: {costs.before.bytes / 1e6:.2f} MB, {costs.before.p50_ms:.3f} ms, "
        f"{costs.before.instructions / 1e6:.1f} M ARM64 instructions an inference.",
        f"Before: {bench.original:.2f} % top-1 of {len(bench.test):,} samples of {data.test.name}.",
        f"Seed 0; calibration on {len(bench.calibration):,} samples of {data.calibration.name};",
        f"fine-tuning on {data.train.name}, epochs: {bench.epochs:g}, with the original as teacher.",
        "Accuracy is computed by torch. Time: median on the host, x86-64, one thread, ExecuTorch with XNNPACK, fp32",
        "against fp32, all nets and layers in turns in one run. Instructions: of the same files on the emulator",
        "(qemu-arm64). channels: after the first part of each layer.",
    )
    return textwrap.fill(" ".join(sentences), 118)


def tradeoff_plot(path: Path, title: str, series: dict[str, list[tuple[float, float]]]) -> None:
    """Lost accuracy against measured speed-up, as SVG; `… tuned` is dashed."""
    with axes(path, title, "measured speed-up of the net (times)", "accuracy lost (points)", True) as plane:
        draw(plane, series, "decomposed", "tuned")
        plane.set_xscale("log")
        plane.set_yscale("symlog", linthresh=1)
        plane.set_xticks([1, 2, 3, 4, 6, 8, 10, 12], ["1×", "2×", "3×", "4×", "6×", "8×", "10×", "12×"])
        plane.set_yticks([0, 0.5, 1, 3, 10, 30, 100], ["0", "0.5", "1", "3", "10", "30", "100"])
        plane.set_ylim(bottom=-0.2)
        plane.minorticks_off()
        plane.axhline(0, color="grey", linewidth=0.5)
        plane.axhline(1, color="grey", linewidth=0.5, linestyle=":")
