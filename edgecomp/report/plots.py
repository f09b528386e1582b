"""Geometry of the plots in `report.html`: shares of a width, in percent, and the paths of small drawings that a browser
may stretch; all text stands beside them in HTML, so that it keeps its size on a phone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..records import Accuracy, LayerReport, Measurement, Report
from ..util import statistics
from ..util.units import format_bytes, format_ms

_STEPS = 10  # layers that a waterfall shows for themselves
_BINS = 60
_POINTS = 1500  # samples that are drawn in their order
_HEIGHT = 100


@dataclass(frozen=True)
class Step:
    """A bar of the waterfall: from `left` over `width`, in percent. `kind`: original, less, more or compressed."""

    name: str
    kind: str
    left: float
    width: float
    text: str


@dataclass(frozen=True)
class Waterfall:
    """How the original file becomes the compressed one; `limit`: where the budget lies, in percent."""

    steps: list[Step]
    limit: float


def waterfall(result: Report) -> Waterfall:
    """Layer by layer, in the order of execution; those that change least are put together."""
    full = max(result.size.original_bytes, result.size.artifact_bytes)
    changes = {line.name: line.bytes - line.original_bytes for line in result.layers}
    changes = {name: change for name, change in changes.items() if change}
    largest = sorted(changes, key=lambda name: -abs(changes[name]))[:_STEPS]
    shown = {name: changes[name] for name in changes if name in largest}
    others = [name for name in changes if name not in shown]
    if others:
        shown[f"{len(others)} others"] = sum(changes[name] for name in others)
    at = result.size.original_bytes
    steps = [Step("original", "original", 0, 100 * at / full, format_bytes(at))]
    for name, change in shown.items():
        low, kind = min(at, at + change), "less" if change < 0 else "more"
        text = f"{'−' if change < 0 else '+'}{format_bytes(abs(change))}"
        steps.append(Step(name, kind, 100 * low / full, 100 * abs(change) / full, text))
        at += change
    after = result.size.artifact_bytes
    steps.append(Step("compressed", "compressed", 0, 100 * after / full, format_bytes(after)))
    return Waterfall(steps, min(100, 100 * result.budget.limit_bytes / full))


@dataclass(frozen=True)
class Distribution:
    """Samples of one artifact. `bars`: histogram, in `_BINS` × 100; `dots`: the samples in their order, in 1000 × 100;
    `rounds`: where a new process begins, in percent; `p50`: its place on the axis, in percent."""

    artifact: str
    evidence: str
    samples: int
    bars: str
    dots: str
    rounds: list[float]
    p50: float
    low: str
    high: str
    text: str
    beyond: int


def distributions(result: Report) -> list[Distribution]:
    """Of every measurement with raw samples, each on an axis of its own that ends where the tail has become thin."""
    return [_distribution(m) for m in result.measurements if len(m.samples) > 1 and m.p50_ms]


def _distribution(measurement: Measurement) -> Distribution:
    samples = np.array(measurement.samples)
    low, p10, p90, p99 = np.percentile(samples, (0, 10, 90, 99))
    high = min(p99, p90 + 2 * (p90 - p10))
    margin = max(0.05 * (high - low), 0.01 * low)
    low, high = max(0.0, low - margin), high + margin
    counts, _ = np.histogram(samples, _BINS, (low, high))
    heights = _HEIGHT * counts / counts.max()
    bars = "".join(f"M{i} {_HEIGHT}v{-height:.1f}h1v{height:.1f}z" for i, height in enumerate(heights) if height)
    shown = samples[:: math.ceil(len(samples) / _POINTS)]
    places = (1 - (np.clip(shown, low, high) - low) / (high - low)) * _HEIGHT
    dots = "".join(f"M{1000 * (i + 0.5) / len(shown):.0f} {y:.1f}h0" for i, y in enumerate(places))
    interval = measurement.p50_interval_ms
    sure = f" (95 %: {interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
    text = f"p50 {format_ms(measurement.p50_ms)}{sure} · p90 {format_ms(measurement.p90_ms)}"
    text += f" · p99 {format_ms(measurement.p99_ms)}"
    return Distribution(
        artifact=measurement.artifact,
        evidence=measurement.evidence,
        samples=len(samples),
        bars=bars,
        dots=dots,
        rounds=[round(100 * at / len(samples), 2) for at in np.cumsum(measurement.samples_by_process)[:-1]],
        p50=100 * (measurement.p50_ms - low) / (high - low),
        low=format_ms(low),
        high=format_ms(high),
        text=text,
        beyond=int((samples > high).sum()),
    )


@dataclass(frozen=True)
class Interval:
    """A value and the 95 % interval around it, in percent of the plot's width."""

    name: str
    left: float
    right: float
    at: float
    text: str


def accuracies(accuracy: Accuracy | None) -> tuple[list[Interval], str, str]:
    """Both files' accuracy with Wilson's interval, and the ends of the axis; none where the metric is not a share of
    the samples."""
    if accuracy is None or accuracy.metric not in ("top1", "top5"):
        return [], "", ""
    values = {"original": accuracy.original, "compressed": accuracy.compressed}
    sure = {
        name: statistics.wilson(round(value / 100 * accuracy.samples), accuracy.samples)
        for name, value in values.items()
    }
    low, high = 100 * min(low for low, _ in sure.values()), 100 * max(high for _, high in sure.values())
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    rows = [
        Interval(
            name,
            place(100 * a),
            place(100 * b),
            place(values[name]),
            f"{values[name]:.2f} % ({100 * a:.2f} to {100 * b:.2f})",
        )
        for name, (a, b) in sure.items()
    ]
    return rows, f"{low:.1f} %", f"{high:.1f} %"


@dataclass(frozen=True)
class Memory:
    """What a model adds to the memory of an empty program, and the part that this takes; widths in percent."""

    artifact: str
    evidence: str
    empty: float
    model: float
    text: str


def memory(result: Report) -> list[Memory]:
    """Of every measurement that has it, to one scale for each device."""
    measured = [m for m in result.measurements if m.peak_rss_bytes]
    most = {m.evidence: max(o.peak_rss_bytes for o in measured if o.evidence == m.evidence) for m in measured}
    rows = []
    for m in measured:
        empty = min(m.empty_rss_bytes or 0, m.peak_rss_bytes)
        scale, model = 100 / most[m.evidence], m.peak_rss_bytes - empty
        rows.append(Memory(m.artifact, m.evidence, scale * empty, scale * model, format_bytes(model)))
    return rows


def widths(layers: list[LayerReport]) -> list[float]:
    """Of the layers' bars: their bytes now, in percent of the largest."""
    most = max((line.bytes for line in layers), default=0) or 1
    return [100 * line.bytes / most for line in layers]
