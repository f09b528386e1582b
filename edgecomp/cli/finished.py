"""The command that makes a module for an app from builds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .printing import print_message, print_table

app = typer.Typer()


@app.command()
def package(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of builds, all for one runtime.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The module; its name is the folder's.")],
) -> None:
    """Write a Gradle library module for an Android app: model, Java class, native code as sources."""
    from ..devices.android import write_module

    models = write_module(folders, out)
    print_table(
        ("asset", "bytes", "takes", "gives"),
        [
            (model.asset, model.size, *("\n".join(_tensors(side)) for side in (model.inputs, model.outputs)))
            for model in models
        ],
    )
    print_message(f"[dim]written to {out}: README.md says how an app uses it[/]")


def _tensors(side: list[dict[str, object]]) -> list[str]:
    return [f"{tensor['name']}: {tensor['dtype']} {tensor['shape']}" for tensor in side]
