"""Compares two reports, figure by figure: better, same, worse, noisy, or not comparable. A gate against regressions.

Bytes and instructions are exact, and judged as they are. Two measurings of one file at different times differ in more
than chance: the whole machine may have been slower. So a latency is worse only if its interval lies beyond the
tolerance, and so does that of its ratio to the original's, which was measured in turns with it, if both reports have
the same original. Where the two disagree, the verdict is "noisy".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..records import Measurement, Record, Report
from ..util import statistics
from ..util.units import format_bytes, format_count, format_ms, format_score
from . import figures

Change = Literal["better", "same", "worse", "noisy", "not comparable"]
_LEAST_PROCESSES = 5
_PAGES = 256 * 1024  # bytes that peaks of memory of the same program differ by, from run to run
_COMPARED = ("samples", "inputs", "reference")  # of an error of outputs
_UNITS = {"percent": "%"}
_CHANGING = {"before", "after", "identity"}  # of a device: its state, and by which name it was reached


class Finding(Record):
    """What became of one figure. `change`: after / before; of accuracy in percent the difference in points. `score`: of
    a metric that is not in percent. `interval`: 95 % of
    it. `relative_interval`: that of the change against the original's."""

    figure: str
    evidence: str
    unit: Literal["bytes", "percent", "score", "ms", "instructions"]
    before: float | None
    after: float | None
    change: float | None = None
    interval: tuple[float, float] | None = None
    relative_interval: tuple[float, float] | None = None
    verdict: Change
    reason: str = ""


class Comparison(Record):
    """All figures, and what else is different between the two reports."""

    tolerance: float
    points: float
    differences: list[str]
    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """1 if a figure is worse, 5 if one is noisy or none could be compared, else 0."""
        verdicts = {finding.verdict for finding in self.findings}
        return 1 if "worse" in verdicts else 5 if "noisy" in verdicts or verdicts == {"not comparable"} else 0


@dataclass(frozen=True)
class _Gate:
    """What is still the same: `share` of a figure, `points` of accuracy."""

    share: float
    points: float

    def of(self, change: float) -> Change:
        """The verdict on an exact ratio."""
        return "worse" if change > 1 + self.share else "better" if change < 1 / (1 + self.share) else "same"

    def of_interval(self, interval: tuple[float, float]) -> Change:
        low, high = (self.of(end) for end in interval)
        return low if low == high else "noisy"


def compare(before: Report, after: Report, tolerance: float = 0.05, points: float = 0.1) -> Comparison:
    """`after` against `before`.

    Args:
        tolerance: share of a figure that it may grow by.
        points: accuracy that may be lost.
    """
    gate = _Gate(tolerance, points)
    findings = [*_sizes(before, after, gate), *_accuracy(before, after, gate), *_errors(before, after, gate)]
    pairs = figures.pairs(before), figures.pairs(after)
    for evidence in dict.fromkeys([*pairs[0], *pairs[1]]):
        findings += _measured(evidence, pairs[0].get(evidence, {}), pairs[1].get(evidence, {}), gate)
    return Comparison(tolerance=tolerance, points=points, differences=_differences(before, after), findings=findings)


def _sizes(before: Report, after: Report, gate: _Gate) -> Iterator[Finding]:
    fields = {"file": "artifact_bytes", "download": "download_bytes", "installed": "installed_bytes"}
    if before.size.coded_download_bytes is not None and after.size.coded_download_bytes is not None:
        fields["download"] = "coded_download_bytes"  # reports of before it know the deflated file alone
    for figure, field in fields.items():
        a, b = getattr(before.size, field), getattr(after.size, field)
        why = _other("target", before.target, after.target) if figure == "installed" else ""
        finding = Finding(figure=figure, evidence="on disk", unit="bytes", before=a, after=b, verdict="same")
        yield _exact(finding, why, gate)


def _accuracy(before: Report, after: Report, gate: _Gate) -> Iterator[Finding]:
    a, b = before.accuracy, after.accuracy
    if a is None and b is None:
        return
    facts = ("metric", "split", "samples", "evidence")
    why = _missing(a, b) or "; ".join(filter(None, (_other(f, getattr(a, f), getattr(b, f)) for f in facts)))
    told = a or b
    finding = Finding(
        figure=f"accuracy, {told.metric}",
        evidence=(b or a).evidence,
        unit="percent" if told.unit == "%" else "score",
        before=a.compressed if a else None,
        after=b.compressed if b else None,
        verdict="not comparable",
        reason=why,
    )
    if not why and told.unit == "%":
        yield _judged(finding, b.compressed - a.compressed, told.higher_is_better, gate.points)
    elif not why:
        change = (b.compressed - a.compressed) / max(abs(a.compressed), 1e-12)
        judged = _judged(finding, change, told.higher_is_better, gate.share)
        yield judged.model_copy(update={"change": round(1 + change, 4)})
    else:
        yield finding


def _judged(finding: Finding, change: float, higher_is_better: bool, allowed: float) -> Finding:
    """The finding with a change, up or down, and the verdict on it."""
    gain = change if higher_is_better else -change
    verdict = "worse" if gain < -allowed else "better" if gain > allowed else "same"
    return finding.model_copy(update={"change": round(change, 4), "verdict": verdict})


def _errors(before: Report, after: Report, gate: _Gate) -> Iterator[Finding]:
    """How far outputs are from the original's: the less, the better."""
    a, b = before.error, after.error
    if a is None and b is None:
        return
    why = _missing(a, b) or "; ".join(filter(None, (_other(f, getattr(a, f), getattr(b, f)) for f in _COMPARED)))
    values = [error.percent if error else None for error in (a, b)]
    if not why and values != [None, None] and None in values:
        verdict, reason = ("worse" if values[1] is None else "better"), "not finite where the original's are"
    else:
        verdict, reason = "not comparable", why
    finding = Finding(
        figure="outputs off by",
        evidence=(b or a).evidence,
        unit="percent",
        before=values[0],
        after=values[1],
        verdict=verdict,
        reason=reason,
    )
    if not why and None not in values:
        finding = _judged(finding, values[1] - values[0], False, max(gate.points, gate.share * values[0]))
    yield finding


def _measured(
    evidence: str, before: dict[str, Measurement], after: dict[str, Measurement], gate: _Gate
) -> Iterator[Finding]:
    a, b = before.get("compressed"), after.get("compressed")
    why = _missing(a, b) or _other_circumstances(a, b)
    over_empty = all(m is None or m.empty_rss_bytes is not None for m in (a, b))
    for figure, unit, value in (
        ("latency p50", "ms", lambda m: m.p50_ms),
        ("instructions", "instructions", lambda m: m.instructions),
        ("memory", "bytes", lambda m: _memory(m, over_empty)),
    ):
        values = [value(m) if m else None for m in (a, b)]
        if values == [None, None]:
            continue
        finding = Finding(
            figure=figure, evidence=evidence, unit=unit, before=values[0], after=values[1], verdict="not comparable"
        )
        if unit == "ms" and not why and None not in values:
            yield _noisy(finding, before, after, gate)
        else:
            yield _exact(finding, why or _missing(*values), gate, _PAGES if unit == "bytes" else 0)


def _memory(measurement: Measurement, over_empty: bool) -> int | None:
    """Peak memory, less that of the empty program if both reports have it."""
    peak = measurement.peak_rss_bytes
    return peak - measurement.empty_rss_bytes if over_empty and peak else peak


def _exact(finding: Finding, why: str, gate: _Gate, slack: float = 0) -> Finding:
    """A figure that is the same whenever it is measured, up to `slack`."""
    if not why and not (finding.before and finding.after):
        why = "a figure is zero"
    if why:
        return finding.model_copy(update={"verdict": "not comparable", "reason": why})
    change = finding.after / finding.before
    verdict = gate.of(change) if abs(finding.after - finding.before) > slack else "same"
    return finding.model_copy(update={"change": round(change, 4), "verdict": verdict})


def _noisy(finding: Finding, before: dict[str, Measurement], after: dict[str, Measurement], gate: _Gate) -> Finding:
    """A time: judged by the interval of its change, and by that of its change against the original's."""
    processes = [_processes(run["compressed"]) for run in (before, after)]
    if min(map(len, processes)) < _LEAST_PROCESSES:
        why = f"the reports have no raw samples of {_LEAST_PROCESSES} processes or more: measure again"
        return finding.model_copy(update={"verdict": "noisy", "reason": why})
    interval, relative, reason = statistics.ratio_of_medians(*processes), None, ""
    verdict = gate.of_interval(interval)
    controls = [_processes(run["original"]) if "original" in run else [] for run in (before, after)]
    if _same_original(before, after) and [len(c) for c in controls] == [len(p) for p in processes]:
        relative = statistics.ratio_of_medians(*zip(processes, controls, strict=True))
        against = gate.of_interval(relative)
        if verdict != against:
            moved = _percent(after["original"].p50_ms / before["original"].p50_ms)
            reason = f"the original, measured in turns with it, changed by {moved}"
        verdict = _together(verdict, against)
    return finding.model_copy(
        update={
            "change": round(finding.after / finding.before, 4),
            "interval": _rounded(interval),
            "relative_interval": relative and _rounded(relative),
            "verdict": verdict,
            "reason": reason,
        }
    )


def _together(alone: Change, against: Change) -> Change:
    """The verdict on a time from that on itself and that on its ratio to the original's. A slower machine makes every
    time worse; a faster one may hide that a file became slower against the original."""
    if alone == against:
        return alone
    if (alone == "same" and against != "worse") or (alone == "noisy" and against == "same"):
        return "same"
    return "noisy"


def _processes(measurement: Measurement) -> list[list[float]]:
    """The raw samples of every process; none where the report does not tell them apart."""
    counts, samples, processes = measurement.samples_by_process, measurement.samples, []
    if sum(counts) != len(samples) or min(counts, default=0) < 1:
        return []
    for count in counts:
        processes.append(samples[:count])
        samples = samples[count:]
    return processes


def _same_original(before: dict[str, Measurement], after: dict[str, Measurement]) -> bool:
    a, b = before.get("original"), after.get("original")
    return bool(a and b and a.p50_ms and b.p50_ms and not _other_circumstances(a, b))


# --- what may differ --------------------------------------------------------------------------------------


def _differences(before: Report, after: Report) -> list[str]:
    """Facts about the builds that are not the same; the reader should know, but they forbid nothing."""
    facts: dict[str, Callable[[Report], Any]] = {
        "model": lambda r: r.model.name,
        "weights": lambda r: r.model.sha256[:12],
        "method": lambda r: r.method,
        "settings": lambda r: " ".join(f"{key}={value}" for key, value in sorted(r.settings.items())),
        "seed": lambda r: r.seed,
        "target": lambda r: r.target,
        "runtime": lambda r: f"{r.runtime} {r.environment.runtime_version}",
        "no custom ops": lambda r: r.stock,
        "edgecomp": lambda r: r.environment.edgecomp,
        "commit": lambda r: (r.environment.commit or "unknown")[:12],
        "torch": lambda r: r.environment.torch,
    }
    return [text for name, fact in facts.items() if (text := _other(name, fact(before), fact(after)))]


def _other_circumstances(a: Measurement, b: Measurement) -> str:
    """Why two measurings cannot be compared; empty if they can."""
    facts = {"runtime": (a.runtime, b.runtime), "threads": (a.threads, b.threads), "inputs": (a.inputs, b.inputs)}
    devices = [{**m.device, "governor": m.device.get("before", {}).get("governor")} for m in (a, b)]
    for key in dict.fromkeys([*devices[0], *devices[1]]):
        if key not in _CHANGING:
            facts[f"device, {key}"] = tuple(_text(device.get(key)) for device in devices)
    return "; ".join(filter(None, (_other(name, *pair) for name, pair in facts.items())))


def _text(value: object) -> str:
    """JSON: a report that was read has text for the keys that were numbers."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _other(name: str, before: object, after: object) -> str:
    return "" if before == after else f"{name}: {before} → {after}"


def _missing(a: object, b: object) -> str:
    return "not measured before" if a is None else "not measured after" if b is None else ""


# --- as text ----------------------------------------------------------------------------------------------

TITLES = ("", "before", "after", "change", "95 %", "verdict", "evidence")


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Rows of `TITLES`."""
    return [
        (
            finding.figure,
            _value(finding.unit, finding.before),
            _value(finding.unit, finding.after),
            _change(finding),
            "" if finding.interval is None else " to ".join(map(_percent, finding.interval)),
            finding.verdict,
            finding.evidence,
        )
        for finding in comparison.findings
    ]


def remarks(comparison: Comparison) -> list[str]:
    """What is different between the reports, and why verdicts are what they are."""
    reasons = [
        f"{finding.figure}, {finding.evidence}: {finding.reason}" for finding in comparison.findings if finding.reason
    ]
    return [*comparison.differences, *reasons]


def _value(unit: str, value: float | None) -> str:
    shows: dict[str, Callable[[float], str]] = {"bytes": format_bytes, "ms": format_ms, "instructions": format_count}
    return "" if value is None else shows[unit](value) if unit in shows else format_score(value, _UNITS.get(unit, ""))


def _change(finding: Finding) -> str:
    if finding.change is None:
        return ""
    return f"{finding.change:+.2f} points" if finding.unit == "percent" else _percent(finding.change)


def _percent(change: float) -> str:
    return f"{100 * (change - 1):+.1f} %"


def _rounded(interval: tuple[float, float]) -> tuple[float, float]:
    return round(interval[0], 4), round(interval[1], 4)
