"""What a byte budget means for a method: the mildest value of its knob with which the file is no larger.

Bytes are predicted, which is exact for layers, and nothing is built. What the file's container takes on top is known
of the original's file, and then of every file that has been built.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from .. import discover, plan
from ..chain import names_in
from ..export import original_file
from ..plan import AUTO
from ..records import Knob, Model, PlanEntry, Request
from ..util import progress
from ..util.units import format_bytes
from .options import Options

_PER_LAYER = 700  # bytes that a file takes for a coded layer beside its weights, at most


@dataclass(frozen=True)
class Step:
    """A value of the knob, as `--set` takes it (empty if there is none), and the bytes of all layers with it."""

    setting: str
    predicted_bytes: int


@dataclass(frozen=True)
class Ladder:
    """What a method can do: steps from the most bytes to the fewest, or the reason why it takes no layer."""

    method: str
    steps: tuple[Step, ...]
    reason: str = ""

    def fitting(self, limit_bytes: int) -> Step | None:
        """The first step with which the layers take no more than that."""
        return next((step for step in self.steps if step.predicted_bytes <= limit_bytes), None)

    @property
    def smallest(self) -> Step:
        return min(self.steps, key=lambda step: step.predicted_bytes)

    def falls_short(self, container_bytes: int) -> str:
        """Why no step fits."""
        step = self.smallest
        size = format_bytes(step.predicted_bytes + container_bytes)
        return f"the smallest file it makes takes about {size}" + (f", with {step.setting}" if step.setting else "")


def knob_of(method: str, settings: tuple[str, ...]) -> tuple[str, Knob] | None:
    """The knob that the budget turns: that of the first method in the expression that has one, unless the settings
    decide it already. With it the name of the method."""
    for name in names_in(method):
        knob: Knob | None = getattr(discover.method(name).Config, "KNOB", None)
        if knob:
            return None if stated(settings, name, (knob.setting, *knob.rivals)) else (name, knob)
    return None


def stated(settings: tuple[str, ...], method: str, fields: Iterable[str]) -> bool:
    """Whether settings say what some fields of a method are, with its name before them or without."""
    keys = {text.partition("=")[0] for text in settings}
    return any(field in keys or f"{method}.{field}" in keys for field in fields)


def container_bytes(model: Model, groups: list[tuple[str, ...]], request: Request, original: Path) -> int:
    """What the original's file has beside the weights of the layers."""
    entries = plan.decide(model, groups, [], request)
    return original.stat().st_size - sum(entry.original_bytes for entry in entries)


def settings_for(method: str, settings: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the settings that the method knows."""
    names = names_in(method)
    fields = {
        name: set(Options.model_fields) if name == AUTO else {"kinds", *discover.method(name).Config.model_fields}
        for name in names
    }

    def known(text: str) -> bool:
        owner, _, field = text.partition("=")[0].rpartition(".")
        return any(field in fields[name] for name in names if owner in ("", name))

    return tuple(text for text in settings if known(text))


def ladder(model: Model, request: Request, groups: list[tuple[str, ...]]) -> Ladder:
    """The steps of `request.method`, whose bytes are those of the plan that each of them gives.

    Args:
        groups: the layers, see `plan.tied_groups`.
    """
    if plan.runtime_and_chains(request)[1][0].prunes:
        return Ladder(request.method, (), "it takes channels out of the whole net; edgecomp build --set bytes=0.5 does")
    knob = knob_of(request.method, request.settings)
    values = [f"{knob[0]}.{knob[1].setting}={value}" for value in knob[1].values] if knob else [""]
    steps, reasons = [], ""
    with progress.bar(f"bytes of {request.method}", len(values)) as advance:
        for value in values:
            settings = (*request.settings, value) if value else request.settings
            wanted = replace(request, settings=settings)
            entries = plan.decide(model, groups, plan.runtime_and_chains(wanted)[1], wanted)
            if any(entry.method for entry in entries):
                steps.append(Step(value, sum(entry.predicted_bytes for entry in entries)))
            else:
                reasons = _reasons(entries)
            advance()
    return Ladder(request.method, tuple(steps), "" if steps else f"it takes no layer: {reasons}")


def within_budget(model: Model, request: Request) -> Request:
    """The request with the mildest value of the method's knob that keeps to its budget, where the default would not;
    as it is where nothing does, or the settings decide."""
    if request.budget_bytes is None or knob_of(request.method, request.settings) is None:
        return request
    chains = plan.runtime_and_chains(request)[1]
    return request if chains[0].prunes or keeps(model, request) else mildest(model, request)


def keeps(model: Model, request: Request) -> bool:
    """Whether the file will take no more than the budget, by what is predicted."""
    return request.budget_bytes is None or sum(_predicted(model, request)) <= request.budget_bytes


def mildest(model: Model, request: Request) -> Request:
    """The request with the mildest value of the method's knob that keeps to its budget; as it is where none does."""
    assert request.budget_bytes is not None
    _, container = _predicted(model, request)
    steps = ladder(model, request, plan.tied_groups(model))
    step = steps.fitting(request.budget_bytes - container)
    if step is None:
        if steps.steps:
            progress.note(f"{request.method} keeps to no such budget: {steps.falls_short(container)}")
        return request
    progress.note(f"{step.setting}: the mildest with which the file takes at most {format_bytes(request.budget_bytes)}")
    return replace(request, settings=(*request.settings, step.setting))


def _predicted(model: Model, request: Request) -> tuple[int, int]:
    """Bytes of the layers, and what the file will take beside them, at most."""
    groups = plan.tied_groups(model)
    runtime, chains = plan.runtime_and_chains(request)
    entries = plan.decide(model, groups, chains, request)
    container = container_bytes(model, groups, request, original_file(model, runtime))
    coded = sum(1 for entry in entries if entry.method)
    return sum(entry.predicted_bytes for entry in entries), container + _PER_LAYER * coded


def _reasons(entries: tuple[PlanEntry, ...]) -> str:
    return "; ".join(dict.fromkeys(entry.reason for entry in entries if entry.reason))
