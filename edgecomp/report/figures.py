"""The rows of the report's tables as text, for the terminal, `report.html` and `report.md` alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..records import LimitReport, Measurement, Report
from ..util.units import format_bytes, format_count, format_drop, format_ms, format_score

Row = tuple[str, str, str, str, str]

FIGURES = ("", "original", "compressed", "ratio", "evidence")
PRICE = ("without custom ops", "custom ops", "built-in", "built-in costs", "evidence")
LAYERS = ("layer", "method", "original", "now", "bits/weight", "weights", "outputs", "tables")
LIMITS = ("limit", "", "value", "at most", "evidence", "")

NAMES = {
    "file": "file",
    "download": "download (model.edgecomp)",
    "installed": "model + runtime + kernels",
    "drop": "accuracy lost",
    "error": "outputs off by",
    "ram": "memory",
    "latency": "latency",
    "instructions": "instructions",
}
EVIDENCE = {
    "on disk": "bytes of files",
    "estimated": "computed from the plan, not measured",
    "host": "measured on the machine that built it, not on the target",
    "qemu-arm64": "run on an emulated ARM64 processor: right about numbers, instructions and differences of memory; "
    "never about time",
    "ssh": "measured on a device through ssh",
    "adb-shell": "measured on a device in its shell, not inside an app",
}
_DEFAULTS = {  # why there is a limit that nobody asked for
    "file": "the default: 1/20 of the original",
    "drop": "nobody ships that unasked; --max-drop allows more",
    "error": "there are no data to say what it costs; --max-error allows more",
}


@dataclass(frozen=True)
class LimitText:
    """A limit in words; `share`: the value as a part of the limit, where that means something."""

    name: str
    verdict: str
    value: str
    limit: str
    evidence: str
    remark: str
    share: float | None

    @property
    def sentence(self) -> str:
        return f"{self.name} {self.value} of at most {self.limit}" + (f" ({self.remark})" if self.remark else "")


def limits(result: Report) -> list[LimitText]:
    """Every limit with its verdict; of reports that have none listed, those of the budget."""
    unit = result.accuracy.unit if result.accuracy else "%"
    return [_limit(limit, unit) for limit in result.limits or _of_budget(result)]


def _limit(limit: LimitReport, unit: str) -> LimitText:
    """`unit`: that of the metric."""
    show: Callable[[float], str] = {
        "bytes": format_bytes,
        "ms": format_ms,
        "instructions": format_count,
        "points": lambda points: format_drop(points, "%"),
        "score": lambda score: format_drop(score, unit),
        "percent": lambda percent: f"{percent:.3g} %",
    }[limit.unit]
    remarks = [] if limit.stated else [_DEFAULTS[limit.name]]
    if limit.interval:
        remarks.append(f"95 % interval {show(limit.interval[0])} to {show(limit.interval[1])}")
    remarks += [limit.reason] if limit.reason else []
    return LimitText(
        name=NAMES[limit.name],
        verdict=limit.verdict,
        value="unknown" if limit.value is None else show(limit.value),
        limit=show(limit.limit),
        evidence=limit.evidence or "",
        remark="; ".join(remarks),
        share=None if limit.value is None or limit.limit <= 0 else max(0.0, limit.value / limit.limit),
    )


def _of_budget(result: Report) -> list[LimitReport]:
    budget, size, accuracy = result.budget, result.size, result.accuracy
    limits = [
        LimitReport(
            name="file",
            unit="bytes",
            limit=budget.limit_bytes,
            stated=budget.stated,
            value=size.artifact_bytes,
            evidence="on disk",
            verdict=budget.verdict,
        )
    ]
    if budget.drop_verdict and budget.max_drop_points is not None:
        drop = LimitReport(
            name="drop",
            unit="points",
            limit=budget.max_drop_points,
            value=accuracy.drop_points if accuracy else None,
            evidence=accuracy.evidence if accuracy else None,
            verdict=budget.drop_verdict,
        )
        limits.append(drop)
    return limits


def left_alone(reasons: Iterable[tuple[str, str | None, str]]) -> list[tuple[str, str]]:
    """(layers, reason) for each reason why layers, or parts of compressed ones, were left alone, from (layer, method,
    reason)."""
    names: dict[tuple[str, bool], list[str]] = {}
    for name, method, reason in reasons:
        if reason:
            names.setdefault((reason, method is None), []).append(name)
    return [(f"{', '.join(layers)}{' left alone' * whole}", reason) for (reason, whole), layers in names.items()]


def layers_left_alone(result: Report) -> list[tuple[str, str]]:
    return left_alone((line.name, line.method, line.reason) for line in result.layers if line.kind != "container")


def ratio(before: float | None, after: float | None) -> str:
    return f"{before / after:.1f}×" if before and after else ""


def figures(result: Report) -> list[Row]:
    """Rows (figure, original, compressed, ratio, evidence) of what was measured."""
    size, accuracy = result.size, result.accuracy
    bytes_before, bytes_after = size.original_bytes, size.artifact_bytes
    rows = [
        ("file", format_bytes(bytes_before), format_bytes(bytes_after), ratio(bytes_before, bytes_after), "on disk"),
        ("download (deflated)", "", format_bytes(size.download_bytes), "", "on disk"),
        ("model + runtime + kernels", "", format_bytes(size.installed_bytes), "", "on disk"),
    ]
    if size.coded_download_bytes is not None:
        coded = size.coded_download_bytes
        rows.insert(1, (NAMES["download"], "", format_bytes(coded), ratio(bytes_before, coded), "on disk"))
    if accuracy:
        title = f"{accuracy.metric}, {accuracy.samples:,} test samples"
        before, after = (format_score(value, accuracy.unit) for value in (accuracy.original, accuracy.compressed))
        drop = format_drop(accuracy.drop_points, accuracy.unit, signed=True).removesuffix(" points")
        rows.append((title, before, after, f"drop {drop}", accuracy.evidence))
    if error := result.error:
        off = "not finite" if error.percent is None else f"{error.percent:.3g} %"
        rows.append((f"outputs off by, {error.samples} {error.inputs}", "", off, "", error.evidence))
    for pair in pairs(result).values():
        if "original" in pair and "compressed" in pair:
            rows += _measured_rows(pair["original"], pair["compressed"])
    return rows


def pairs(result: Report) -> dict[str, dict[str, Measurement]]:
    """The measurements, by evidence and artifact."""
    by_evidence: dict[str, dict[str, Measurement]] = {}
    for measurement in result.measurements:
        by_evidence.setdefault(measurement.evidence, {})[measurement.artifact] = measurement
    return by_evidence


def builtin_price(result: Report) -> list[Row]:
    """Rows of `PRICE`: what it costs to need no custom op; none for other builds."""
    size = result.size
    if size.custom_op_bytes is None:
        return []
    before, after = size.custom_op_bytes, size.artifact_bytes
    rows = [("file", format_bytes(before), format_bytes(after), f"{after / before:.2f}×", "on disk")]
    for pair in pairs(result).values():
        if "custom-op" in pair:
            rows += _measured_rows(pair["custom-op"], pair["compressed"], costs=True)
    return rows


def _measured_rows(before: Measurement, after: Measurement, costs: bool = False) -> list[Row]:
    def row(title: str, field: str, show: Any) -> list[Row]:
        a, b = getattr(before, field), getattr(after, field)
        return (
            [(title, show(a), show(b), ratio(*((b, a) if costs else (a, b))), after.evidence)]
            if a is not None and b is not None
            else []
        )

    return [
        *row(f"latency p50, {after.threads} thread{'s' * (after.threads > 1)}", "p50_ms", format_ms),
        *row("latency p90", "p90_ms", format_ms),
        *row("load", "load_ms", format_ms),
        *row("first inference", "first_ms", format_ms),
        *row("instructions per inference", "instructions", format_count),
        *row("peak memory", "peak_rss_bytes", format_bytes),
    ]


def layer_rows(result: Report) -> list[tuple[str, ...]]:
    """Rows of `LAYERS`."""
    return [
        (
            line.name,
            line.method or "–",
            format_bytes(line.original_bytes),
            format_bytes(line.bytes),
            f"{line.bits_per_weight:.2f}" if line.weights else "",
            "" if line.relative_error is None else f"{line.relative_error:.3f}",
            "" if line.output_error is None else f"{line.output_error:.3f}",
            line.tables,
        )
        for line in result.layers
    ]


def heading(result: Report) -> str:
    ops = " · no custom ops" if result.stock else ""
    return f"{result.model.name} · {result.method} · {result.target} · {result.runtime}{ops}"
