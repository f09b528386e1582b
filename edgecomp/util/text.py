"""Texts that come from files: names of layers, models and devices, notes, messages of other programs. They are data,
not orders to a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.text import Text

_LONGEST = 2000


def printable(text: str, longest: int = _LONGEST, lines: bool = False) -> str:
    """A text without control characters, line breaks and marks that turn the direction of writing: they are shown as
    escapes. One that is too long loses its middle.

    Args:
        lines: line breaks stay.
    """
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest // 2) :]}"
    return "".join(c if _is_shown(c) or (lines and c == "\n") else _escaped(c) for c in text)


def printable_values(value: Any) -> Any:
    """All texts in lists and dicts, as those of a record that was read; numbers stay."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key) if isinstance(key, str) else key: printable_values(v) for key, v in value.items()}
    return [printable_values(v) for v in value] if isinstance(value, list | tuple) else value


def cells(row: Iterable[Any]) -> list[Any]:
    """The cells of a table of rich, whose markup is not looked for in them."""
    return [Text(printable(cell, lines=True)) if isinstance(cell, str) else cell for cell in row]


def _is_shown(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] != "C" and kind not in ("Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
