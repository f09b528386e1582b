"""What a sweep shows: which points are on the front, a table for the terminal, and a page with plots."""

from __future__ import annotations

from pathlib import Path

import jinja2
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..records import Accuracy, Measurement, Sweep, SweepPoint
from ..util.units import format_bytes, format_count, format_drop
from . import plot

_SLACK = 1.03  # a latency that is longer by less is no longer


def front(points: list[SweepPoint]) -> list[SweepPoint]:
    """The points, with those marked that no other one dominates: as small, as accurate and as fast, and better in one
    of the three, by more than noise where it is time. What was not measured does not count."""
    files = [point for point in points if point.folder]
    return [
        p.model_copy(update={"front": bool(p.folder) and not any(_dominates(other, p) for other in files)})
        for p in points
    ]


def _dominates(a: SweepPoint, b: SweepPoint) -> bool:
    a_lost, b_lost = lost(a) or 0, lost(b) or 0
    a_time, b_time = cost(a), cost(b)
    slack = _SLACK if latency(a) else 1
    no_worse = a.artifact_bytes <= b.artifact_bytes and a_lost <= b_lost and a_time <= slack * b_time
    return no_worse and (a.artifact_bytes < b.artifact_bytes or a_lost < b_lost or slack * a_time < b_time)


def lost(point: SweepPoint) -> float | None:
    """Points of accuracy, on the samples to choose by."""
    return point.validation.drop_points if point.validation else None


def latency(point: SweepPoint) -> float | None:
    return next((m.p50_ms for m in point.measurements if m.p50_ms is not None), None)


def instructions(measurements: list[Measurement]) -> int | None:
    return next((m.instructions for m in measurements if m.instructions is not None), None)


def cost(point: SweepPoint) -> float:
    """Of one inference: its time, or nothing is known."""
    return latency(point) or 0


def print_sweep(result: Sweep, console: Console) -> None:
    """The table for the terminal, and why points are not in it."""
    counted = instructions(result.measurements) is not None
    title = f"{result.model.name} · {result.target} · {result.runtime}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ["", "method", "budget", "setting", "file", "drop", "test", "latency", *["instr."] * counted]:
        table.add_column(
            name, justify="left" if name in ("", "method", "setting") else "right", no_wrap=name != "method"
        )
    for point in result.points:
        if point.folder:
            table.add_row(*_cells(result, point, counted), style="bold" if point.front else "")
    marks = "★ on the front. drop: what the metric loses on the samples to choose by, and half its 95 % interval;\n"
    marks += "test: the same on the test split\n"
    lines = [Text.assemble(f"{what}: ", (reason, "dim")) for what, reason in problems(result)]
    console.print(Group(table, Text(marks, "dim"), *lines, *(Text(note, "dim") for note in result.notes)))


def problems(result: Sweep) -> list[tuple[str, str]]:
    """What was missed or failed, and why: budgets with the same reason together."""
    budgets: dict[tuple[str, str, str], list[str]] = {}
    for p in result.points:
        if p.reason:
            budgets.setdefault((p.method, p.state, p.reason), []).append(format_bytes(p.budget_bytes))
    return [(f"{method} at {', '.join(at)} {state}", reason) for (method, state, reason), at in budgets.items()]


def _cells(result: Sweep, point: SweepPoint, counted: bool) -> list[str]:
    cells = ["★" if point.front else "", point.method, format_bytes(point.budget_bytes), short(point.setting)]
    cells += [format_bytes(point.artifact_bytes or 0)]
    cells += [f"{drop_text(point.validation)} {margin(point)}" if point.validation else ""]
    cells += [drop_text(point.test) if point.test else ""]
    p50 = latency(point)
    cells += [f"{p50:.3g} ms" if p50 else ""]
    return [*cells, format_count(instructions(point.measurements) or 0)] if counted else cells


def short(setting: str) -> str:
    """A setting without the name of its method."""
    key, equals, value = setting.partition("=")
    return key.rpartition(".")[2] + equals + value


def margin(point: SweepPoint) -> str:
    """Half of the 95 % interval of the drop, in points; empty where it is not known."""
    interval = point.validation.interval if point.validation else None
    return f"±{_plain((interval[1] - interval[0]) / 2, point.validation.unit)}" if interval else ""


def drop_text(accuracy: Accuracy) -> str:
    """What is lost, without the word for its unit."""
    return _plain(accuracy.drop_points, accuracy.unit, signed=True)


def _plain(value: float, unit: str, signed: bool = False) -> str:
    return format_drop(value, unit, signed).removesuffix("points").removesuffix(unit).strip()


def to_page(result: Sweep) -> str:
    """One file without references to anything outside its folder."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        bytes=format_bytes,
        count=format_count,
        short=short,
        margin=margin,
        lost=drop_text,
        latency=latency,
        instructions=instructions,
    )
    template = environment.from_string(Path(__file__).with_name("sweep.html.j2").read_text(encoding="utf-8"))
    series = list(dict.fromkeys(point.method for point in result.points if point.folder))
    return template.render(
        r=result,
        series=series,
        symbols=[plot.symbol(index) for index in range(len(series))],
        plots=_plots(result, series),
        problems=problems(result),
        before=_original_latency(result),
        counted=instructions(result.measurements) is not None,
    )


def _plots(result: Sweep, series: list[str]) -> list[tuple[str, str]]:
    """Titles and plots of what is lost against what it costs, so far as both were measured."""
    files = {point.folder: point for point in result.points if point.folder and point.validation}
    before, plots = _original_latency(result), []
    if files:
        marks = [_mark(series, point, float(point.artifact_bytes or 0)) for point in files.values()]
        plots.append(("Size", plot.scatter(marks, result.original_bytes, "file size", _round_bytes)))
    if files and before:
        marks = [_mark(series, point, latency(point) or 0) for point in files.values()]
        plots.append(("Latency", plot.scatter(marks, before, "latency", lambda ms: f"{ms:.3g} ms")))
    return plots


def _mark(series: list[str], point: SweepPoint, cost: float) -> plot.Mark:
    validation = point.validation
    assert validation
    text = f"{point.method} {short(point.setting)}: {format_bytes(point.artifact_bytes or 0)}"
    text += f", {format_drop(validation.drop_points, validation.unit, signed=True)}"
    text += f", {latency(point):.3g} ms" if latency(point) else ""
    number = series.index(point.method) % 8
    return plot.Mark(number, cost, validation.drop_points, validation.interval, point.front, text)


def _round_bytes(size: float) -> str:
    return format_bytes(size).replace(".00", "")


def _original_latency(result: Sweep) -> float | None:
    return next((m.p50_ms for m in result.measurements if m.p50_ms is not None), None)
