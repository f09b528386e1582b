"""The commands on builds that are finished: compare them, show them, make a module for an app of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Points, Tolerance
from .printing import print_comparison, print_message, print_table

app = typer.Typer()


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Folder of a build, or a report.json.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER")],
    tolerance: Tolerance = "5%",
    points: Points = 0.1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say of every figure of two builds whether it is better, the same, worse, noisy, or not comparable.

    Exits 1 if one is worse, 5 if one is noisy or none can be compared."""
    from ..report import compare as comparing
    from ..report import read_report
    from ..util.units import parse_share

    compared = comparing.compare(read_report(before), read_report(after), parse_share(tolerance), points)
    print_comparison(compared, json)
    raise typer.Exit(compared.exit_code)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Show the report of a build again, and write report.html, report.md and report.junit.xml anew."""
    from rich.console import Console

    from ..report import print_report, read_report, render

    result = read_report(folder / "report.json")
    render(result, folder)
    print_report(result, Console())


@app.command()
def package(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of builds, all for one runtime.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The module; its name is the folder's.")],
    size: Annotated[bool, typer.Option("--size", help="Compile it for arm64, too, and say what it takes.")] = False,
) -> None:
    """Write a Gradle library module for an Android app: model, Java class, native code as sources."""
    from ..devices.android import write_module
    from ..devices.android_size import library_bytes, runtime_bytes
    from ..util.units import format_bytes

    models = write_module(folders, out)
    print_table(
        ("asset", "bytes", "takes", "gives"),
        [
            (model.asset, model.size, *("\n".join(_tensors(side)) for side in (model.inputs, model.outputs)))
            for model in models
        ],
    )
    if size:
        runtime = models[0].report.runtime
        code, floor = (format_bytes(count) for count in (library_bytes(out, runtime), runtime_bytes(runtime)))
        print_message(f"kernels and API for arm64, stripped: {code}; the runtime's own libraries: {floor}")
    print_message(f"[dim]written to {out}: README.md says how an app uses it[/]")


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A build's model.edgecomp.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Where model.pte or model.tflite goes.")
    ] = Path("."),
) -> None:
    """Decode a download into the very model file, as a device does, and check its SHA-256."""
    from ..devices import download

    print(download.unpack(file, out))


def _tensors(side: list[dict[str, object]]) -> list[str]:
    return [f"{tensor['name']}: {tensor['dtype']} {tensor['shape']}" for tensor in side]
