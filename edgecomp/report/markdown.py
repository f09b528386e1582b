"""`report.md`: the verdict, the figures and the layers, short enough for a pull request."""

from __future__ import annotations

from ..records import Report
from . import figures

_SIGNS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


def report(result: Report) -> str:
    """The Markdown text."""
    judged = [
        [limit.name, limit.value, limit.limit, _SIGNS[limit.verdict], limit.evidence, limit.remark]
        for limit in figures.limits(result)
    ]
    parts = [
        f"### {_SIGNS[result.verdict]}: {_escape(figures.heading(result))}",
        _table(["limit", "value", "at most", "verdict", "evidence", ""], judged),
        _table(list(figures.FIGURES), figures.figures(result)),
    ]
    if price := figures.builtin_price(result):
        parts.append(_table(list(figures.PRICE), price))
    parts += [_escape(note) for note in result.notes]
    layers = _table(list(figures.LAYERS), figures.layer_rows(result))
    left = "\n".join(f"- {_escape(f'{layers}: {reason}')}" for layers, reason in figures.layers_left_alone(result))
    parts.append(f"<details><summary>{len(result.layers) - 1} layers</summary>\n\n{layers}\n\n{left}\n\n</details>")
    made = result.environment
    commit = f", commit {made.commit[:12]}" if made.commit else ""
    parts.append(f"edgecomp {made.edgecomp}{commit}, {result.runtime} {made.runtime_version}, seed {result.seed}")
    return "\n\n".join(part for part in parts if part) + "\n"


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown, also for the pages in docs/, whose first column is text and the others are figures."""
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _table(titles: list[str], rows: list) -> str:  # type: ignore[type-arg]
    return table(titles, [[_escape(cell) for cell in row] for row in rows])


def _escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    for character in "\\|*_`<>[]":
        text = text.replace(character, f"\\{character}")
    return text
