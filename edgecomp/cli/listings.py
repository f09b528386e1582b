"""The commands that list what there is, and the plain table that they print."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command()
def methods() -> None:
    """List the compression methods and their settings."""
    from .. import discover

    rows = []
    for name in discover.method_names():
        module = discover.method(name)
        fields = module.Config.model_fields.items()
        settings = " ".join(f"{key}={field.default}" for key, field in fields)
        rows.append((name, _first_line(module.__doc__), ", ".join(module.KINDS), settings))
    print_table(("method", "what it does", "layers", "settings (--set KEY=VALUE)"), rows)


@app.command()
def targets() -> None:
    """List the targets and where they can be measured."""
    from ..devices.target import find_target, target_names

    found = [find_target(name) for name in target_names()]
    rows = [(t.name, t.description, ", ".join(t.runtimes), ", ".join(t.devices)) for t in found]
    print_table(("target", "what it is", "runtimes", "devices"), rows)


@app.command()
def models() -> None:
    """List the models of the zoo."""
    import ast

    from .. import discover

    rows = []
    for name, path in discover.model_files().items():
        weights = "shipped" if path.with_suffix(".safetensors").exists() else f"edgecomp train {name}"
        rows.append((name, _first_line(ast.get_docstring(ast.parse(path.read_text()))), weights))
    print_table(("model", "what it is", "weights"), rows)


@app.command("devices")
def list_devices() -> None:
    """List where exported models can be measured now, and what is missing for the rest."""
    from ..devices import choose

    print_table(("--on", "what", "state", "remedy"), choose.listing())


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing and how to get it."""
    from .doctor import examine

    findings = examine()
    print_table(
        ("", "what", "state", "how to get it"), [("ok" if f.ok else "–", f.what, f.state, f.remedy) for f in findings]
    )
    raise typer.Exit(0 if all(f.ok or f.optional for f in findings) else 4)


def print_table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..util.text import cells

    table = Table(*titles)
    for row in rows:
        table.add_row(*cells(row))
    Console().print(table)


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0].rstrip(".")
