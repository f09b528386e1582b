"""What a candidate does when it alone is put into the net: fitted on some samples, judged on others.

`evaluate` is a pure function of a task, which says everything by value, so that it runs in any process. What many
tasks share (the net, what layers before the one in question give, moments of its inputs) is kept by the process that
runs them; tasks of the same layer had better follow each other.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import chain
from ..compress import replace_weights
from ..engines import Engine
from ..fitting import calibration, channel_order
from ..fitting.calibration import CALIBRATION_SAMPLES, ENERGY_SAMPLES, Inputs
from ..graph.given import Outputs, as_tuple
from ..graph.order import channel_producers, execution_order
from ..graph.trace import exported
from ..layers.codebook import Coded
from ..layers.hooks import capture
from ..layers.layout import channels_last, laid_out
from ..layers.matrix import kind_of
from ..layers.quantized import static_parts
from ..load import load
from ..records import Model, Record, Request, Split
from ..training.metrics import metric_of
from ..training.outputs import output_loss
from ..util import progress
from ..util.cache import FITTING, keep, key_of, recall
from ..util.files import cache_folder
from .candidates import Candidate

_CODE = (*FITTING, "auto.trials")
_BATCH = 256
_REMEMBERED = 1 << 29  # numbers that layers gave, 2 GB; what is beyond is computed again


@dataclass(frozen=True)
class Task:
    """One candidate of a model. `request` says where the model is, and the seed; `samples`, how many judge; `whole`,
    whether the net's outputs are asked for, and not only the layer's; `part`: a dense layer is fitted with one in so
    many of its outputs alone, which flatters codes slightly, and takes as much less time."""

    request: Request
    runtime: str
    samples: int
    candidate: Candidate
    whole: bool = True
    part: int = 1


class Trial(Record):
    """error: ‖Y' − Y‖/‖Y‖ of the layer's outputs, inputs rounded as its arithmetic does. damage: of the net's outputs,
    the loss that fits the model (see `training.outputs.OutputLoss`)."""

    error: float
    damage: float | None


@dataclass
class Runner:
    """Where tasks of a model are done: by the workers of an engine, or in this process, one after the other."""

    model: Model
    engine: Engine | None = None
    _shared: Any = field(default=None, init=False)
    _identities: dict[tuple[int, int], str] = field(default_factory=dict, init=False)

    def identity(self, task: Task) -> str:
        """Of what all tasks of the model with that many samples have in common, see `identity`."""
        samples, seed = task.samples, task.request.seed
        if (samples, seed) not in self._identities:
            assert self.model.data is not None
            judging = judges(self.model.data.calibration, samples)
            self._identities[samples, seed] = identity(self.model, judging, seed)
        return self._identities[samples, seed]

    def run(self, tasks: list[Task], done: Callable[[int, Trial], None]) -> None:
        """`done` is called with the index of a task and what came out, as soon as it is known."""
        if self.engine is None:
            for index, task in enumerate(tasks):
                done(index, evaluate(task, self.model))
        elif tasks:
            self._shared = self._shared or self.engine.share(self.model)
            self.engine.run(evaluate, tasks, self._shared, done=lambda index, outcome: done(index, outcome.get()))


def judges(split: Split, samples: int) -> Split:
    """The samples that judge: those behind the ones that codes are fitted to, where there are so many."""
    start = max(0, min(CALIBRATION_SAMPLES, len(split) - samples))
    return split.part(slice(start, start + samples))


def identity(model: Model, judging: Split, seed: int) -> str:
    """A digest of the net, of the samples that candidates are fitted to and judged by, of what judges them, and of the
    code that does all this."""
    assert model.data is not None
    fitting = model.data.calibration.take(slice(max(CALIBRATION_SAMPLES, ENERGY_SAMPLES)))
    metric = model.data.metric and metric_of(model.data.metric).name  # which decides what the loss is
    return key_of(model.sha256, fitting, judging.inputs, judging.targets, metric, seed, code=_CODE)


def trials(runner: Runner, tasks: list[Task]) -> list[Trial]:
    """What each task's candidate does; what was found out before is not again."""
    if not tasks:
        return []
    folder = cache_folder("auto", runner.identity(tasks[0])[:24])
    keys = [_key_of(task, runner.identity(task)) for task in tasks]
    known = [_known(folder, key, task) for key, task in zip(keys, tasks, strict=True)]
    waiting = [number for number, trial in enumerate(known) if trial is None]
    with progress.bar("candidates", len(tasks)) as advance:
        advance(len(tasks) - len(waiting))

        def done(index: int, trial: Trial) -> None:
            number = waiting[index]
            known[number] = trial
            candidate = tasks[number].candidate
            what = candidate.model_dump(include={"layers", "method", "settings"})
            keep(folder, keys[number], {**trial.model_dump(), "candidate": what})
            advance(1, text=f"{candidate.layers[0]}: {candidate.name}")

        runner.run([tasks[number] for number in waiting], done)
    return known  # type: ignore[return-value]


def evaluate(task: Task, model: Model | None = None) -> Trial:
    """Fits the candidate to the inputs of its layer and puts it into the net.

    Args:
        model: the one that the task's request names, if it is there already.
    """
    key = _key(task)
    if key not in _benches:
        _benches.clear()  # one net at a time
        _benches[key] = Bench(model or load(task.request), task.samples, task.request.seed)
    return _benches[key].trial(task)


def forget() -> None:
    """Frees what this process keeps for tasks to come."""
    _benches.clear()


_benches: dict[str, Bench] = {}


def _key(task: Task) -> str:
    return f"{task.request.model} {task.request.quick} {task.request.seed} {task.samples}"


class Bench:
    """The original net, with channels in the order that codes want, and what its layers give."""

    def __init__(self, model: Model, samples: int, seed: int) -> None:
        assert model.data is not None
        split = model.data.calibration
        self.seed, self.fitting = seed, split.take(slice(CALIBRATION_SAMPLES))
        judging = judges(split, samples)
        self.batches = [tuple(map(laid_out, batch)) for batch in judging.batches(_BATCH)]
        self.net = channels_last(copy.deepcopy(model.net))
        program = exported(model.net, model.example_inputs, model.name)
        self.order = execution_order(program)
        channel_order.order_by_energy(self.net, channel_producers(program), split.take(slice(ENERGY_SAMPLES)))
        self.wanted, self.given = self._listen()
        self.loss = output_loss(model.data, self.wanted, judging)
        self._inputs: dict[str, Inputs | None] = {}
        self._at = ""  # the layer that the next two are of
        self._seen: list[Tensor] = []  # what the judging samples give it, and it gives for them
        self._outputs: list[Tensor] = []

    @torch.no_grad()
    def trial(self, task: Task) -> Trial:
        candidate = task.candidate
        name = candidate.layers[0]
        self._go_to(name)
        layer, outputs = _part(self.net.get_submodule(name), task.part), self._outputs
        method = chain.restore(candidate.method, candidate.settings, task.runtime)  # type: ignore[arg-type]
        made = replace_weights(layer, method, self._inputs[name], self.seed)
        if isinstance(made, Coded):
            made = layer  # has the decoded weights now; codes would be decoded for every batch
        if static_parts(made):
            calibration.fix_ranges(self.net, self.net.get_submodule(name), made, self.fitting)
        if task.part > 1:
            outputs = [y[..., :: task.part] for y in outputs]
        off = sum((made(x) - y).square().sum().item() for x, y in zip(self._seen, outputs, strict=True))
        size = sum(y.square().sum().item() for y in outputs)
        damage = self.divergence({name: made for name in candidate.layers}) if task.whole else None
        return Trial(error=(off / max(size, 1e-30)) ** 0.5, damage=damage)

    @torch.no_grad()
    def divergence(self, replacements: dict[str, nn.Module]) -> float:
        """Of the net with other modules in these places."""
        first = min((self.order.index(name) for name in replacements if name in self.order), default=0)
        with _replaced(self.net, {**self._recalled(first), **replacements}):
            return self.loss(self._all_outputs(), self.wanted).item()

    def _all_outputs(self) -> Outputs:
        parts = [as_tuple(self.net(*batch)) for batch in self.batches]
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def _recalled(self, first: int) -> dict[str, nn.Module]:
        """In place of the layers before one: what they gave."""
        return {name: _Recalled(self.given[name]) for name in self.order[:first] if name in self.given}

    def _go_to(self, name: str) -> None:
        if self._at == name:
            return
        self._at, layer = name, self.net.get_submodule(name)
        if name not in self._inputs:
            codable = kind_of(layer) != "embedding" and getattr(layer, "groups", 1) == 1
            while self._inputs and sum(map(_numbers, self._inputs.values())) > _REMEMBERED:
                del self._inputs[next(iter(self._inputs))]
            inputs = calibration.gather(self.net, layer, self.fitting, self.seed) if codable else None
            self._inputs[name] = inputs
        first = self.order.index(name) if name in self.order else 0
        with _replaced(self.net, self._recalled(first)):
            self._seen = [next(calibration.inputs_of(self.net, layer, batch)) for batch in self.batches]
        self._outputs = [layer(x) for x in self._seen]

    @torch.no_grad()
    def _listen(self) -> tuple[Outputs, dict[str, list[Tensor]]]:
        """The net's outputs, and those of layers that are called once, batch by batch."""
        given: dict[str, list[Tensor]] = {}
        layers = [name for name in self.order if kind_of(self.net.get_submodule(name)) != "other"]

        def note(name: str, _: tuple[Tensor, ...], output: Tensor) -> None:
            given.setdefault(name, []).append(output)

        with capture({name: self.net.get_submodule(name) for name in layers}, note):
            outputs = self._all_outputs()
        kept, total = {}, 0
        for name in layers:
            total += sum(output.numel() for output in given[name])
            if total <= _REMEMBERED and len(given[name]) == len(self.batches):
                kept[name] = given[name]
        return outputs, kept


def _numbers(inputs: Inputs | None) -> int:
    """In what is kept of a layer's inputs."""
    return 0 if inputs is None else 5 * inputs.covariance.numel()


def _part(layer: nn.Module, part: int) -> nn.Module:
    """A copy, with one in so many outputs."""
    if part == 1:
        return copy.deepcopy(layer)
    rows = layer.weight[::part]  # type: ignore[index]
    made = nn.Linear(rows.shape[1], rows.shape[0], layer.bias is not None)
    made.weight.data.copy_(rows)
    if layer.bias is not None:
        made.bias.data.copy_(layer.bias[::part])  # type: ignore[index]
    return made


class _Recalled(nn.Module):
    """Gives what a layer gave, batch after batch."""

    def __init__(self, outputs: list[Tensor]) -> None:
        super().__init__()
        self.outputs = iter(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return next(self.outputs)


@contextlib.contextmanager
def _replaced(net: nn.Module, modules: dict[str, nn.Module]) -> Iterator[None]:
    before = {name: net.get_submodule(name) for name in modules}
    try:
        for name, module in modules.items():
            net.set_submodule(name, module)
        yield
    finally:
        for name, module in before.items():
            net.set_submodule(name, module)


def _key_of(task: Task, given: str) -> str:
    """What a task's result is kept under, whether or not the whole net was asked for.

    Args:
        given: see `identity`.
    """
    candidate = task.candidate
    return key_of(given, candidate.layers, candidate.method, candidate.settings, task.runtime, task.part)


def _known(folder: Path, key: str, task: Task) -> Trial | None:
    if task.candidate.method is None:
        return Trial(error=0.0, damage=0.0)
    known = recall(folder, key)
    if known is None or (task.whole and known["damage"] is None):
        return None
    return Trial(error=known["error"], damage=known["damage"])
