"""The candidates of all layers and what is known of them.

Not all are fitted, and not all are put through the whole net:
- a coded factorization is no better than the factorization it codes: it is not fitted if something of no more bytes is
  known to be at least as near to the layer's outputs as that;
- what is farther from the layer's outputs than something smaller does more damage: only the best of each size are put
  through the net, where that is more work than to fit them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from .. import lowrank, progress
from ..layers.matrix import kind_of
from ..records import Model, Request
from .candidates import Candidate, Group, candidates, least_bytes, neighbours
from .options import Options
from .trials import Mapper, Task, Trial, forget, trials

_SLACK = 1.1  # times the least error of that size is as good
_LEAST = 1e-6  # nats; less damage is none
_HEAVY = 4  # multiply-adds of the layers behind, per weight, beyond which fitting is less work


@dataclass
class Pool:
    """What `search` chooses from. `kept` are the candidates of each group whose damage is known."""

    model: Model
    request: Request
    options: Options
    runtime: str
    groups: list[Group]
    mapper: Mapper
    every: list[list[Candidate]] = field(init=False)
    kept: list[list[Candidate]] = field(init=False)

    def __post_init__(self) -> None:
        net, names = self.model.net, self.options.chains
        self.every = [candidates(net, group, names, self.runtime) for group in self.groups]
        self.kept = [[group[0]] for group in self.every]
        self._trials: dict[int, Trial] = {id(group[0]): Trial(error=0.0, damage=0.0) for group in self.every}
        # Of a request, what the trials depend on.
        self._origin = replace(
            Request(), model=self.request.model, seed=self.request.seed, quick=self.request.quick, out=Path()
        )

    @property
    def smallest(self) -> tuple[Candidate, ...]:
        return tuple(min(group, key=lambda candidate: candidate.bytes) for group in self.every)

    def damage(self, candidate: Candidate) -> float | None:
        """Of a candidate alone; None if it is not known."""
        trial = self._trials.get(id(candidate))
        if trial is None or trial.damage is None:
            return None
        return max(trial.damage, _LEAST) if candidate.method else 0.0

    def error(self, candidate: Candidate) -> float:
        return self._trials[id(candidate)].error

    def fill(self, limit: int) -> None:
        """Finds out about the candidates that leave the other layers enough within `limit` bytes."""
        spare = max(0, limit - least_bytes(self.every))
        affordable = [
            [c for c in group if c.bytes <= spare + least.bytes]
            for group, least in zip(self.every, self.smallest, strict=True)
        ]
        total = sum(map(len, affordable))
        first = [[c for c in group if ":" not in c.name] for group in affordable]
        bases = [self._bases(group, every) for group, every in zip(affordable, self.every, strict=True)]
        self._try([[*a, *b] for a, b in zip(first, bases, strict=True)])
        rest = [
            [c for c in group if self._promises(c, every)] for group, every in zip(affordable, self.every, strict=True)
        ]
        self._try(rest)
        self._judge([[c for c in group if id(c) in self._trials] for group in affordable])
        progress.note(
            f"{len(self._trials)} of {total} candidates fitted for {len(self.groups)} groups of layers, "
            f"{sum(map(len, self.kept))} put through the net"
        )
        forget()

    def refine(self, picks: tuple[Candidate, ...], limit: int) -> int:
        """Finds out about settings beside those of the picks; returns how many were new."""
        spare = max(0, limit - least_bytes(self.every))
        fresh = []
        for group, every, pick, least in zip(self.groups, self.every, picks, self.smallest, strict=True):
            known = {(c.method, str(c.settings)) for c in every}
            found = neighbours(self.model.net, group, pick, self.runtime)
            found = [c for c in found if (c.method, str(c.settings)) not in known and c.bytes <= spare + least.bytes]
            every.extend(found)
            fresh.append(found)
        self._try(fresh)
        self._judge(fresh)
        forget()
        return sum(map(len, fresh))

    def _bases(self, group: list[Candidate], every: list[Candidate]) -> list[Candidate]:
        """Factorizations that are too large themselves, and whose codes may not be."""
        wanted = {_base(c) for c in group if ":" in c.name}
        return [c for c in every if ":" not in c.name and (c.method, _values(c)) in wanted and c not in group]

    def _promises(self, candidate: Candidate, every: list[Candidate]) -> bool:
        """A coded factorization may be the best of its size, or is the smallest of all."""
        if ":" not in candidate.name:
            return False
        if candidate.bytes == min(c.bytes for c in every):
            return True
        tried = [c for c in every if id(c) in self._trials]
        bound = [self.error(c) for c in tried if (c.method, _values(c)) == _base(candidate)]
        if not bound:
            return True
        return not any(
            c.bytes <= candidate.bytes and self.error(c) <= bound[0] and self._no_slower(c, candidate) for c in tried
        )

    def _no_slower(self, one: Candidate, other: Candidate) -> bool:
        return self.options.instructions is None or one.macs <= other.macs

    def _try(self, wanted: list[list[Candidate]]) -> None:
        """Fits candidates, and puts them through the net where that is little more work."""
        tasks = [
            Task(self._origin, self.runtime, self.options.samples, candidate, self._light(group))
            for group, found in zip(self.groups, wanted, strict=True)
            for candidate in found
            if id(candidate) not in self._trials
        ]
        self._learn(tasks)

    def _judge(self, wanted: list[list[Candidate]]) -> None:
        """Puts the best of each size through the net."""
        tasks = []
        for found, kept in zip(wanted, self.kept, strict=True):
            best = [c for c in found if not any(self._beats(other, c) for other in [*found, *kept])]
            kept.extend(c for c in best if not any(c is k for k in kept))
            tasks += [Task(self._origin, self.runtime, self.options.samples, c) for c in best if self.damage(c) is None]
        self._learn(tasks)

    def _beats(self, one: Candidate, other: Candidate) -> bool:
        smaller = one.bytes <= other.bytes and self._no_slower(one, other)
        return smaller and _SLACK * self.error(one) < self.error(other)

    def _learn(self, tasks: list[Task]) -> None:
        for task, trial in zip(tasks, trials(self.model, tasks, self.mapper), strict=True):
            self._trials[id(task.candidate)] = trial

    def _light(self, group: Group) -> bool:
        net = self.model.net
        names = [name for name, module in net.named_modules() if kind_of(module) in ("dense", "conv")]
        behind = names[names.index(group.layers[0]) + 1 :] if group.layers[0] in names else names
        work = sum(_work(net.get_submodule(name)) for name in behind)
        return work <= _HEAVY * net.get_submodule(group.layers[0]).weight.numel()


def _work(layer: nn.Module) -> int:
    return lowrank.total_macs(layer, [layer])


def _base(candidate: Candidate) -> tuple[str, str]:
    """The factorization that a chain codes, and its settings."""
    first = candidate.name.partition(":")[0]
    own = {k.partition(".")[2]: v for k, v in candidate.settings.items() if k.startswith(f"{first}.")}
    return first, str(own)


def _values(candidate: Candidate) -> str:
    return str(candidate.settings)
