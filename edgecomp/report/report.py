"""Stage 7, report: the verdict and every figure, as `report.json` and what is made of it, and as tables for the
terminal."""

from __future__ import annotations

import platform
import re
import subprocess
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from ..records import (
    Artifact,
    BudgetReport,
    Compressed,
    Environment,
    LimitReport,
    Measured,
    Model,
    ModelReport,
    Plan,
    Proof,
    Report,
    SizeReport,
)
from ..util import progress
from ..util.files import sha256_file, write_text
from ..util.text import cells, printable_values
from ..util.workspace import Workspace
from . import explain, figures, html, junit, limits, markdown

_STYLES = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
_FILES = ("report.json", "report.html", "report.md", "report.junit.xml")
_NOTEWORTHY = 0.1  # relative difference of outputs from exact arithmetic that is worth a remark


def report(
    model: Model, plan: Plan, compressed: Compressed, artifact: Artifact, measured: Measured, work: Workspace
) -> Report:
    """Puts the figures together, decides the verdicts, and writes the report's files."""
    size = _size(artifact)
    taken = {entry.method: entry.settings for entry in plan.entries if entry.method}
    if plan.pruning:
        taken = {plan.pruning.method: plan.pruning.settings, **taken}
    settings = next(iter(taken.values()), {}) if len(taken) < 2 else taken
    judged = limits.judge(plan, size, measured)
    result = Report(
        model=ModelReport(
            name=model.name,
            source=model.source,
            sha256=model.sha256,
            parameters=model.parameters,
            data=model.data_source,
        ),
        target=plan.target,
        runtime=plan.runtime,
        method=plan.method,
        settings=settings,
        seed=plan.seed,
        recover_epochs=plan.recover_epochs,
        stock=plan.stock,
        budget=budget_of(judged),
        limits=judged,
        artifact_sha256=sha256_file(artifact.path),
        size=size,
        accuracy=measured.accuracy,
        measurements=list(measured.measurements),
        check=measured.check,
        error=measured.error,
        layers=list(artifact.layers),
        channels=list(plan.pruning.groups) if plan.pruning else [],
        proof=artifact.proof,
        search=plan.search,
        plan=list(plan.entries) if plan.search else [],
        compress_seconds=round(compressed.seconds, 2),
        compressed_on=compressed.made_on,
        calibration=compressed.calibration,
        notes=[*compressed.notes, *measured.notes, *_about_outputs(artifact.proof)],
        measure_notes=list(measured.notes),
        environment=_environment(artifact),
    )
    with progress.stage("report", str(work.folder)):
        (folder,) = {work.new(name).parent for name in _FILES}
        write_report(result, folder)
        work.publish(obsolete=[f"custom-op{artifact.path.suffix}"])  # of an earlier build without custom ops
    return result


def remeasured(result: Report, plan: Plan, artifact: Artifact, measured: Measured, work: Workspace) -> Report:
    """The report of an earlier build with the figures of a new measuring, and the verdicts on them; written."""
    size = _size(artifact)
    judged = limits.judge(plan, size, measured)
    built = [note for note in result.notes if note not in result.measure_notes]
    changed = {
        "budget": budget_of(judged),
        "limits": judged,
        "artifact_sha256": sha256_file(artifact.path),
        "size": size,
        "accuracy": measured.accuracy,
        "measurements": list(measured.measurements),
        "check": measured.check,
        "error": measured.error,
        "notes": [*built, *measured.notes],
        "measure_notes": list(measured.notes),
        "environment": _environment(artifact),
    }
    with progress.stage("report", str(work.folder)):
        result = result.model_copy(update=changed)
        write_report(result, work.folder)
    return result


def write_report(result: Report, folder: Path) -> None:
    """`report.json` and all that is made of it."""
    write_text(folder / "report.json", result.model_dump_json(indent=1, by_alias=True) + "\n")
    render(result, folder)


def render(result: Report, folder: Path) -> None:
    """`report.html` to send, `report.md` for a pull request, `report.junit.xml` for a CI."""
    result = _shown(result)
    write_text(folder / "report.html", html.html(result))
    write_text(folder / "report.md", markdown.report(result))
    write_text(folder / "report.junit.xml", junit.report(result))


def read_report(path: Path) -> Report:
    """A `report.json`, or that of a build's folder, validated.

    Raises:
        UsageError: there is none, or it is damaged, of something else, or of another version.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", "Name the folder that `edgecomp build -o` wrote.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"{path} cannot be read: {reason}", "Name a report.json, or the folder of a build.") from error
    try:
        return _shown(Report.model_validate_json(text))
    except ValidationError as error:
        raise UsageError(f"{path} is no report of edgecomp: {_first(error)}", _remedy(text)) from error


def _shown(result: Report) -> Report:
    """With texts that can be shown anywhere."""
    return Report.model_validate(printable_values(result.model_dump(by_alias=True)))


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where + ': ' if where else ''}{first['msg']}"


def _remedy(text: str) -> str:
    """What to do about a file that does not validate: it may be of a version that knows more fields."""
    written = re.search(r'"edgecomp": *"([^"]+)"', text)
    if '"edgecomp.report/' in text and written and written.group(1) != version("edgecomp"):
        return f"It is of edgecomp {written.group(1)}, this is {version('edgecomp')}: update, or build it again."
    return "It may be damaged, or of another program: build it again."


def print_report(result: Report, console: Console) -> None:
    """The tables for the terminal; the verdicts come last, where the eye is."""
    result = _shown(result)
    left = [Text.assemble(f"{layers}: ", (reason, "dim")) for layers, reason in figures.layers_left_alone(result)]
    notes = [Text(note, "dim") for note in result.notes]
    errors = Text(
        "weights, outputs: relative error of the layer's weights, and of its outputs on calibration inputs\n", "dim"
    )
    rows, titles = [row[:-1] for row in figures.layer_rows(result)], figures.LAYERS[:-1]  # tables would not fit
    layers = _table(titles, rows, {"layer", "method"}, figures.heading(result))
    tables = Text("".join(f"{line.name}: {line.tables}\n" for line in result.layers if line.tables), "dim")
    if tables:
        tables = Text("how codes are multiplied, and what rounding adds to the outputs:\n", "dim") + tables
    texts = {"", "evidence"}
    why = explain.tables(result.search, result.plan) if result.search else []
    parts = [
        layers,
        errors,
        tables,
        *left,
        *notes,
        Text(),
        *why,
        _table(figures.FIGURES, figures.figures(result), texts),
        Text(),
    ]
    if price := figures.builtin_price(result):
        parts += [_table(figures.PRICE, price, {*texts, figures.PRICE[0]}), Text()]
    for limit in figures.limits(result):
        parts.append(Text.assemble((limit.verdict.upper(), _STYLES[limit.verdict]), f" {limit.sentence}"))
    console.print(Group(*parts))


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]], texts: set[str], title: str = "") -> Table:
    """A table with the columns in `texts` to the left and figures to the right."""
    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in titles:
        table.add_column(column, justify="left" if column in texts else "right")
    for row in rows:
        table.add_row(*cells(row))
    return table


# --- verdicts and sizes -----------------------------------------------------------------------------------


def budget_of(judged: list[LimitReport]) -> BudgetReport:
    """The two oldest limits, under their own names."""
    by_name = {limit.name: limit for limit in judged}
    file, drop = by_name["file"], by_name.get("drop")
    return BudgetReport(
        limit_bytes=int(file.limit),
        stated=file.stated,
        verdict=file.verdict,
        max_drop_points=drop.limit if drop else None,
        drop_verdict=drop.verdict if drop else None,
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
        coded_download_bytes=artifact.download_path.stat().st_size if artifact.download_path else None,
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
