"""Stage 2: what is decided for every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from .asked import Limits
from .base import Evidence, Record, RecoverCodes


class Cost(Record):
    """What a layer takes: bytes in the exported file, multiply-adds for one row of its input matrix."""

    bytes: int
    macs: int


@dataclass(frozen=True)
class Knob:
    """The setting of a method that trades bytes for fidelity, and what a byte budget tries, from the most bytes to the
    fewest. `rivals`: settings that decide the same; where one of them is given, the knob is not turned."""

    setting: str
    values: tuple[Any, ...]
    rivals: tuple[str, ...] = ()


class RunnerUp(Record):
    """What `auto` would have chosen for a group of layers were it not for what it did choose: the bytes, instructions
    and damage of the group, and, with all others chosen anew, the predicted damage of the plan."""

    method: str | None
    settings: dict[str, Any] = Field(default_factory=dict)
    bytes: int
    instructions: int | None = None
    damage: float
    plan_damage: float


class PlanEntry(Record):
    """What becomes of one group of layers that must be treated alike (tied weights, coupled channels).

    `coupled`: the layers have weights of their own, and are to share parts. `method` is None where the group is left
    alone; `reason` then says why. `pruned`: the method that takes channels of it before that, if any. Where `auto`
    chose: the predicted `damage` (see `Search`), `instructions` of one inference, and the runner-up.
    """

    layers: tuple[str, ...]
    coupled: bool = False
    pruned: str = ""
    kind: str
    method: str | None
    settings: dict[str, Any] = Field(default_factory=dict)
    reason: str = ""
    original_bytes: int
    predicted_bytes: int
    damage: float | None = None
    instructions: int | None = None
    runner_up: RunnerUp | None = None

    @property
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The names of every layer; tied ones are one, of several names."""
        return tuple((name,) for name in self.layers) if self.coupled else (self.layers,)


class ChannelGroup(Record):
    """Channels that can only go together: so many `channels` of the layers that give them out, taken in by `into`, of
    which `keep` stay. `reason` says why all do. Channels that can only go several at a time count as one."""

    layers: tuple[str, ...]
    into: tuple[str, ...]
    channels: int
    keep: int
    reason: str = ""


class Pruning(Record):
    """What is done to channels before anything is done to layers. macs, bytes: of the net before and after."""

    method: str
    settings: dict[str, Any]
    groups: tuple[ChannelGroup, ...]
    macs: tuple[int, int]
    bytes: tuple[int, int]

    @property
    def text(self) -> str:
        pruned = [group for group in self.groups if group.keep < group.channels]
        return (
            f"{self.method}: {sum(g.keep for g in pruned):,} of {sum(g.channels for g in pruned):,} channels stay in "
            f"{len(pruned)} of {len(self.groups)} groups, {100 * self.macs[1] / self.macs[0]:.1f} % of the "
            f"multiply-adds, {100 * self.bytes[1] / self.bytes[0]:.1f} % of the bytes"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of it in a report: how much is left, and why some channels all stay."""
        reasons: dict[str, list[str]] = {group.reason: [] for group in self.groups if group.reason}
        for group in self.groups:
            if group.reason:
                reasons[group.reason].append(" & ".join(group.layers))
        return self.text, *(f"channels of {', '.join(names)} stay: {reason}" for reason, names in reasons.items())


class Look(Record):
    """One plan that `auto` built and looked at: the file it gave, and what the file's outputs lose on calibration
    samples, as predicted and as measured."""

    file_bytes: int
    predicted_damage: float
    damage: float
    drop_points: float
    chosen: bool = False


class Search(Record):
    """How `auto` found the plan. Damage is how far outputs are from the original's, a mean over samples of the
    calibration split: the Kullback–Leibler divergence of the class probabilities in nats, or what `loss` says.

    candidates: of all layers, whose damage was found out. limits: on bytes, instructions, memory or damage.
    container_bytes: what the file has beyond the layers. evidence: of the instructions.
    """

    split: str
    samples: int
    candidates: int
    limits: dict[str, float]
    container_bytes: int
    looks: list[Look]
    loss: str = "KL divergence of the class probabilities from the original's, nats"
    evidence: Evidence = "estimated"


class Plan(Record):
    """The decision for every layer, in the order of execution; written as `plan.json`."""

    model: str
    model_sha256: str
    target: str
    runtime: str
    method: str
    seed: int
    budget_bytes: int | None
    max_drop_points: float | None
    max_error_percent: float | None = None
    limits: Limits = Limits()
    recover_epochs: float = 0
    recover_codes: RecoverCodes = "learned"
    stock: bool = False
    pruning: Pruning | None = None
    entries: tuple[PlanEntry, ...]
    search: Search | None = None
