"""Defaults are for trained nets, which bear a bit a weight. A net that such codes would ruin gets finer ones, as far as
its budget allows, where no setting decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from .. import discover
from ..chain import names_in
from ..export import proof_inputs
from ..graph.given import distance
from ..plan import AUTO
from ..records import Model, Request, Split
from ..runtimes.litert.file_net import FileNet
from ..training.outputs import predict_all
from ..training.scores import compare_answers
from .budgets import keeps, knob_of, mildest, stated

_SAMPLES = 512
_MOST_DROP = 3.0  # points of a metric in percent, of which chance has less than the original by ten
_CHANCE = 10.0
_MOST_ERROR = 2.0  # percent of the outputs, where no such metric tells what they are worth


def finer(model: Model, request: Request) -> Iterator[Request]:
    """The same request with finer settings of its methods: `FINER` of their configs, one after the other; with a budget
    the finest that keep to it."""
    if request.method == AUTO or (request.recover_epochs and request.budget_bytes is None):
        return
    steps = [replace(request, settings=(*request.settings, *step)) for step in _steps(request)]
    if request.budget_bytes is None:
        yield from steps
    elif kept := next((step for step in reversed(steps) if keeps(model, step)), None):
        yield kept
    elif knob_of(request.method, request.settings) and (turned := mildest(model, request)) is not request:
        yield turned


def _steps(request: Request) -> list[list[str]]:
    """Two lists of settings, where none of them is stated."""
    steps: list[list[str]] = [[], []]
    for name in names_in(request.method):
        for step, text in zip(steps, getattr(discover.method(name).Config, "FINER", ()), strict=False):
            parts = text.split()
            if not stated(request.settings, name, (part.partition("=")[0] for part in parts)):
                step += [f"{name}.{part}" for part in parts]
    return list(filter(None, steps))


@torch.no_grad()
def ruined(model: Model, net: nn.Module) -> str:
    """What compression has done to a net, if that is more than anybody would ship; judged on calibration samples, or
    where there are no data on random inputs."""
    if isinstance(net, FileNet):
        return ""
    batch = getattr(model.net, "batch", None) or _SAMPLES
    inputs, split = _inputs(model, batch)
    before, after = (predict_all(n, inputs, batch) for n in (model.net, net))
    if split is not None and _tells(model, split, before[0]):
        assert model.data is not None
        drop = compare_answers(model.data, before[0], after[0], "host", split).drop_points
        return f"{drop:.2f} points would be lost" if drop > _MOST_DROP else ""
    error = 100 * distance(after, before)
    return "" if error <= _MOST_ERROR else f"outputs would be {error:.3g} % off"


def _inputs(model: Model, batch: int) -> tuple[tuple[Tensor, ...], Split | None]:
    """Samples that fill batches."""
    if model.data is not None and len(model.data.calibration) >= batch:
        split = model.data.calibration
        split = split.first(min(_SAMPLES, len(split)) // batch * batch or batch)
        return split.inputs, split
    return proof_inputs(model)[0], None


def _tells(model: Model, split: Split, outputs: Tensor) -> bool:
    """A metric in percent whose score is no matter of chance."""
    if split.targets is None or split.targets.is_floating_point():
        return False
    assert model.data is not None
    score = compare_answers(model.data, outputs, outputs, "host", split)
    most = split.targets.flatten().mode().values
    chance = 100 * (split.targets == most).double().mean().item()
    return score.unit == "%" and score.original >= chance + _CHANCE
