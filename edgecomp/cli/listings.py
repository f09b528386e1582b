"""The commands that list what there is, as tables or as JSON. None of them waits for torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import unknown
from . import complete
from .options import Serial
from .printing import print_json, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from .doctor import Finding

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Show this method's settings.", metavar="[NAME]", autocompletion=complete.method),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the compression methods, or the settings of one."""
    from . import catalog

    known = catalog.methods()
    if name is None:
        print_json(list(known.values())) if as_json else _print_methods(known)
    elif name not in known:
        raise unknown("method", name, known)
    else:
        print_json(known[name]) if as_json else _print_method(known[name])


@app.command()
def targets(as_json: AsJson = False) -> None:
    """List the targets and where they can be measured."""
    from . import catalog

    listed = catalog.targets()
    if as_json:
        return print_json(listed)
    rows = [(t["name"], t["description"], ", ".join(t["runtimes"]), ", ".join(t["devices"])) for t in listed]
    print_table(("target", "what it is", "runtimes", "devices"), rows)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models of the zoo."""
    from . import catalog

    listed = catalog.models()
    if as_json:
        return print_json(listed)
    rows = [
        (m["name"], m["summary"], "shipped" if m["weights_shipped"] else f"edgecomp train {m['name']}") for m in listed
    ]
    print_table(("model", "what it is", "weights"), rows)


@app.command("devices")
def list_devices(as_json: AsJson = False) -> None:
    """List where exported models can be measured now, and what is missing for the rest."""
    from ..devices import choose

    rows = choose.listing()
    if as_json:
        return print_json([dict(zip(("on", "what", "state", "remedy"), row, strict=True)) for row in rows])
    print_table(("--on", "what", "state", "remedy"), rows)


@app.command()
def doctor(
    phone: Annotated[bool, typer.Option("--phone", help="Look at the connected phone instead.")] = False,
    serial: Serial = None,
    as_json: AsJson = False,
) -> None:
    """Say what is installed, what is missing and how to get it; of a phone, whether it is ready to be measured on.

    Exits 4 if a build would miss something."""
    from dataclasses import asdict

    findings = _of_phone(serial) if phone else _of_machine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [("ok" if f.ok else "–", f.what, f.state, f.remedy) for f in findings]
        print_table(("", "what", "state", "what to do" if phone else "how to get it"), rows)
    raise typer.Exit(0 if all(f.ok or f.optional for f in findings) else 4)


def _of_machine() -> list[Finding]:
    from .doctor import examine

    return examine()


def _of_phone(serial: str | None) -> list[Finding]:
    from ..devices.target import find_target
    from .checkup import checkup

    return list(checkup(find_target("android-arm64"), serial))


def _print_methods(known: dict[str, dict[str, Any]]) -> None:
    rows = [(m["name"], m["summary"], ", ".join(m["kinds"])) for m in known.values()]
    print_table(("method", "what it does", "layers"), rows)
    print("`edgecomp methods NAME` shows a method's settings.")


def _print_method(method: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text.assemble((method["name"], "bold"), f" – {method['summary']}."))
    for paragraph in filter(None, method["details"].split("\n\n")):
        console.print(Text("\n" + paragraph.replace("\n", " ")))
    console.print(_settings_table(method["settings"]))
    if method["one_of"]:
        default = " ".join(f"{key}={value}" for key, value in method["default"].items())
        console.print(Text(f"Give at most one of {', '.join(method['one_of'])}. Without one: {default}."))
    if method["knob"]:
        console.print(Text(f"`edgecomp sweep` varies {method['knob']} to meet a byte budget."))


def _settings_table(settings: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    columns = (Column("--set", no_wrap=True), Column("default", max_width=9), Column("range", max_width=17))
    table = Table(*columns, "meaning", box=box.HORIZONTALS, show_lines=True, pad_edge=False, collapse_padding=True)
    for setting in settings:
        default = setting["default"]
        text = "–" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        bounds = re.sub("([≥>≤<]) ", "\\1\u00a0", setting["range"])  # not broken between sign and number
        table.add_row(*map(Text, (setting["name"], text, bounds, setting["description"])))
    return table
