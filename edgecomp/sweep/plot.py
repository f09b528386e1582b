"""Scatter plots of a sweep as SVG, to be put into a page: accuracy lost against bytes, or against time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 480, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 14, 46
_LINEAR = 0.2  # points of accuracy up to which the axis is about linear; logarithmic beyond
_LOSSES = (-2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "M-4.5-4.5h9v9h-9z",
    "M0-6l5.6 10h-11.2z",
    "M0-6.2l6.2 6.2-6.2 6.2-6.2-6.2z",
)


@dataclass(frozen=True)
class Mark:
    """A file in a plot: what it costs, what is lost and the interval that it lies in, the words that hovering shows."""

    series: int
    cost: float
    lost: float
    interval: tuple[float, float] | None
    front: bool
    text: str


def symbol(series: int) -> str:
    """The shape of a series around (0, 0), as a path."""
    return _SHAPES[series % len(_SHAPES)]


def scatter(marks: list[Mark], original: float, title: str, show: Callable[[float], str]) -> str:
    """The plot. Both axes are logarithmic, that of what is lost beyond 0.2 points; the best corner is top left.

    Args:
        original: what the uncompressed file costs. show: a cost in words.
    """
    costs = [original, *(mark.cost for mark in marks)]
    low, high = math.log(min(costs)), math.log(max(costs))
    margin = 0.06 * max(high - low, 0.5)
    losses = [0.0, *(mark.lost for mark in marks)]
    worst, best = _bent(max(0.5, *losses)), _bent(min(losses))
    room = 0.08 * (worst - best)

    def x(cost: float) -> float:
        part = (math.log(cost) - low + margin) / (high - low + 2 * margin)
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def y(lost: float) -> float:
        part = min(1.0, max(0.0, (_bent(lost) - best + room) / (worst - best + 2 * room)))
        return _TOP + part * (_HEIGHT - _TOP - _BOTTOM)

    parts = [*_x_axis(costs, x, show), *_y_axis(losses, y)]
    parts.append(f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 6}">{escape(title)}</text>')
    parts.append(f'<path class="edge" d="{_staircase(marks, x, y)}"/>')
    parts.append(f'<path class="original" transform="translate({x(original):.1f} {y(0):.1f})" d="M-6 0h12M0-6v12">')
    parts.append(f"<title>original: {escape(show(original))}</title></path>")
    for mark in sorted(marks, key=lambda mark: mark.front):
        parts.append(_mark(mark, x, y))
    label = escape(f"accuracy lost against {title}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _bent(lost: float) -> float:
    return math.copysign(math.log10(1 + abs(lost) / _LINEAR), lost)


def _x_axis(costs: list[float], x: Callable[[float], float], show: Callable[[float], str]) -> Iterable[str]:
    floor, bottom = math.floor(math.log10(min(costs))), _HEIGHT - _BOTTOM
    ticks = [step * 10.0**power for power in range(floor, floor + 12) for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if min(costs) * 0.98 <= tick <= max(costs) * 1.02]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if str(f"{tick:e}")[0] == "1"]
    for tick in ticks:
        yield f'<path class="grid" d="M{x(tick):.1f} {_TOP}V{bottom}"/>'
        yield f'<text class="tick x" x="{x(tick):.1f}" y="{bottom + 17}">{escape(show(tick))}</text>'


def _y_axis(losses: list[float], y: Callable[[float], float]) -> Iterable[str]:
    last = -math.inf
    for tick in (tick for tick in _LOSSES if min(losses) <= tick <= max(0.5, *losses)):
        if y(tick) - last < 16 and tick != 0:
            continue
        last = y(tick)
        kind = "zero" if tick == 0 else "grid"
        yield f'<path class="{kind}" d="M{_LEFT} {last:.1f}H{_WIDTH - _RIGHT}"/>'
        yield f'<text class="tick y" x="{_LEFT - 7}" y="{last + 4.5:.1f}">{tick:g}</text>'


def _staircase(marks: list[Mark], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """The edge of what is reached in this plot: below and to the right of it something is better."""
    path, best = "", math.inf
    for mark in sorted(marks, key=lambda mark: (mark.cost, mark.lost)):
        if mark.lost < best:
            path += f"H{x(mark.cost):.1f}V{y(mark.lost):.1f}" if path else f"M{x(mark.cost):.1f} {y(mark.lost):.1f}"
            best = mark.lost
    return path


def _mark(mark: Mark, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    at, middle = x(mark.cost), y(mark.lost)
    top, bottom = (y(end) - middle for end in mark.interval or (mark.lost, mark.lost))
    whisker = f'<path class="whisker" d="M0 {top:.1f}V{bottom:.1f}"/>' if mark.interval else ""
    kind = "front" if mark.front else "behind"
    return (
        f'<g class="mark {kind} s{mark.series}" transform="translate({at:.1f} {middle:.1f})">'
        f'<title>{escape(mark.text)}</title>{whisker}<path d="{symbol(mark.series)}"/></g>'
    )
