"""A plan built and evaluated: the file it gives, and what that file's outputs lose on the calibration split."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import discover
from ..compress import compress, permute_channels
from ..devices import probe
from ..export import file_outputs
from ..graph.batches import records
from ..graph.given import Outputs
from ..graph.trace import batch_of
from ..layers.builtin import without_custom_ops
from ..measure import compare_answers
from ..records import Model, Plan
from ..training.outputs import output_loss, predict_all
from ..util import progress
from ..util.cache import RUNNING
from ..util.workspace import Workspace, stage_key
from .trials import identity, judges

_CODE = (*RUNNING, "auto.evaluation", "auto.trials")
_MORE = 4  # times the samples that judge a candidate judge a plan


@dataclass(frozen=True)
class Evaluation:
    """file_bytes: of the exported file. damage, drop_points: of its outputs; drop_at_most: the upper end of the drop's
    95 % interval. alone: by the first name of every group, how much less the damage is with that group as it was, all
    others as planned. measured: by resource."""

    file_bytes: int
    damage: float
    drop_points: float
    drop_at_most: float
    alone: dict[str, float]
    measured: dict[str, float]


class Evaluator:
    """Builds plans and evaluates them, each once."""

    def __init__(self, model: Model, samples: int, work: Workspace, resources: list[str], emulated: bool) -> None:
        assert model.data is not None
        self.model, self.samples, self.work, self.resources = model, samples, work, resources
        self.emulated = emulated
        self.judges = judges(model.data.calibration, _MORE * samples)
        self.identity = identity(model, self.judges, samples)
        self.wanted = predict_all(model.net, self.judges.inputs)
        self.loss = output_loss(model.data, self.wanted, self.judges)

    def evaluate(self, plan: Plan, number: int) -> Evaluation:
        """What becomes of the plan."""
        name = f"evaluation-{number}"
        what = plan.model_dump_json(exclude={"search", "budget_bytes"})
        key = stage_key("evaluate", what, self.identity, self.resources, code=_CODE)
        with progress.stage("evaluate", f"plan {number}"):
            done = self.work.recall(name, key)
            if done is None:
                done = vars(self._evaluate(plan))
                self.work.record(name, key, [], done)
            else:
                progress.note("cached")
            evaluation = Evaluation(**done)
            text = f"{self.loss.name} {evaluation.damage:.5f}, drop {evaluation.drop_points:+.4g}"
            progress.note(f"{evaluation.file_bytes:,} bytes, {text}")
            return evaluation

    def _evaluate(self, plan: Plan) -> Evaluation:
        made = compress(self.model, plan, self.work).net
        runtime = discover.runtime(plan.runtime)
        path = self.work.stages / f"evaluated{runtime.SUFFIX}"
        runtime.export(
            without_custom_ops(made, self.model.example_inputs) if plan.stock else made, self.model.example_inputs, path
        )
        outputs = file_outputs(self.model, plan.runtime, path, self.judges.inputs, torch.get_num_threads())
        batch = batch_of(self.model.example_inputs)
        size, sample = path.stat().st_size, records(self.judges.take(slice(batch)), batch)[0]
        measured: dict[str, float] = {}
        if self.resources:
            taken = probe.measured(path, plan.runtime, plan.target, sample, self.emulated)
            measured = {resource: taken[resource] for resource in self.resources if resource in taken}
        path.unlink()
        assert self.model.data is not None
        accuracy = compare_answers(self.model.data, self.wanted[0], outputs[0], "host", self.judges)
        damage, drop = self.loss(outputs, self.wanted).item(), accuracy.drop_points
        at_most = accuracy.interval[1] if accuracy.interval else drop
        return Evaluation(size, damage, drop, at_most, self._alone(plan, made), measured)

    def _alone(self, plan: Plan, made: nn.Module) -> dict[str, float]:
        """What each group's replacement adds to the damage of all others."""
        original = copy.deepcopy(self.model.net)
        permute_channels(original, self.model, plan)
        inputs = self.judges.take(slice(self.samples))
        wanted = tuple(y[: self.samples] for y in self.wanted)
        whole = self._damage(made, inputs, wanted)
        added = {}
        for entry in (entry for entry in plan.entries if entry.method):
            planned = [made.get_submodule(name) for name in entry.layers]
            for name in entry.layers:
                made.set_submodule(name, original.get_submodule(name))
            added[entry.layers[0]] = whole - self._damage(made, inputs, wanted)
            for name, module in zip(entry.layers, planned, strict=True):
                made.set_submodule(name, module)
        return added

    def _damage(self, net: nn.Module, inputs: tuple[Tensor, ...], wanted: Outputs) -> float:
        return self.loss(predict_all(net, inputs), wanted).item()
