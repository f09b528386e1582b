"""Discrimination-aware channel pruning (Zhuang et al. 2018, algorithms 1 and 2).

P losses are put on the features of evenly spaced layers: batch norm, ReLU, average pool, linear softmax. Stage by stage
the net is trained with the loss of that stage and its own; then for every layer in it input channels are chosen one
after the other, each time those along which the gradient of the joint loss is largest,

    L(W) = ‖O − Ô(W)‖² / 2Q + λ·L_S(W),

Q numbers in the layer's outputs O, and W of the chosen channels takes a few steps of SGD on L. In the last stage, and
where there are no labels of classes, L_S is the net's own loss. Where several layers take in the channels of a group,
W is all of them.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.hooks import Enough, capture, named
from .groups import Group
from .state import PruningState
from .surgery import InputColumns
from .tuning import Inputs, OwnLoss, Tuning, batch, steps_of
from .widths import Pruned

_BATCH = 64
_JUDGED = 256


class Discriminating(Pruned):
    """Settings of discrimination-aware pruning, beside those of all pruning."""

    choosing: float = Field(0.5, ge=0, description="Epochs of training while channels are chosen, of all stages.")
    losses: int = Field(2, ge=0, description="P: discrimination-aware losses, at evenly spaced layers.")
    weight: float = Field(1.0, ge=0, description="λ: weight of that loss against the error of the features.")
    rounds: int = Field(8, ge=1, description="Steps in which the channels of a layer are chosen, several at once.")
    updates: int = Field(2, ge=1, description="Steps of SGD after each of them.")


class Head(nn.Module):
    """(N, C, …) features → (N, classes) logits."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm, self.dense = nn.BatchNorm1d(channels), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2) if x.dim() > 2 else x[:, :, None]
        return self.dense(self.norm(x).relu().mean(2))


@dataclass
class Stage:
    """Groups, and the loss for them: `head` on what `place` is called with; without them the net's `own`."""

    groups: list[Group]
    own: OwnLoss
    place: str = ""
    head: Head | None = None

    def loss(self, net: nn.Module, inputs: Inputs, targets: Tensor | None) -> Tensor:
        """What the net is trained with: its own loss and that of the stage."""
        if self.head is None or targets is None:
            return self.own(net, inputs, targets)
        with _caught(net, self.place, stop=False) as features:
            loss = self.own(net, inputs, targets)
        return loss + F.cross_entropy(self.head(features[0]), targets)

    def discrimination(self, net: nn.Module, inputs: Inputs, targets: Tensor | None) -> Tensor:
        """L_S; layers behind those it needs are not run."""
        if self.head is None or targets is None:
            return self.own(net, inputs, targets)
        with _caught(net, self.place) as features:
            self.own.outputs(net, inputs)
        return F.cross_entropy(self.head(features[0]), targets)


def stages(job: PruningState) -> list[list[Group]]:
    """P + 1 runs of as many groups."""
    count = min(job.config.losses + 1, len(job.groups))
    bounds = [round(i * len(job.groups) / count) for i in range(count + 1)]
    return [job.groups[a:b] for a, b in itertools.pairwise(bounds)]


def rank(job: PruningState, groups: list[Group], randomly: bool = False, everything: bool = False) -> None:
    """Trains with the loss of a stage, and chooses the channels of its groups.

    Args:
        randomly: channels are drawn instead of chosen; all else is the same.
        everything: all channels are ranked, and each is scored by how much it lowers the loss.
    """
    assert job.data is not None
    stage, index = _stage(job, groups), stages(job).index(groups)
    steps = steps_of(job.config.choosing / len(stages(job)), job.data.train)
    extra = stage.head.parameters() if stage.head else ()
    seed = job.seed * 1009 + index + 1
    tuning = Tuning(job.net, job.data.train, steps, job.config.rate, seed, stage.loss, extra, after=job.mask)
    tuning.run("training a stage")
    if stage.head:
        stage.head.eval()
    reference = copy.deepcopy(job.net)
    for group in groups:
        greedy = _Greedy(job, group, stage, reference, randomly)
        keep = group.units if everything else job.keeps[group.name]
        order, scores = greedy.run(keep, judge=everything)
        job.choose(group, order, scores)


def _stage(job: PruningState, groups: list[Group]) -> Stage:
    assert job.data is not None
    place, channels = _next_features(job, groups[-1].consumers[-1])
    targets = job.data.train.targets
    classes = job.loss.labels and targets is not None and targets.dim() == 1  # which a head can tell apart
    if not place or groups[-1].name == job.groups[-1].name or not classes:
        return Stage(groups, job.loss)
    torch.manual_seed(job.seed)
    return Stage(groups, job.loss, place, Head(channels, int(targets.max()) + 1))  # type: ignore[union-attr]


def _next_features(job: PruningState, layer: str) -> tuple[str, int]:
    """The first layer that is called with something new after `layer` has run, and its channels: behind a residual
    block that is the block's output. Empty if only the classifier comes."""
    seen: list[Tensor] = []
    following: list[tuple[str, int]] = []
    ran = False

    layers = named(job.net, nn.Conv2d, nn.Linear)

    def see(name: str, arguments: tuple[Tensor, ...]) -> None:
        nonlocal ran
        x = arguments[0]
        known = any(x is other for other in seen)
        if ran and not known and not following:
            following.append((name, x.shape[1]) if isinstance(layers[name], nn.Conv2d) else ("", 0))
        seen.append(x)
        ran = ran or name == layer

    with torch.no_grad(), capture(layers, see, before=True):
        job.loss.outputs(job.net, job.some(1))
    return following[0] if following else ("", 0)


class _Greedy:
    """Algorithm 2 for one group."""

    def __init__(self, job: PruningState, group: Group, stage: Stage, reference: nn.Module, randomly: bool) -> None:
        self.job, self.group, self.stage, self.reference = job, group, stage, reference
        self.parts = group.side("in")
        self.layers = [job.net.get_submodule(part.layer) for part in self.parts]
        self.before = [layer.weight.detach().clone() for layer in self.layers]
        self.places = [
            [InputColumns(layer, part, torch.tensor([unit])).index for unit in range(group.units)]
            for layer, part in zip(self.layers, self.parts, strict=True)
        ]
        self.drawn = torch.randperm(group.units, generator=job.generator(group)) if randomly else None
        self.step = 0

    def run(self, keep: int, judge: bool) -> tuple[Tensor, Tensor]:
        """The units chosen (keep,), and how much of the first loss each of them takes away; zeros if not judged."""
        job, chosen = self.job, []
        scores: list[float] = []
        wanted = [parameter.requires_grad for parameter in job.net.parameters()]
        job.net.requires_grad_(False).eval()
        for layer in self.layers:
            layer.weight.requires_grad_(True)
        everything = torch.arange(self.group.units)
        for layer, part in zip(self.layers, self.parts, strict=True):
            InputColumns(layer, part, everything).zero()
        first = loss = self._judged() if judge else 0.0
        while len(chosen) < keep:
            count = min(-(-keep // job.config.rounds), keep - len(chosen))
            chosen += self._best(chosen, count)
            for _ in range(job.config.updates):
                self._descend(chosen)
            before, loss = loss, self._judged() if judge else 0.0
            scores += [max(0.0, before - loss) / max(first, 1e-12) / count] * count
        for parameter, value in zip(job.net.parameters(), wanted, strict=True):
            parameter.requires_grad_(value)
        return torch.tensor(chosen), torch.tensor(scores).cummin(0).values

    def _best(self, chosen: list[int], count: int) -> list[int]:
        """The units not chosen yet along which the gradient is largest; they get the weights they had."""
        free = [unit for unit in range(self.group.units) if unit not in set(chosen)]
        if self.drawn is not None:
            best = [unit for unit in self.drawn.tolist() if unit in set(free)][:count]
        else:
            gradients = self._gradients()
            norms = torch.zeros(self.group.units)
            for gradient, places in zip(gradients, self.places, strict=True):
                by_column = gradient.transpose(0, 1).flatten(1).square().sum(1)
                norms += torch.stack([by_column[index].sum() for index in places])
            best = sorted(free, key=lambda unit: -norms[unit].item())[:count]
        for layer, part, before in zip(self.layers, self.parts, self.before, strict=True):
            InputColumns(layer, part, torch.tensor(best)).copy_from(before)
        return best

    def _descend(self, chosen: list[int]) -> None:
        """One step of SGD for the weights of chosen units."""
        gradients = self._gradients()
        with torch.no_grad():
            for layer, gradient, places in zip(self.layers, gradients, self.places, strict=True):
                index = torch.cat([places[unit] for unit in chosen]).unique()
                layer.weight[:, index] -= self.job.config.rate * gradient[:, index]

    def _gradients(self) -> tuple[Tensor, ...]:
        assert self.job.data is not None
        inputs, targets = batch(self.job.data.train, self.job.seed, self.step, _BATCH)
        self.step += 1
        return torch.autograd.grad(self._loss(inputs, targets), [layer.weight for layer in self.layers])

    def _judged(self) -> float:
        assert self.job.data is not None
        with torch.no_grad():
            return self._loss(*batch(self.job.data.train, self.job.seed + 1, 0, _JUDGED)).item()

    def _loss(self, inputs: Inputs, targets: Tensor | None) -> Tensor:
        names = [part.layer for part in self.parts]
        with torch.no_grad(), _outputs_of(self.reference, names) as wanted:
            self.job.loss.outputs(self.reference, inputs)
        with _outputs_of(self.job.net, names, stop=False) as got:
            loss = self.job.config.weight * self.stage.discrimination(self.job.net, inputs, targets)
        for name in names:
            if name in got:
                loss = loss + (got[name] - wanted[name]).square().mean() / 2
        return loss


@contextlib.contextmanager
def _caught(net: nn.Module, place: str, stop: bool = True) -> Iterator[list[Tensor]]:
    """What a layer is called with; the pass ends there if told."""
    given: list[Tensor] = []

    def see(_: str, arguments: tuple[Tensor, ...]) -> None:
        given.append(arguments[0])
        if stop:
            raise Enough

    with capture({place: net.get_submodule(place)}, see, before=True):
        yield given


@contextlib.contextmanager
def _outputs_of(net: nn.Module, names: list[str], stop: bool = True) -> Iterator[dict[str, Tensor]]:
    """What layers give out; the pass ends with the last of them if told."""
    outputs: dict[str, Tensor] = {}

    modules = {name: net.get_submodule(name) for name in names}

    def see(name: str, _: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[name] = output
        if stop and len(outputs) == len(modules):
            raise Enough

    with capture(modules, see):
        yield outputs
