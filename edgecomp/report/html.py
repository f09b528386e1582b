"""`report.html`: one file that needs nothing else, for those who decide as well as for those who build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..records import Measurement, Report
from ..util.units import format_bytes, format_count, format_drop, format_ms, format_score
from . import explain, figures, plots

_MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
_HEADLINES = {
    "pass": "Every limit is met",
    "fail": "A limit is missed",
    "inconclusive": "A limit could not be decided",
}
_STRENGTH = ("adb-shell", "ssh", "host", "qemu-arm64", "estimated")


@dataclass(frozen=True)
class Card:
    """One of the figures that come first."""

    title: str
    figure: str
    text: str
    evidence: str


@dataclass(frozen=True)
class Profile:
    """What the operators of a file take; `share`: of the largest, in percent."""

    title: str
    evidence: str
    rows: list[tuple[str, str, float]]


def html(result: Report) -> str:
    """The page's text."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FileSystemLoader(folder)
    )
    environment.filters.update(bytes=format_bytes, count=format_count, score=format_score, drop=format_drop)
    rows = figures.figures(result)
    accuracies, accuracy_low, accuracy_high = plots.accuracies(result.accuracy)
    return environment.get_template("report.html.j2").render(
        r=result,
        css=Markup((folder / "report.css").read_text(encoding="utf-8")),
        js=Markup((folder / "report.js").read_text(encoding="utf-8")),
        mark=_MARKS,
        headline=_HEADLINES[result.verdict],
        limits=figures.limits(result),
        cards=_cards(result),
        waterfall=plots.waterfall(result),
        accuracies=accuracies,
        accuracy_axis=(accuracy_low, accuracy_high),
        distributions=plots.distributions(result),
        memory=plots.memory(result),
        profiles=_profiles(result),
        layers=list(zip(result.layers, plots.widths(result.layers), strict=True)),
        left_alone=figures.layers_left_alone(result),
        why=explain.html(result),
        figures=rows,
        price=figures.builtin_price(result),
        glossary=[(name, text) for name, text in figures.EVIDENCE.items() if any(row[4] == name for row in rows)],
        devices=_devices(result),
    )


def _cards(result: Report) -> list[Card]:
    size, accuracy = result.size, result.accuracy
    change = f"{format_bytes(size.original_bytes)} → {format_bytes(size.artifact_bytes)}"
    cards = [Card("Size", _times(size.original_bytes, size.artifact_bytes, "smaller", "larger"), change, "on disk")]
    if accuracy:
        before, after = (format_score(value, accuracy.unit) for value in (accuracy.original, accuracy.compressed))
        text, drop = f"{before.removesuffix(' %')} → {after} {accuracy.metric}", accuracy.drop_points
        change = format_drop(-drop, "%", signed=True).replace("-", "−")
        if accuracy.unit != "%":
            change = f"{format_drop(abs(drop), accuracy.unit)} {'worse' if drop > 0 else 'better'}"
        cards.append(Card("Accuracy", change, text, accuracy.evidence))
    elif error := result.error:
        off = "not finite" if error.percent is None else f"{error.percent:.3g} % off"
        cards.append(Card("Outputs", off, f"from {error.reference}", error.evidence))
    # The strongest evidence that has times too; the emulator's memory has the emulator's in it.
    by_strength = sorted(figures.pairs(result).items(), key=lambda item: _STRENGTH.index(item[0]))
    pair = by_strength[0][1] if by_strength else {}
    if "original" in pair and "compressed" in pair:
        cards += _measured_cards(pair["original"], pair["compressed"])
    return cards


def _measured_cards(before: Measurement, after: Measurement) -> list[Card]:
    cards = []
    for title, field, show, less, more in (
        ("Latency", "p50_ms", format_ms, "faster", "slower"),
        ("Peak memory", "peak_rss_bytes", format_bytes, "less", "more"),
    ):
        a, b = getattr(before, field), getattr(after, field)
        if a and b:
            cards.append(Card(title, _times(a, b, less, more), f"{show(a)} → {show(b)}", after.evidence))
    return cards


def _times(before: float, after: float, less: str, more: str) -> str:
    times, word = (before / after, less) if after <= before else (after / before, more)
    return f"{times:.0f}× {word}" if times >= 20 else f"{times:.1f}× {word}"


def _profiles(result: Report) -> list[Profile]:
    profiles = []
    for m in result.measurements:
        rows = [(part.name, part.ms if part.ms is not None else part.instructions or 0) for part in m.layer_profile]
        if m.artifact == "compressed" and rows:
            show = format_ms if m.layer_profile[0].ms is not None else format_count
            most = max(value for _, value in rows) or 1
            title = "Time of one inference" if show is format_ms else "Instructions of one inference"
            profiles.append(
                Profile(title, m.evidence, [(name, show(value), 100 * value / most) for name, value in rows])
            )
    return profiles


def _devices(result: Report) -> list[tuple[str, str]]:
    """What each device said about itself."""
    return [(evidence, _words(next(iter(pair.values())).device)) for evidence, pair in figures.pairs(result).items()]


def _words(facts: dict[str, Any]) -> str:
    """{'name': 'host', 'before': {'mhz': 2400}} → 'name host, before: mhz 2400'."""
    return ", ".join(
        f"{key}: {_words(value)}" if isinstance(value, dict) else f"{key} {value}" for key, value in facts.items()
    )
