"""Why `auto` made the plan that it made: what it chose for each layer, and what the runner-up would have cost."""

from __future__ import annotations

from collections.abc import Iterable

import jinja2
from rich.table import Table
from rich.text import Text

from ..records import PlanEntry, Report, RunnerUp, Search
from ..util.text import cells
from ..util.units import format_bytes, format_count

_HTML = """
<section>
<h2>Why this plan</h2>
<div class="scroll"><table>
<tr><th>layer</th><th>chosen, and the runner-up</th><th class="n">bytes</th><th class="n">instructions</th>
<th class="n">damage</th><th class="n">of the plan</th></tr>
{% for layer, chosen, other in choices %}
<tr><td>{{ layer }}</td>{% for cell in chosen %}<td{{ ' class="n"' | safe if loop.index > 1 }}>{{ cell }}</td>
{% endfor %}</tr>
{% if other %}
<tr><td></td>{% for cell in other %}<td class="{{ 'n ' if loop.index > 1 }}soft">{{ cell }}</td>{% endfor %}</tr>
{% endif %}
{% endfor %}
</table></div>
<div class="scroll"><table>
<tr><th>plans built and looked at</th><th class="n">file</th><th class="n">damage predicted</th>
<th class="n">measured</th><th class="n">drop</th></tr>
{% for look in search.looks %}
<tr><td>{{ "chosen" if look.chosen else loop.index }}</td><td class="n">{{ look.file_bytes | bytes }}</td>
<td class="n">{{ "%.5f" | format(look.predicted_damage) }}</td><td class="n">{{ "%.5f" | format(look.damage) }}</td>
<td class="n">{{ "%+.3g" | format(look.drop_points) }}</td></tr>
{% endfor %}
</table></div>
<p class="soft">{{ about }}</p>
</section>
"""


def html(result: Report) -> str:
    """The section of the report; empty if the plan was not found by `auto`."""
    if result.search is None:
        return ""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters["bytes"] = format_bytes
    template = environment.from_string(_HTML)
    return template.render(search=result.search, choices=choices(result.plan), about=_about(result.search))


def tables(search: Search, entries: Iterable[PlanEntry]) -> list[Text | Table]:
    """What `auto` chose for each layer, what the runner-up would have cost, and how the plans did that it looked at."""
    layers = Table(title="chosen by auto, and below it the runner-up", title_justify="left")
    for title in ("layer", "candidate", "bytes", "instructions", "damage", "of the plan"):
        layers.add_column(title, justify="left" if title in ("layer", "candidate") else "right")
    for layer, chosen, other in choices(entries):
        layers.add_row(*cells((layer, *chosen)))
        if other:
            layers.add_row(*cells(("", *other)), style="dim")
    looks = Table(title="plans built and looked at", title_justify="left")
    for title in ("", "file", "damage predicted", "measured", "drop"):
        looks.add_column(title, justify="right")
    for number, look in enumerate(search.looks):
        figures = f"{look.predicted_damage:.5f}", f"{look.damage:.5f}", f"{look.drop_points:+.3g}"
        looks.add_row("chosen" if look.chosen else str(number), format_bytes(look.file_bytes), *figures)
    return [layers, looks, Text(_about(search), "dim")]


Choice = tuple[str, tuple[str, ...], tuple[str, ...]]


def choices(entries: Iterable[PlanEntry]) -> list[Choice]:
    """For each group of layers its names, what was chosen, and the runner-up, if any: method and settings, bytes,
    instructions, damage, and that of the plan with the runner-up."""
    rows = []
    for entry in entries:
        if entry.damage is None:
            continue
        chosen = (*_figures(entry, entry.predicted_bytes, entry.damage), "")
        second = entry.runner_up
        other = () if second is None else (*_figures(second, second.bytes, second.damage), f"{second.plan_damage:.5f}")
        rows.append((", ".join(entry.layers), chosen, other))
    return rows


def _figures(what: PlanEntry | RunnerUp, size: int, damage: float) -> tuple[str, ...]:
    return _setting(what), format_bytes(size), format_count(what.instructions or 0), f"{damage:.5f}"


def _about(search: Search) -> str:
    return (
        f"{search.candidates} candidates. damage: {search.loss}, "
        f"over {search.samples:,} samples of {search.split}; of a layer, with that layer alone replaced, times what "
        f"plans looked at made of it. The file: layers, and {format_bytes(search.container_bytes)} of container."
    )


def _setting(what: PlanEntry | RunnerUp) -> str:
    """`svd:pq rank=40 s=4`: a method with the settings that decide its size."""
    if what.method is None:
        return "–"
    told = {key.rpartition(".")[2]: value for key, value in what.settings.items()}
    shown = [f"{key}={told[key]}" for key in ("rank", "k", "s", "t", "bits") if key in told]
    shown += ["shared"] if told.get("codebooks") == "shared" else []
    shown += ["ternary"] if told.get("ternary") else []
    return " ".join([what.method, *shown])
