"""Stage 7, report: the verdict and every figure, as `report.json`, `report.html` and a table for the terminal."""

from __future__ import annotations

import platform
import subprocess
import zlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from . import explain, progress
from .files import write_text
from .records import (
    Artifact,
    BudgetReport,
    Compressed,
    Environment,
    Measured,
    Measurement,
    Model,
    ModelReport,
    Plan,
    Proof,
    Report,
    SizeReport,
    Verdict,
)
from .units import format_bytes, format_count
from .workspace import Workspace

# The classical demand: 200 MB → 10 MB (Gong et al. 2014).
_DEFAULT_BUDGET = 20
_NOTEWORTHY = 0.1  # relative difference of outputs from exact arithmetic that is worth a remark
_FIGURES = ("", "original", "compressed", "ratio", "evidence")
_PRICE = ("without custom ops", "custom ops", "stock", "stock costs", "evidence")


def report(
    model: Model, plan: Plan, compressed: Compressed, artifact: Artifact, measured: Measured, work: Workspace
) -> Report:
    """Puts the figures together, decides the verdicts, and writes the report's files."""
    size = _size(artifact)
    taken = {entry.method: entry.settings for entry in plan.entries if entry.method}
    settings = next(iter(taken.values()), {}) if len(taken) < 2 else taken
    result = Report(
        model=ModelReport(name=model.name, source=model.source, sha256=model.sha256, parameters=model.parameters),
        target=plan.target,
        runtime=plan.runtime,
        method=plan.method,
        settings=settings,
        seed=plan.seed,
        recover_epochs=plan.recover_epochs,
        stock=plan.stock,
        budget=_budget(size, measured, plan),
        size=size,
        accuracy=measured.accuracy,
        measurements=list(measured.measurements),
        check=measured.check,
        layers=list(artifact.layers),
        proof=artifact.proof,
        search=plan.search,
        plan=list(plan.entries) if plan.search else [],
        compress_seconds=round(compressed.seconds, 2),
        calibration=compressed.calibration,
        notes=[*compressed.notes, *measured.notes, *_about_outputs(artifact.proof)],
        environment=_environment(artifact),
    )
    with progress.stage("report", str(work.folder)):
        write_text(work.path("report.json"), result.model_dump_json(indent=1, by_alias=True) + "\n")
        write_text(work.path("report.html"), to_html(result))
    return result


def read_report(path: Path) -> Report:
    """A `report.json`, validated."""
    return Report.model_validate_json(path.read_text())


def print_report(result: Report, console: Console) -> None:
    """The table for the terminal; the verdict comes last, where the eye is."""
    notes = [*_left_alone(result), *(Text(note, "dim") for note in result.notes)]
    errors = Text(
        "weights, outputs: relative error of the layer's weights, and of its outputs on calibration inputs\n"
        "tables: in which products with codewords are looked up, and the error that this adds to the outputs\n",
        "dim",
    )
    if result.search:
        notes = [*notes, Text(), *explain.tables(result.search, result.plan)]
    parts = [_layer_table(result), errors, *notes, Text(), _figure_table(_FIGURES, _figures(result)), Text()]
    if price := stock_price(result):
        parts += [_figure_table(_PRICE, price), Text()]
    parts += _verdict_lines(result)
    console.print(Group(*parts))


def left_alone(reasons: Iterable[tuple[str, str | None, str]]) -> list[Text]:
    """A line for each reason why layers, or parts of compressed ones, were left alone, from (layer, method, reason)."""
    names: dict[tuple[str, bool], list[str]] = {}
    for name, method, reason in reasons:
        if reason:
            names.setdefault((reason, method is None), []).append(name)
    return [
        Text.assemble(f"{', '.join(layers)}{' left alone' if whole else ''}: ", (reason, "dim"))
        for (reason, whole), layers in names.items()
    ]


def _left_alone(result: Report) -> list[Text]:
    return left_alone((line.name, line.method, line.reason) for line in result.layers if line.kind != "container")


def to_html(result: Report) -> str:
    """One file without references to anything outside."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(bytes=format_bytes, count=format_count)
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        r=result,
        figures=_figures(result),
        price=stock_price(result),
        left_alone=_left_alone(result),
        why=explain.html(result),
    )


# --- verdicts and sizes -----------------------------------------------------------------------------------


def _budget(size: SizeReport, measured: Measured, plan: Plan) -> BudgetReport:
    limit = plan.budget_bytes or size.original_bytes // _DEFAULT_BUDGET
    drop: Verdict | None = None
    if plan.max_drop_points is not None:
        accuracy = measured.accuracy
        drop = (
            "inconclusive" if accuracy is None else "pass" if accuracy.drop_points <= plan.max_drop_points else "fail"
        )
    return BudgetReport(
        limit_bytes=limit,
        stated=plan.budget_bytes is not None,
        verdict="pass" if size.artifact_bytes <= limit else "fail",
        max_drop_points=plan.max_drop_points,
        drop_verdict=drop,
    )


def _size(artifact: Artifact) -> SizeReport:
    data = artifact.path.read_bytes()
    original = artifact.original_path.stat().st_size
    runtime = [
        path for path in (artifact.bundle / "lib").iterdir() if path.name.startswith(("libexecutorch", "libLiteRt"))
    ]
    program = [path for path in artifact.bundle.iterdir() if path.is_file() and path.suffix == ""]
    return SizeReport(
        original_bytes=original,
        artifact_bytes=len(data),
        ratio=round(original / len(data), 3),
        download_bytes=len(zlib.compress(data, 9)),
        installed_bytes=len(data) + sum(path.stat().st_size for path in [*runtime, *program]),
        custom_op_bytes=artifact.custom_op_path.stat().st_size if artifact.custom_op_path else None,
    )


def _about_outputs(proof: Proof) -> list[str]:
    if proof.relative_difference <= _NOTEWORTHY:
        return []
    return [
        f"outputs are {100 * proof.relative_difference:.0f} % from those of the {proof.reference}: in a deep net the "
        "rounded products of many layers add up; with --set tables=exact they are looked up as they are"
    ]


def _environment(artifact: Artifact) -> Environment:
    folder = Path(__file__).parent
    git = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return Environment(
        edgecomp=version("edgecomp"),
        torch=torch.__version__,
        runtime_version=artifact.runtime_version,
        python=platform.python_version(),
        machine=f"{platform.machine()} {platform.system()}",
        commit=git.stdout.strip() or None,
    )


# --- tables -----------------------------------------------------------------------------------------------


def _ratio(before: float | None, after: float | None) -> str:
    return f"{before / after:.1f}×" if before and after else ""


def _figures(result: Report) -> list[tuple[str, str, str, str, str]]:
    """Rows (figure, original, compressed, ratio, evidence) of what was measured."""
    size, accuracy = result.size, result.accuracy
    before, after = size.original_bytes, size.artifact_bytes
    rows = [
        ("file", format_bytes(before), format_bytes(after), _ratio(before, after), "on disk"),
        ("download (deflated)", "", format_bytes(size.download_bytes), "", "on disk"),
        ("model + runtime + kernels", "", format_bytes(size.installed_bytes), "", "on disk"),
    ]
    if accuracy:
        title, drop = f"{accuracy.metric}, {accuracy.samples:,} test samples", f"drop {accuracy.drop_points:+.2f}"
        rows.append((title, f"{accuracy.original:.2f} %", f"{accuracy.compressed:.2f} %", drop, "host"))
    for evidence in dict.fromkeys(m.evidence for m in result.measurements):
        pair = {m.artifact: m for m in result.measurements if m.evidence == evidence}
        rows += _measured_rows(pair["original"], pair["compressed"])
    return rows


def stock_price(result: Report) -> list[tuple[str, str, str, str, str]]:
    """Rows (figure, with custom ops, stock, how many times more, evidence) of a build with `--stock`."""
    size = result.size
    if size.custom_op_bytes is None:
        return []
    before, after = size.custom_op_bytes, size.artifact_bytes
    rows = [("file", format_bytes(before), format_bytes(after), f"{after / before:.2f}×", "on disk")]
    for evidence in dict.fromkeys(m.evidence for m in result.measurements):
        pair = {m.artifact: m for m in result.measurements if m.evidence == evidence}
        if "custom-op" in pair:
            rows += _measured_rows(pair["custom-op"], pair["compressed"], costs=True)
    return rows


def _measured_rows(
    before: Measurement, after: Measurement, costs: bool = False
) -> list[tuple[str, str, str, str, str]]:
    def row(title: str, field: str, show: Any) -> list[tuple[str, str, str, str, str]]:
        a, b = getattr(before, field), getattr(after, field)
        return (
            [(title, show(a), show(b), _ratio(*((b, a) if costs else (a, b))), after.evidence)]
            if a is not None and b is not None
            else []
        )

    def milliseconds(value: float) -> str:
        return f"{value:.3g} ms"

    return [
        *row(f"latency p50, {after.threads} thread", "p50_ms", milliseconds),
        *row("latency p90", "p90_ms", milliseconds),
        *row("load", "load_ms", milliseconds),
        *row("instructions per inference", "instructions", format_count),
        *row("peak memory", "peak_rss_bytes", format_bytes),
    ]


def _layer_table(result: Report) -> Table:
    table = Table(
        title=f"{result.model.name} · {result.method} · {result.target} · {result.runtime}{' · stock' * result.stock}",
        title_justify="left",
    )
    for title in ("layer", "method", "original", "now", "bits/weight", "weights", "outputs", "tables"):
        table.add_column(title, justify="left" if title in ("layer", "method", "tables") else "right")
    for line in result.layers:
        table.add_row(
            line.name,
            line.method or "–",
            format_bytes(line.original_bytes),
            format_bytes(line.bytes),
            f"{line.bits_per_weight:.2f}" if line.weights else "",
            "" if line.relative_error is None else f"{line.relative_error:.3f}",
            "" if line.output_error is None else f"{line.output_error:.3f}",
            line.tables,
        )
    return table


def _figure_table(titles: tuple[str, ...], rows: list[tuple[str, str, str, str, str]]) -> Table:
    table = Table()
    for title in titles:
        table.add_column(title, justify="left" if title in (titles[0], "evidence") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _verdict_lines(result: Report) -> list[Text]:
    budget, size = result.budget, result.size
    source = "" if budget.stated else ", the default: 1/20 of the original"
    lines = [
        Text.assemble(
            _badge(budget.verdict),
            f" {format_bytes(size.artifact_bytes)} of {format_bytes(budget.limit_bytes)}{source}",
        )
    ]
    if budget.drop_verdict:
        drop = f"{result.accuracy.drop_points:+.2f}" if result.accuracy else "unknown"
        lines.append(Text.assemble(_badge(budget.drop_verdict), f" drop {drop} of {budget.max_drop_points} points"))
    return lines


def _badge(verdict: Verdict) -> tuple[str, str]:
    return verdict.upper(), {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}[verdict]
