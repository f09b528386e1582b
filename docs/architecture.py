"""Draws docs/architecture.svg from the imports, as tests/test_architecture.py reads and ranks them.

    python docs/architecture.py

A box is a package, or a file at the top. An arrow is an import; what follows from other arrows is left out. A test
fails if the picture is not the one that this script draws.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from html import escape
from pathlib import Path

PICTURE = Path(__file__).with_suffix(".svg")
STAGES = ("load", "plan", "compress", "recover", "export", "measure", "report")

_WIDTH, _ROW, _BOX, _GAP, _WIDEST = 1120, 92, 58, 14, 300
_CHARACTER = 5.6  # width of a character of the description
_LINES = 3
_STYLE = """
text { font-family: system-ui, sans-serif; fill: #1f2937 }
.name { font-size: 13px; font-weight: 600 }
.what { font-size: 10px; fill: #4b5563 }
.box { fill: #f3f4f6; stroke: #9ca3af }
.stage { fill: #dbeafe; stroke: #3b82f6 }
.arrow { fill: none; stroke: #b6bcc6; marker-end: url(#head) }
"""


def draw(edges: dict[str, set[str]], ranks: list[set[str]], docstrings: dict[str, str]) -> str:
    """The picture as SVG.

    Args:
        edges: for every file, dotted, the files it imports.
        ranks: names of packages and files; from the lowest rank to the highest.
        docstrings: of the boxes, by name; the first sentence is shown.
    """
    names = {name for rank in ranks for name in rank}
    arrows = _reduced(_boxes(edges, names))
    places: dict[str, tuple[float, float, float]] = {}  # left, top, width
    for row, rank in enumerate(reversed(ranks)):
        width = min(_WIDEST, (_WIDTH - _GAP) / len(rank) - _GAP)
        left = (_WIDTH - len(rank) * (width + _GAP) + _GAP) / 2
        order = sorted(rank, key=lambda name: (STAGES.index(name) if name in STAGES else len(STAGES), name))
        for place, name in enumerate(order):
            places[name] = (left + place * (width + _GAP), _GAP + row * _ROW, width)
    height = len(ranks) * _ROW + _GAP
    lines = [_arrow(places[name], places[target]) for name in sorted(arrows) for target in sorted(arrows[name])]
    boxes = [_box(name, places[name], docstrings[name]) for name in sorted(places)]
    size = f'width="{_WIDTH}" height="{height}"'
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {size}>',
            f"<style>{_STYLE}</style>",
            f'<defs>{head}<path d="M0 0L8 4L0 8z" fill="#9ca3af"/></marker></defs>',
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def box_of(file: str, names: set[str]) -> str | None:
    """The longest of the names that the file is, or lies in."""
    parts = file.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in names), None)


def _boxes(edges: dict[str, set[str]], names: set[str]) -> dict[str, set[str]]:
    """The boxes that each box imports."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for file, targets in edges.items():
        box = box_of(file, names)
        if box is not None:
            found[box] |= {other for target in targets if (other := box_of(target, names)) not in (None, box)}
    return found


def _reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Only arrows that do not follow from others."""

    def reachable(name: str, seen: set[str]) -> set[str]:
        for target in arrows[name] - seen:
            seen.add(target)
            reachable(target, seen)
        return seen

    return {
        name: {t for t in targets if not any(t in reachable(other, set()) for other in targets - {t})}
        for name, targets in arrows.items()
    }


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    """From the lower edge of one box to the upper edge of another, or below boxes of one row."""
    x1, y1, x2, y2 = start[0] + start[2] / 2, start[1] + _BOX, end[0] + end[2] / 2, end[1]
    if start[1] == end[1]:
        y2 += _BOX
        return f'<path class="arrow" d="M{x1:.0f} {y1}C{x1:.0f} {y1 + 24} {x2:.0f} {y2 + 24} {x2:.0f} {y2}"/>'
    return f'<path class="arrow" d="M{x1:.0f} {y1}C{x1:.0f} {y1 + 30} {x2:.0f} {y2 - 30} {x2:.0f} {y2}"/>'


def _box(name: str, place: tuple[float, float, float], docstring: str) -> str:
    left, top, width = place
    sentence = " ".join(docstring.split()).replace("`", "").partition(". ")[0].rstrip(".")
    text = textwrap.wrap(sentence, int((width - 12) / _CHARACTER), max_lines=_LINES, placeholder=" …")
    kind = "box stage" if name in STAGES else "box"
    return "\n".join(
        [
            f'<rect class="{kind}" x="{left:.0f}" y="{top}" width="{width:.0f}" height="{_BOX}" rx="5"/>',
            f'<text class="name" x="{left + 7:.0f}" y="{top + 16}">{escape(name)}</text>',
            *(
                f'<text class="what" x="{left + 7:.0f}" y="{top + 29 + 11 * line}">{escape(words)}</text>'
                for line, words in enumerate(text)
            ),
        ]
    )


def docstrings(files: dict[str, Path], names: set[str]) -> dict[str, str]:
    """Of every box: its file's, or its package's."""
    paths = {name: files.get(name) or files[f"{name}.__init__"] for name in names}
    return {name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for name, path in paths.items()}


def current() -> str:
    """The picture of the code as it is."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import test_architecture as rules

    return draw(rules.EDGES, rules.RANKS, docstrings(rules.FILES, set(rules.RANK)))


if __name__ == "__main__":
    PICTURE.write_text(current(), encoding="utf-8")
