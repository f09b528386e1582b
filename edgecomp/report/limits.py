"""The limits that a build must keep, and the verdict on each; inconclusive is what the figures do not tell.

File and installed size are decided on disk. Memory, time and instructions are decided by the strongest evidence there
is for them; time by the emulator never.
"""

from __future__ import annotations

import math

from ..errors import UsageError
from ..records import Accuracy, LimitReport, Limits, Measured, Measurement, OutputError, Plan, SizeReport, Verdict

# The classical demand: 200 MB → 10 MB (Gong et al. 2014).
_DEFAULT_BUDGET = 20
# What no one would ship unasked: points of a metric in percent, and where there are no data percent of the outputs.
_DEFAULT_DROP = 10.0
_DEFAULT_ERROR = 10.0
# Where a figure may come from, the strongest evidence first.
_EVIDENCE = {
    "ram": ("adb-shell", "ssh", "qemu-arm64", "host"),
    "latency": ("adb-shell", "ssh", "host"),
    "instructions": ("qemu-arm64",),
}


def check(limits: Limits, max_drop: float | None, devices: list[str], max_error: float | None = None) -> None:
    """Refuses limits that the chosen devices (names, as of `devices.choose.chosen`) can never decide.

    Raises:
        UsageError: which limit, and where it can be decided.
    """
    if max_drop is not None and not math.isfinite(max_drop):
        raise UsageError(f"--max-drop {max_drop} is not a number of points", "Write it like 0.5.")
    if max_error is not None and not (math.isfinite(max_error) and max_error >= 0):
        raise UsageError(f"--max-error {max_error} is not a number of percent", "Write it like 5.")
    if limits.latency_ms is not None and "qemu" in devices:
        raise UsageError(
            "--max-latency cannot be judged on qemu: the emulator's time says nothing about a phone's",
            "Measure where it counts with --on adb, on this machine with --on host, or limit --max-instructions.",
        )
    if limits.instructions is not None and devices and "qemu" not in devices:
        raise UsageError(
            f"--max-instructions cannot be judged on {' and '.join(devices)}: only the emulator counts instructions",
            "Measure with --on qemu, for a target that has it, or limit --max-latency.",
        )


def judge(plan: Plan, size: SizeReport, measured: Measured) -> list[LimitReport]:
    """The verdict on every limit; that of the file always comes first."""
    asked = plan.limits
    budget = plan.budget_bytes or size.original_bytes // _DEFAULT_BUDGET
    limits = [_on_disk("file", budget, size.artifact_bytes, plan.budget_bytes is not None)]
    if asked.download_bytes is not None:
        limits.append(_download(asked.download_bytes, size.coded_download_bytes))
    if asked.installed_bytes is not None:
        limits.append(_on_disk("installed", asked.installed_bytes, size.installed_bytes))
    accuracy, error = measured.accuracy, measured.error
    if plan.max_drop_points is not None:
        limits.append(_drop(plan.max_drop_points, accuracy))
    elif accuracy is not None and accuracy.unit == "%" and accuracy.drop_points > _DEFAULT_DROP:
        limits.append(_drop(_DEFAULT_DROP, accuracy, stated=False))
    if plan.max_error_percent is not None:
        limits.append(_error(plan.max_error_percent, error))
    elif error is not None and not error.real and (error.percent is None or error.percent > _DEFAULT_ERROR):
        limits.append(_error(_DEFAULT_ERROR, error, stated=False))
    if asked.ram_bytes is not None:
        limits.append(_ram(asked.ram_bytes, _strongest("ram", "peak_rss_bytes", measured)))
    if asked.latency_ms is not None:
        limits.append(_latency(asked.latency_ms, _strongest("latency", "p50_ms", measured)))
    if asked.instructions is not None:
        limits.append(_instructions(asked.instructions, _strongest("instructions", "instructions", measured)))
    return limits


def _strongest(limit: str, field: str, measured: Measured) -> Measurement | None:
    """The measurement of the compressed file that decides."""
    having = {m.evidence: m for m in measured.measurements if m.artifact == "compressed" and getattr(m, field)}
    return next((having[evidence] for evidence in _EVIDENCE[limit] if evidence in having), None)


def _within(value: float, limit: float) -> Verdict:
    return "pass" if value <= limit else "fail"


def _unless_unsure(value: float, limit: float, interval: tuple[float, float] | None) -> tuple[Verdict, str]:
    """The verdict on a figure that is known up to an interval."""
    if interval is not None and interval[0] <= limit < interval[1]:
        return "inconclusive", "the limit lies inside the 95 % interval: more samples, or a quieter device, may tell"
    return _within(value, limit), ""


def _on_disk(name: str, limit: int, value: int, stated: bool = True) -> LimitReport:
    verdict = _within(value, limit)
    return LimitReport(
        name=name, unit="bytes", limit=limit, stated=stated, value=value, evidence="on disk", verdict=verdict
    )


def _download(limit: int, value: int | None) -> LimitReport:
    if value is None:
        return _unknown("download", "bytes", limit, "there is no model.edgecomp: build it again")
    return _on_disk("download", limit, value)


def _drop(limit: float, accuracy: Accuracy | None, stated: bool = True) -> LimitReport:
    if accuracy is None:
        return _unknown("drop", "points", limit, "accuracy was not measured")
    verdict, reason = _unless_unsure(accuracy.drop_points, limit, accuracy.interval)
    return LimitReport(
        name="drop",
        unit="points" if accuracy.unit == "%" else "score",
        limit=limit,
        stated=stated,
        value=accuracy.drop_points,
        interval=accuracy.interval,
        evidence=accuracy.evidence,
        verdict=verdict,
        reason=reason,
    )


def _error(limit: float, error: OutputError | None, stated: bool = True) -> LimitReport:
    """Where values are not finite in other places the distance has no number, and is too large for any limit."""
    if error is None:
        return _unknown("error", "percent", limit, "outputs were not compared with the original's")
    off = error.percent is None
    return LimitReport(
        name="error",
        unit="percent",
        limit=limit,
        stated=stated,
        value=error.percent,
        evidence=error.evidence,
        verdict="fail" if off else _within(error.percent, limit),
        reason=f"{'not finite in the same places as' if off else 'from'} {error.reference}, on {error.inputs}",
    )


def _ram(limit: int, measurement: Measurement | None) -> LimitReport:
    """What the model adds to the same program without one. Without that baseline the peak is an upper bound."""
    if measurement is None:
        return _unknown("ram", "bytes", limit, "memory was not measured")
    added = measurement.peak_rss_bytes - (measurement.empty_rss_bytes or 0)
    verdict, reason = _within(added, limit), "over the same program without a model"
    if measurement.empty_rss_bytes is None:
        reason = "peak of the whole process, its program and runtime included"
        if verdict == "fail":
            verdict, reason = "inconclusive", f"{reason}: what the model adds is not known"
    return LimitReport(
        name="ram",
        unit="bytes",
        limit=limit,
        value=added,
        evidence=measurement.evidence,
        verdict=verdict,
        reason=reason,
    )


def _latency(limit: float, measurement: Measurement | None) -> LimitReport:
    if measurement is None:
        return _unknown("latency", "ms", limit, "latency was not measured")
    verdict, reason = _unless_unsure(measurement.p50_ms, limit, measurement.p50_interval_ms)
    where = (
        f"median on {measurement.device.get('model') or measurement.device.get('processor') or measurement.evidence}"
    )
    return LimitReport(
        name="latency",
        unit="ms",
        limit=limit,
        value=measurement.p50_ms,
        interval=measurement.p50_interval_ms,
        evidence=measurement.evidence,
        verdict=verdict,
        reason=f"{where}; {reason}" if reason else where,
    )


def _instructions(limit: int, measurement: Measurement | None) -> LimitReport:
    if measurement is None:
        return _unknown("instructions", "instructions", limit, "instructions were not counted")
    count = measurement.instructions
    return LimitReport(
        name="instructions",
        unit="instructions",
        limit=limit,
        value=count,
        evidence=measurement.evidence,
        verdict=_within(count, limit),
    )


def _unknown(name: str, unit: str, limit: float, reason: str) -> LimitReport:
    return LimitReport(
        name=name, unit=unit, limit=limit, value=None, evidence=None, verdict="inconclusive", reason=reason
    )
