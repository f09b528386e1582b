"""The candidates of all layers and what is known of them.

Not all are fitted, and not all are put through the whole net:
- a coded factorization is no better than the factorization it codes: it is not fitted if something of no more bytes is
  known to be at least as near to the layer's outputs as that;
- codes of a large dense layer are fitted to a part of its outputs first, and to all of them only if nothing smaller is
  at least as near as they are there;
- layers of which little is to be had within the budget are not factorized, or are left alone;
- what is farther from the layer's outputs than something smaller does more damage: only the best of each size are put
  through the net, where that is more work than to fit them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from .. import chain
from ..fitting import lowrank
from ..layers.matrix import kind_of
from ..records import Model, Request
from ..util import progress
from . import costs, single
from .candidates import Candidate, Group, candidates, least_size, neighbours
from .options import Options
from .trials import Runner, Task, Trial, trials

_SLACK = 1.1  # times the least error of that size is as good
_SLOWER = 2.0  # times the instructions, and it does not take the place of a faster one, whatever it loses
_LEAST = 1e-6  # nats; less damage is none
_PART, _LEAST_ROWS, _LARGE = 8, 256, 1 << 22  # one in so many outputs of a layer of many rows and weights
_CODED, _LEFT = 0.05, 0.001  # of the budget: layers of no more bytes are only coded, or left alone
_HEAVY = 4  # multiply-adds of the layers behind, per weight, beyond which fitting is less work
_OF_A_LAYER, _NEGLIGIBLE = 4096, 0.01  # bytes a file may have for it beside its weights; share of a budget


@dataclass
class Pool:
    """What `search` chooses from. `kept` are the candidates of each group whose damage is known. `weighed`: it is known
    what the file has for each beside its weights."""

    model: Model
    request: Request
    options: Options
    runtime: str
    groups: list[Group]
    runner: Runner
    every: list[list[Candidate]] = field(init=False)
    kept: list[list[Candidate]] = field(init=False)
    weighed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        net, names = self.model.net, self.options.chains
        self._rates: dict[int, float] = {}  # instructions per multiply-add
        self.every = [candidates(net, group, names, self.runtime) for group in self.groups]
        self.kept = [[group[0]] for group in self.every]
        self._trials: dict[int, Trial] = {id(group[0]): Trial(error=0.0, damage=0.0) for group in self.every}
        self._screens: dict[int, float] = {}
        # Of a request, what the trials depend on.
        self._origin = replace(
            Request(), model=self.request.model, seed=self.request.seed, quick=self.request.quick, out=Path()
        )

    @property
    def smallest(self) -> tuple[Candidate, ...]:
        return tuple(min(group, key=lambda candidate: candidate.size) for group in self.every)

    def damage(self, candidate: Candidate) -> float | None:
        """Of a candidate alone; None if it is not known."""
        trial = self._trials.get(id(candidate))
        if trial is None or trial.damage is None:
            return None
        return max(trial.damage, _LEAST) if candidate.method else 0.0

    def error(self, candidate: Candidate) -> float:
        return self._trials[id(candidate)].error

    def takes(self, candidate: Candidate) -> dict[str, float]:
        """By resource, see `costs`."""
        kind = kind_of(self.model.net.get_submodule(candidate.layers[0]))
        return costs.takes(candidate, kind, self._rates.get(id(candidate)))

    def fill(self, limit: int, thorough: bool = False) -> None:
        """Finds out about the candidates that leave the other layers enough within `limit` bytes.

        Args:
            thorough: of small layers too.
        """
        self._weigh(limit)
        spare = max(0, limit - least_size(self.every))
        affordable = [
            [c for c in group if c.size <= spare + least.size]
            for group, least in zip(self.every, self.smallest, strict=True)
        ]
        for group, choices in zip(self.groups, affordable, strict=True):  # what is known of its inputs serves all
            self._fill(group, choices, 0 if thorough else limit)
        fitted, kept, total = len(self._trials), sum(map(len, self.kept)), sum(map(len, affordable))
        self._count_instructions()
        progress.note(
            f"{total} candidates for {len(self.groups)} groups of layers: {fitted} fitted, {kept} put through"
        )

    def _weigh(self, limit: int) -> None:
        """Says of every candidate what the file has for it beside its weights, unless that is little of the budget."""
        if self.weighed or _OF_A_LAYER * len(self.groups) <= _NEGLIGIBLE * limit or self.request.stock:
            return
        self.weighed = True
        with progress.bar("containers", sum(map(len, self.every))) as advance:
            for place, (group, choices) in enumerate(zip(self.groups, self.every, strict=True)):
                weighed = []
                for candidate in choices:
                    advance(1, text=f"{group.layers[0]}: {candidate.name}")
                    weighed.append(self._with_container(group, candidate))
                self.every[place] = weighed
        self._trials = {id(group[0]): Trial(error=0.0, damage=0.0) for group in self.every}
        self.kept = [[group[0]] for group in self.every]

    def _with_container(self, group: Group, candidate: Candidate) -> Candidate:
        if not self.weighed or candidate.method is None:
            return candidate
        layer = self.model.net.get_submodule(group.layers[0])
        leave = candidate.model_copy(update={"method": None, "settings": {}})
        own, plain = (single.container_bytes(layer, c, self.runtime) for c in (candidate, leave))
        return candidate.model_copy(update={"container": own - plain})

    def _count_instructions(self) -> None:
        """Of all candidates that are left, where they are limited."""
        if self.request.limits.instructions is None:
            return
        net, examples = self.model.net, self.model.example_inputs
        with progress.bar("instructions", sum(map(len, self.kept))) as advance:
            for group, choices in zip(self.groups, self.kept, strict=True):
                layer = net.get_submodule(group.layers[0])
                if kind_of(layer) not in ("dense", "conv"):
                    continue
                x = single.input_of(net, examples, layer)
                for candidate in choices:
                    advance(1, text=f"{group.layers[0]}: {candidate.name}")
                    rate = single.instructions_per_mac(layer, x, candidate, self.runtime, self.request.target)
                    self._rates[id(candidate)] = rate

    def _fill(self, group: Group, choices: list[Candidate], limit: int) -> None:
        place = self.groups.index(group)
        every = self.every[place]
        choices = [c for c in choices if self._matters(c, group, limit)]
        large = self._large(group)
        chained = [c for c in choices if c.chained]
        coded = [c for c in choices if large and c.method and not c.factorizes]
        wanted = {_base(c) for c in chained}  # the factorizations of chains may be too large themselves
        plain = [c for c in every if not c.chained and (c in choices or (c.method, _values(c)) in wanted)]
        self._try(group, [c for c in plain if c not in coded])
        self._screen(coded)
        self._try(group, self._promising(chained, every))
        self._try(group, self._promising(coded, every))
        self._judge(self.kept[place], [c for c in choices if id(c) in self._trials])

    def _matters(self, candidate: Candidate, group: Group, limit: int) -> bool:
        """It may save a part of the budget that is worth the search; other limits than bytes are not seen here."""
        smallest = any(candidate is c for c in self.smallest)
        if candidate.method is None or costs.limits(self.request.limits) or (smallest and group.bytes > _LEFT * limit):
            return True
        return group.bytes > (_CODED if candidate.factorizes else _LEFT) * limit

    def refine(self, picks: tuple[Candidate, ...], limit: int) -> int:
        """Finds out about settings beside those of the picks; returns how many were new."""
        spare = max(0, limit - least_size(self.every))
        count = 0
        for place, (group, pick, least) in enumerate(zip(self.groups, picks, self.smallest, strict=True)):
            every = self.every[place]
            known = {(c.method, str(c.settings)) for c in every}
            fresh = neighbours(self.model.net, group, pick, self.runtime)
            fresh = [self._with_container(group, c) for c in fresh if (c.method, str(c.settings)) not in known]
            fresh = [c for c in fresh if c.size <= spare + least.size]
            every.extend(fresh)
            self._try(group, fresh)
            self._judge(self.kept[place], fresh)
            count += len(fresh)
        self._count_instructions()
        return count

    def _promising(self, choices: list[Candidate], every: list[Candidate]) -> list[Candidate]:
        """Those that may be the best of their size; the smallest of all always."""
        least = min(c.size for c in every)
        tried = [c for c in every if id(c) in self._trials]
        return [
            c
            for c in choices
            if c.size == least
            or not any(
                t.size <= c.size and self.error(t) <= self._bound(c, tried) and self._no_slower(t, c) for t in tried
            )
        ]

    def _bound(self, candidate: Candidate, tried: list[Candidate]) -> float:
        """What its error is not below: that of the factorization it codes, or of a part of the layer."""
        if id(candidate) in self._screens:
            return self._screens[id(candidate)]
        known = [self.error(c) for c in tried if (c.method, _values(c)) == _base(candidate)]
        return known[0] if known else float("-inf")

    def _screen(self, choices: list[Candidate]) -> None:
        """Fits candidates to a part of their layer."""
        samples = self.options.samples
        tasks = [Task(self._origin, self.runtime, samples, c, whole=False, part=_PART) for c in choices]
        for candidate, trial in zip(choices, trials(self.runner, tasks), strict=True):
            self._screens[id(candidate)] = trial.error

    def _large(self, group: Group) -> bool:
        layer = self.model.net.get_submodule(group.layers[0])
        return group.kind == "dense" and layer.weight.numel() >= _LARGE and len(layer.weight) >= _PART * _LEAST_ROWS

    def _no_slower(self, one: Candidate, other: Candidate) -> bool:
        """Or not so much that it is worth to know the other one too."""
        most = _SLOWER if self.request.limits.instructions is None else 1.0
        return self.takes(one)["instructions"] <= most * self.takes(other)["instructions"]

    def _try(self, group: Group, wanted: list[Candidate]) -> None:
        """Fits candidates, and puts them through the net where that is little more work."""
        light, samples = self._light(group), self.options.samples
        fresh = [c for c in wanted if id(c) not in self._trials]
        self._learn([Task(self._origin, self.runtime, samples, candidate, light) for candidate in fresh])

    def _judge(self, kept: list[Candidate], choices: list[Candidate]) -> None:
        """Puts the best of each size through the net, and keeps them."""
        best = [c for c in choices if not any(self._beats(other, c) for other in [*choices, *kept])]
        kept.extend(c for c in best if not any(c is k for k in kept))
        samples = self.options.samples
        self._learn([Task(self._origin, self.runtime, samples, c) for c in best if self.damage(c) is None])

    def _beats(self, one: Candidate, other: Candidate) -> bool:
        smaller = one.size <= other.size and self._no_slower(one, other)
        return smaller and _SLACK * self.error(one) < self.error(other)

    def _learn(self, tasks: list[Task]) -> None:
        for task, trial in zip(tasks, trials(self.runner, tasks), strict=True):
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
    first = candidate.methods[0]
    return first, str(chain.settings_of(first, candidate.settings))


def _values(candidate: Candidate) -> str:
    return str(candidate.settings)
