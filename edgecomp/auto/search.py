"""The search: predicts, chooses, builds what was chosen, looks at the real figures, corrects itself, and chooses again.

Damages of layers one by one do not add up to that of a plan: later layers make up for what earlier ones lost, or lose
more. After each look every group's damages are scaled by what its candidate really added, given all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..devices.target import find_target
from ..engines import Engine
from ..errors import LimitError, UsageError
from ..export import original_file
from ..layers.matrix import kind_of, parameter_bytes
from ..plan import named_groups, not_meant, runtime_and_chains, without_entries, written
from ..records import Look, Model, Plan, PlanEntry, Request, RunnerUp, Search
from ..training.metrics import metric_of
from ..util import progress
from ..util.units import format_bytes, format_count
from ..util.workspace import Workspace
from . import costs, knapsack
from .candidates import Candidate, Group
from .evaluation import Evaluation, Evaluator
from .knapsack import Column
from .options import check, options
from .pool import Pool
from .trials import Runner, forget

_DEFAULT_BUDGET = 20  # as `report` judges where none is stated
_CONTAINER = 1.25  # of a compressed file, in terms of the original's, until one has been seen
_BASE = 1.05  # the same where what it has for every layer is known
_SCALE = 8.0  # at most, in one look
_LEAST_DAMAGE = 1e-6  # nats; what is below is as good as nothing
_FIRST_LIMIT = 0.01  # nats, where a drop is stated and no budget
_REFINEMENTS = 2
_EXTRA = 4  # rounds beyond those asked for, if no file was within the budget by then


@dataclass(frozen=True)
class Choice:
    """A candidate for every group, and what is predicted of them together."""

    picks: tuple[Candidate, ...]
    damage: float

    @property
    def key(self) -> tuple[int, ...]:
        return tuple(map(id, self.picks))


def plan(model: Model, request: Request, work: Workspace, engine: Engine | None = None) -> Plan:
    """The plan that the search finds, also written as `plan.json`.

    Raises:
        UsageError: see `check` and `search`; or `--layers` that match nothing.
        LimitError: see `search`.
    """
    with progress.stage("plan", request.method):
        check(request)
        names, groups = named_groups(model, request), []
        for group in names:
            layer = model.net.get_submodule(group[0])
            kind = kind_of(layer)
            groups.append(Group(group, kind, parameter_bytes(layer), not_meant(group, layer, kind, request)))
        base = without_entries(model, request, runtime_and_chains(request)[0])
        return written(search(model, base, groups, request, work, engine), names, work)


def search(
    model: Model, base: Plan, groups: list[Group], request: Request, work: Workspace, engine: Engine | None = None
) -> Plan:
    """The plan with entries for all groups, and how they were found.

    Args:
        base: the plan without entries. engine: does the trials; without one this process does.

    Raises:
        LimitError: no plan is within the limits; the nearest one is named.
        UsageError: the model has no data to judge by.
    """
    if model.data is None:
        raise UsageError(
            "--method auto judges by the model's data, and it has none",
            "Give the model file a data(), or name a method: `edgecomp methods` lists them.",
        )
    pool = Pool(model, request, options(request.settings, base.runtime), base.runtime, groups, Runner(model, engine))
    return _Searcher(pool, base, work).run()


Seen = dict[tuple[int, ...], tuple[Choice, Evaluation]]  # plans that were built, by their choice's key


@dataclass
class _Searcher:
    pool: Pool
    base: Plan
    work: Workspace
    scales: dict[str, float] = field(default_factory=dict)  # by the first name of the group
    offsets: dict[str, float] = field(default_factory=dict)  # by resource: what files take beyond what is predicted
    damage_limit: float = _FIRST_LIMIT
    trusting: bool = True  # in what files are said to have for candidates beside their weights

    @property
    def resources(self) -> dict[str, float]:
        """The limits on others than bytes."""
        return costs.limits(self.base.limits)

    def run(self) -> Plan:
        model, request = self.pool.model, self.pool.request
        original = original_file(model, self.base.runtime).stat().st_size
        self.seeks_least = request.budget_bytes is None and request.max_drop is not None
        self.most_drop = self._most_drop()
        self.budget = request.budget_bytes or (original if self.seeks_least else original // _DEFAULT_BUDGET)
        self.original_bytes = original
        with progress.stage("candidates", f"for {format_bytes(self.budget)}"):
            self.pool.fill(self.budget)
        container = original - sum(group.bytes for group in self.pool.groups)
        self.container = int((_BASE if self.pool.weighed else _CONTAINER) * container)
        try:
            return self._rounds()
        finally:
            forget()

    def _most_drop(self) -> float:
        """What may be lost: as stated, else some points of a metric in percent; of another anything."""
        data, stated = self.pool.model.data, self.pool.request.max_drop
        if stated is not None:
            return stated
        percent = data is None or data.metric is None or metric_of(data.metric).unit == "%"
        return self.pool.options.drop if percent else math.inf

    def _damage_of(self, candidate: Candidate) -> float:
        return self.scales.get(candidate.layers[0], 1.0) * (self.pool.damage(candidate) or 0.0)

    # --- choosing -----------------------------------------------------------------------------------------

    def _takes(self, candidate: Candidate) -> dict[str, float]:
        taken = self.pool.takes(candidate)
        return taken if self.trusting else {**taken, "bytes": float(candidate.bytes)}

    def _size(self, choice: Choice) -> int:
        """Of a file, without what the search takes for the same in all of them."""
        return sum(round(self._takes(pick)["bytes"]) for pick in choice.picks)

    def _nats_per_instruction(self) -> float:
        """A plan that does as little damage with fewer instructions is the better one."""
        original = sum(self.pool.takes(group[0])["instructions"] for group in self.pool.every)
        return self.pool.options.speed / max(1.0, original)

    def _limits(self) -> dict[str, float]:
        limits: dict[str, float] = {"bytes": self.budget - self.container}
        for resource, limit in self.resources.items():
            limits[resource] = limit - self.offsets.get(resource, 0.0)
        if self.seeks_least:
            limits["damage"] = self.damage_limit
        return limits

    def _choose(self, without: Candidate | None = None, least: str = "") -> Choice | None:
        """The best choice; or, within the bytes alone, the one that takes the least of a resource."""
        left = [[candidate for candidate in group if candidate is not without] for group in self.pool.kept]
        if not all(left):
            return None
        flat = [candidate for group in left for candidate in group]
        columns = [Column(c.layers, self._damage_of(c), self._takes(c)) for c in flat]
        limits = {"bytes": self._limits()["bytes"]} if least else self._limits()
        least = least or ("bytes" if self.seeks_least else "damage")
        prices = {"instructions": self._nats_per_instruction()} if least == "damage" else {}
        chosen = knapsack.choose(columns, limits, least, prices)
        if chosen is None:
            return None
        by_layer = {flat[j].layers: flat[j] for j in chosen}
        picks = tuple(by_layer[group.layers] for group in self.pool.groups)
        return Choice(picks, sum(map(self._damage_of, picks)))

    # --- looking ------------------------------------------------------------------------------------------

    def _rounds(self) -> Plan:
        request = self.pool.request
        emulated = (request.on or find_target(request.target).devices[0]) == "qemu"
        evaluator = Evaluator(self.pool.model, self.pool.options.samples, self.work, list(self.resources), emulated)
        self.loss_text = evaluator.loss.text
        evaluated = self._evaluations(evaluator, {})
        best, evaluation = self._best(evaluated)
        if self._fits(evaluation) and evaluation.drop_points > self.most_drop and not self.seeks_least:
            budget, least = self.budget, min(l.drop_points for _, l in evaluated.values() if self._fits(l))
            evaluated |= self._evaluations_within_drop(evaluator, evaluated)
            best, evaluation = self._best(evaluated)
            if evaluation.file_bytes > budget:
                raise self._lossy(best, evaluation, budget, least)
        for resource in ("bytes", *self.resources):
            self._refuse(best, evaluation, resource)
        looks = [
            Look(
                file_bytes=l.file_bytes,
                predicted_damage=c.damage,
                damage=l.damage,
                drop_points=round(l.drop_points, 4),
                chosen=c is best,
            )
            for c, l in evaluated.values()
        ]
        self.container = evaluation.file_bytes - self._size(best)
        return self._plan(best, looks)

    def _evaluations(self, evaluator: Evaluator, before: Seen) -> Seen:
        """Chooses, looks and learns, until there is nothing new or enough has been seen."""
        evaluated: Seen = {}
        rounds, at_an_end = self.pool.options.rounds, bool(before)
        while len(evaluated) < rounds + (0 if self._answered(evaluated) else _EXTRA):
            choice = self._refined(self._choose())
            if choice is None and evaluated and self.pool.weighed and self.trusting and not self._answered(evaluated):
                # Close to the least that can be the errors of small files decide; other choices may fit.
                self.trusting = False
                last, evaluation = list(evaluated.values())[-1]
                self.container = evaluation.file_bytes - self._size(last)
                continue
            if (choice is None or choice.key in evaluated) and not at_an_end and not self._answered(evaluated):
                at_an_end = True
                choice = self._refined(self._nearest(evaluator))
            if choice is None or choice.key in evaluated or choice.key in before:
                break
            evaluation = evaluator.evaluate(self._plan(choice), len(before) + len(evaluated))
            evaluated[choice.key] = choice, evaluation
            self._learn(choice, evaluation)
        return evaluated

    def _evaluations_within_drop(self, evaluator: Evaluator, before: Seen) -> Seen:
        """The same for the least bytes that surely lose no more than they may, whatever the budget."""
        _, evaluation = self._best(before)
        self.seeks_least = True
        self.damage_limit = evaluation.damage * self.most_drop / evaluation.drop_points
        evaluated: Seen = {}
        while self.budget < self.original_bytes and not self._answered(evaluated):
            self.budget = min(2 * self.budget, self.original_bytes)
            with progress.stage("candidates", f"for {format_bytes(self.budget)}, to lose less"):
                self.pool.fill(self.budget)
            evaluated |= self._evaluations(evaluator, before | evaluated)
        return evaluated

    def _best(self, evaluated: Seen) -> tuple[Choice, Evaluation]:
        return min(evaluated.values(), key=lambda pair: self._rank(*pair))

    def _lossy(self, best: Choice, evaluation: Evaluation, budget: int, least: float) -> LimitError:
        self.container = evaluation.file_bytes - self._size(best)
        stated = "" if self.pool.request.max_drop is not None else " (--max-drop allows more)"
        return LimitError(
            f"no plan within a file of {format_bytes(budget)} loses at most {self.most_drop:g} points{stated}, but "
            f"{least:.2f} on calibration samples: the nearest that does takes {format_bytes(evaluation.file_bytes)} "
            f"and loses {evaluation.drop_points:.2f}",
            f"Allow {evaluation.file_bytes:,} or more. Held back by {self._held_back(best, 'bytes')}.",
            self._plan(best),
        )

    def _refined(self, choice: Choice | None) -> Choice | None:
        """The choice, once settings beside it have been tried too."""
        for _ in range(_REFINEMENTS):
            if choice is None:
                return None
            with progress.stage("refine", "settings beside those chosen"):
                if not self.pool.refine(choice.picks, self.budget):
                    return choice
            choice = self._choose()
        return choice

    def _fits(self, evaluation: Evaluation) -> bool:
        return evaluation.file_bytes <= self.budget and not self._excess(evaluation)

    def _answered(self, evaluated: Seen) -> bool:
        """One of them may be the answer."""
        fit = [evaluation for _, evaluation in evaluated.values() if self._fits(evaluation)]
        return any(not self.seeks_least or evaluation.drop_at_most <= self.most_drop for evaluation in fit)

    def _excess(self, evaluation: Evaluation) -> float:
        """By what fraction, at least 0, a file takes more than a limit on another resource than bytes allows."""
        limits = self.resources.items()
        return max([0.0, *(evaluation.measured.get(r, 0.0) / limit - 1 for r, limit in limits)])

    def _rank(self, choice: Choice, evaluation: Evaluation) -> tuple[float, ...]:
        """The less, the better."""
        over = max(0, evaluation.file_bytes - self.budget), self._excess(evaluation)
        if self.seeks_least:
            return *over, max(0.0, evaluation.drop_at_most - self.most_drop), evaluation.file_bytes
        instructions = sum(self.pool.takes(pick)["instructions"] for pick in choice.picks)
        return *over, evaluation.damage + self._nats_per_instruction() * instructions

    def _learn(self, choice: Choice, evaluation: Evaluation) -> None:
        """What the file has beyond its layers, what every group's candidate really added, and how far to go."""
        self.container = evaluation.file_bytes - self._size(choice) + (0 if self._fits(evaluation) else 64)
        for resource, taken in evaluation.measured.items():
            self.offsets[resource] = taken - sum(self.pool.takes(pick)[resource] for pick in choice.picks)
        for pick in choice.picks:
            if pick.method is not None:
                added = max(evaluation.alone[pick.layers[0]], _LEAST_DAMAGE)
                step = min(_SCALE, max(1 / _SCALE, added / max(self._damage_of(pick), _LEAST_DAMAGE)))
                self.scales[pick.layers[0]] = self.scales.get(pick.layers[0], 1.0) * step**0.5
        if self.seeks_least:
            step = self.most_drop / max(evaluation.drop_at_most, self.most_drop / 4, 1e-3)
            self.damage_limit *= min(step, 0.8) if evaluation.drop_at_most > self.most_drop else max(step, 1.25)

    def _nearest(self, evaluator: Evaluator) -> Choice:
        """A choice within the limits after all, where files take less than was thought.

        Raises:
            LimitError: there is none.
        """
        smallest = (min(group, key=lambda c: self._takes(c)["bytes"]) for group in self.pool.every)
        choice = Choice(tuple(smallest), float("nan"))
        evaluation = evaluator.evaluate(self._plan(choice), 0)
        self.container = evaluation.file_bytes - self._size(choice)
        if evaluation.file_bytes <= self.budget:
            self.pool.fill(self.budget, thorough=True)
            again = self._choose()
            if again is not None:
                return again
        self._refuse(choice, evaluation, "bytes")
        for resource in self.resources:
            choice = self._choose(least=resource) or choice
            self._refuse(choice, evaluator.evaluate(self._plan(choice), 1), resource)
        return choice

    def _refuse(self, choice: Choice, evaluation: Evaluation, resource: str) -> None:
        """Raises a LimitError if a choice, the best there is, takes more of a resource than there may be."""
        most = self.budget if resource == "bytes" else self.resources[resource]
        taken = evaluation.file_bytes if resource == "bytes" else evaluation.measured.get(resource, 0.0)
        if taken <= most:
            return
        show = format_count if resource == "instructions" else format_bytes
        limit = f"a file of {format_bytes(most)}" if resource == "bytes" else f"{show(most)} of {resource}"
        self.container = evaluation.file_bytes - self._size(choice)
        raise LimitError(
            f"no plan is within {limit}: the nearest takes {show(taken)} "
            f"and loses {evaluation.drop_points:.2f} points on calibration samples",
            f"Allow {round(taken):,} or more. Held back by {self._held_back(choice, resource)}.",
            self._plan(choice),
        )

    def _held_back(self, choice: Choice, resource: str) -> str:
        """The layers that take the most."""
        show = format_count if resource == "instructions" else format_bytes
        amounts = sorted(((self._takes(pick)[resource], pick) for pick in choice.picks), key=lambda pair: -pair[0])
        held = ", ".join(f"{pick.layers[0]} {show(amount)} ({pick.name})" for amount, pick in amounts[:4])
        return held + (f"; the file itself takes {format_bytes(self.container)}" if resource == "bytes" else "")

    # --- plans --------------------------------------------------------------------------------------------

    def _plan(self, choice: Choice, looks: list[Look] | None = None) -> Plan:
        entries = tuple(self._entry(group, pick) for group, pick in zip(self.pool.groups, choice.picks, strict=True))
        if looks is None:
            return self.base.model_copy(update={"entries": entries})
        with progress.stage("explain", "runners-up"):
            entries = tuple(
                entry.model_copy(update={"runner_up": self._runner_up(pick)})
                for entry, pick in zip(entries, choice.picks, strict=True)
            )
        assert self.pool.model.data is not None
        record = Search(
            split=self.pool.model.data.calibration.name,
            samples=self.pool.options.samples,
            candidates=sum(map(len, self.pool.kept)),
            limits=self._limits(),
            container_bytes=self.container + self._size(choice) - sum(pick.bytes for pick in choice.picks),
            looks=looks,
            loss=self.loss_text,
        )
        return self.base.model_copy(update={"entries": entries, "search": record})

    def _entry(self, group: Group, pick: Candidate) -> PlanEntry:
        reason = pick.remark
        if pick.method is None:
            reason = group.reason or "left as it is: the bytes are better spent here than elsewhere"
        return PlanEntry(
            layers=group.layers,
            kind=group.kind,
            method=pick.method,
            settings=pick.settings,
            reason=reason,
            original_bytes=group.bytes,
            predicted_bytes=pick.bytes,
            damage=self._damage_of(pick) if self.pool.damage(pick) is not None else None,
            instructions=round(self.pool.takes(pick)["instructions"]),
        )

    def _runner_up(self, pick: Candidate) -> RunnerUp | None:
        other = self._choose(without=pick)
        if other is None:
            return None
        second = next(p for p in other.picks if p.layers == pick.layers)
        return RunnerUp(
            method=second.method,
            settings=second.settings,
            bytes=second.bytes,
            instructions=round(self.pool.takes(second)["instructions"]),
            damage=self._damage_of(second),
            plan_damage=other.damage,
        )
