"""What commands print: tables, JSON, plans and comparisons on stdout; messages on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..records import Plan
    from ..report.compare import Comparison


def print_table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..util.text import cells

    table = Table(*titles)
    for row in rows:
        table.add_row(*cells(row))
    Console().print(table)


def print_json(data: Any) -> None:
    import json

    print(json.dumps(data, indent=1, ensure_ascii=False))


def print_comparison(compared: Comparison, json: bool) -> None:
    from ..report.compare import TITLES, remarks, rows

    if json:
        print(compared.model_dump_json(indent=1))
        return
    print_table(TITLES, rows(compared))
    print(*remarks(compared), sep="\n")


def print_plan(plan: Plan) -> None:
    from rich.console import Console
    from rich.text import Text

    from ..report import explain
    from ..report.figures import left_alone
    from ..util.units import format_bytes

    rows = [
        (
            ", ".join(e.layers),
            e.kind,
            "+".join(filter(None, (e.pruned, e.method))) or "–",
            format_bytes(e.original_bytes),
            format_bytes(e.predicted_bytes),
        )
        for e in plan.entries
    ]
    total = [format_bytes(sum(getattr(e, f) for e in plan.entries)) for f in ("original_bytes", "predicted_bytes")]
    print_table(("layer", "kind", "method", "original", "predicted"), [*rows, ("all layers", "", "", *total)])
    left = left_alone((", ".join(e.layers), e.method or e.pruned or None, e.reason) for e in plan.entries)
    Console().print(*(Text.assemble(f"{layers}: ", (reason, "dim")) for layers, reason in left), sep="\n")
    if plan.pruning:
        groups = [
            (" & ".join(g.layers), ", ".join(g.into), str(g.channels), str(g.keep))
            for g in plan.pruning.groups
            if not g.reason
        ]
        print_table(("channels of", "go into", "now", "stay"), groups)
        Console().print(*(Text(note, "dim") for note in plan.pruning.notes), sep="\n")
    if plan.search is None:
        print("The file's container comes on top.")
    else:
        Console().print(*explain.tables(plan.search, plan.entries), sep="\n")


def print_message(text: str) -> None:
    """On stderr, with rich's markup."""
    from ..util.progress import console

    console.print(text)


def escaped(error: Exception) -> str:
    """Its text, with nothing in it that rich or the terminal would obey."""
    from rich.markup import escape

    from ..util.text import printable

    return escape(printable(str(error), lines=True))
