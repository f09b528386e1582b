"""A plan built and looked at: the file it gives, and what that file's outputs lose on the calibration split."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import discover
from ..compress import compress, permute_channels
from ..devices import probe
from ..devices.host import run_on_host
from ..layers.stock import without_custom_ops
from ..measure import compare_answers
from ..records import Model, Plan
from ..training.outputs import divergence, flat_output, predict
from ..util import progress
from ..util.workspace import Workspace, stage_key
from .trials import judges

_MORE = 4  # times the samples that judge a candidate judge a plan


@dataclass(frozen=True)
class Looked:
    """file_bytes: of the exported file. damage, drop_points: of its outputs; drop_at_most: the upper end of the drop's
    95 % interval. alone: by the first name of every group, how much less the damage is with that group as it was, all
    others as planned. measured: by resource."""

    file_bytes: int
    damage: float
    drop_points: float
    drop_at_most: float
    alone: dict[str, float]
    measured: dict[str, float]


class Looker:
    """Builds plans and looks at them, each once."""

    def __init__(self, model: Model, samples: int, work: Workspace, resources: list[str], emulated: bool) -> None:
        assert model.data is not None
        self.model, self.samples, self.work, self.resources = model, samples, work, resources
        self.emulated = emulated
        self.judges = judges(model.data.calibration, _MORE * samples)
        self.wanted = flat_output(predict(model.net, self.judges.inputs))

    def look(self, plan: Plan, number: int) -> Looked:
        """What becomes of the plan."""
        name = f"look-{number}"
        key = stage_key("look", plan.model_dump_json(exclude={"search", "budget_bytes"}), self.samples, self.resources)
        with progress.stage("look", f"plan {number}"):
            done = self.work.recall(name, key)
            if done is None:
                done = vars(self._look(plan))
                self.work.record(name, key, [], done)
            else:
                progress.note("cached")
            looked = Looked(**done)
            progress.note(f"{looked.file_bytes:,} bytes, KL {looked.damage:.5f}, drop {looked.drop_points:+.2f} points")
            return looked

    def _look(self, plan: Plan) -> Looked:
        made = compress(self.model, plan, self.work).net
        runtime = discover.runtime(plan.runtime)
        path = self.work.stages / f"look{runtime.SUFFIX}"
        runtime.export(
            without_custom_ops(made, self.model.example_inputs) if plan.stock else made, self.model.example_inputs, path
        )
        outputs = run_on_host(plan.runtime, path, [self.judges.inputs], self.wanted.shape[1], torch.get_num_threads())
        size, sample = path.stat().st_size, self.judges.inputs
        measured: dict[str, float] = {}
        if self.resources:
            found = probe.measured(path, plan.runtime, plan.target, sample, self.emulated)
            measured = {resource: found[resource] for resource in self.resources if resource in found}
        path.unlink()
        assert self.model.data is not None
        accuracy = compare_answers(self.model.data, self.wanted, outputs, "host", self.judges)
        damage = divergence(outputs, self.wanted).item()
        return Looked(size, damage, accuracy.drop_points, accuracy.interval[1], self._alone(plan, made), measured)

    def _alone(self, plan: Plan, made: nn.Module) -> dict[str, float]:
        """What each group's replacement adds to the damage of all others."""
        original = copy.deepcopy(self.model.net)
        permute_channels(original, self.model, plan)
        inputs, wanted = self.judges.inputs[: self.samples], self.wanted[: self.samples]
        whole = self._damage(made, inputs, wanted)
        found = {}
        for entry in (entry for entry in plan.entries if entry.method):
            planned = [made.get_submodule(name) for name in entry.layers]
            for name in entry.layers:
                made.set_submodule(name, original.get_submodule(name))
            found[entry.layers[0]] = whole - self._damage(made, inputs, wanted)
            for name, module in zip(entry.layers, planned, strict=True):
                made.set_submodule(name, module)
        return found

    def _damage(self, net: nn.Module, inputs: Tensor, wanted: Tensor) -> float:
        return divergence(flat_output(predict(net, inputs)), wanted).item()
