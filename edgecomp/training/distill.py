"""Training with the original net as teacher; see `edgecomp.recover`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..engines import Engine
from ..graph.given import Outputs, as_tuple
from ..layers.layout import channels_last
from ..records import Model, Split
from ..util import progress
from .loop import Training, chosen, finish, one_cycle, say_kept, show_start
from .outputs import OutputLoss, output_loss, predict_all
from .trainable import LearnedCodes, TrainableCodes, free_parameters, trainable

_TITLE = "recovering"
_BATCH = 256
_DIVERGED = 4  # times the loss at the start
_LEAST_LOSS = 0.1  # below it nothing has diverged
_ATTEMPTS = 4
_REMEMBERED = 1 << 26  # numbers of the teacher's, so that later epochs need not ask it again
CHECK_SAMPLES = 4096


def train_net(
    model: Model,
    net: nn.Module,
    epochs: float,
    seed: int,
    kept: Path,
    engine: Engine | None = None,
    codes: bool = True,
) -> tuple[nn.Module, str]:
    """The recovered net, or the given one if training did not help; and what to say about it.

    Args:
        model: the original, whose training split is used, and its calibration split to judge by.
        net: compressed. kept: file for what an interrupted run goes on from. codes: they are learned, too.
    """
    assert model.data is not None
    check = model.data.calibration.first(CHECK_SAMPLES)
    wanted = predict_all(model.net, check.inputs)
    loss = output_loss(model.data, wanted, check)
    task = Task(model.net, net, model.data.train, epochs, seed, loss, codes)
    before = loss(predict_all(trainable(net), check.inputs), wanted).item()
    run = _trained_by_ray(task, kept, engine) if engine is not None and engine.name == "ray" else _trained(task, kept)
    if run.attempts == _ATTEMPTS:
        return net, f"recovery diverged {_ATTEMPTS} times, last after step {run.step}, and was undone"
    result = run.result()
    after = loss(predict_all(trainable(result), check.inputs), wanted).item()
    what = "distance" if loss.axis is None else "divergence"
    text = f"{what} from the original {before:.4f} → {after:.4f} on {len(check):,} samples of {check.name}"
    if run.attempts:
        text += f"; it diverged {run.attempts} times, went back, and on at half the rate"
    return (result, text) if after < before else (net, f"recovery was undone: {text}")


@dataclass(frozen=True)
class Task:
    """What a run begins with: the original, the compressed net, what it is trained on and for how many epochs.

    Attributes:
        codes: they are learned, too.
    """

    teacher: nn.Module
    net: nn.Module
    split: Split
    epochs: float
    seed: int
    loss: OutputLoss
    codes: bool = False


def _trained(task: Task, kept: Path) -> Distillation:
    """A run gone to its end in this process."""
    run = Distillation(task, kept)
    finish(run, _TITLE, task.loss.name)
    return run


def _trained_by_ray(task: Task, kept: Path, engine: Engine) -> Distillation:
    """The same by the workers of Ray Train, in which the last digits depend on how many there are."""
    from ..engines import ray_train

    run = Distillation(task, kept)
    with progress.bar(_TITLE, run.total) as advance:
        before = show_start(run, advance)

        def told(step: int, loss: float) -> None:
            nonlocal before
            if step:
                advance(step - before, text=f"{task.loss.name} {loss:.4f}")
                before = step

        try:
            ray_train.train(_worker, task, kept, engine.workers, told)
        except KeyboardInterrupt:
            say_kept(Distillation(task, kept), _TITLE)
            raise
    return Distillation(task, kept)


def _worker(task: Task, kept: Path, peers: Peers) -> None:
    """What each of Ray Train's workers does."""
    run = Distillation(task, kept, peers)
    for loss in run.steps():
        peers.tell(run.step, loss)


class Peers(Protocol):
    """The processes that share a run's batches. rank, size: which of them this is, of how many."""

    rank: int
    size: int

    def add(self, tensors: list[Tensor]) -> None:
        """Makes each the sum of those of all peers, in place."""

    def tell(self, step: int, loss: float) -> None:
        """How far this is."""

    def keep(self, path: Path) -> None:
        """Takes a copy of what was saved."""


class Distillation(Training):
    """The state of one recovery: the student, Adam's moments, and the step, which determines all else."""

    def __init__(self, task: Task, kept: Path, peers: Peers | None = None) -> None:
        self.split, self.seed, self.peers, self.loss = task.split, task.seed, peers, task.loss
        self.teacher, self.student = copy.deepcopy(task.teacher), trainable(task.net, task.codes)
        self.limit, self.attempts = math.inf, 0
        for part in (self.teacher, self.student):  # convolutions are faster so
            channels_last(part)
        self.known: Tensor | None = None  # (samples,) bool: of which the teacher's answers are remembered
        self.answers: Outputs = ()
        super().__init__(task.net, max(1, round(task.epochs * max(1, len(task.split) // _BATCH))), kept)
        self.parameters: dict[str, nn.Parameter] = {}
        for parameter in self.student.parameters():
            parameter.requires_grad_(False)
        groups = []
        before = {name: parameter.shape for name, parameter in task.teacher.named_parameters()}
        whole = any(
            before.get(name, parameter.shape) != parameter.shape for name, parameter in task.net.named_parameters()
        )
        for name, parameter, rate in free_parameters(self.student, whole):
            self.parameters[name] = parameter.requires_grad_(True)
            peak = rate * parameter.detach().square().mean().sqrt().clamp(min=1e-3).item()
            groups.append({"params": [parameter], "lr": peak, "peak": peak})
        self.optimizer = torch.optim.Adam(groups)
        if not self.resume():
            self.save()

    def steps(self) -> Iterator[float]:
        """Goes on to the end, from what was saved wherever it diverges, and saves now and then; the loss of every step.

        If it diverged too often `attempts` is _ATTEMPTS at the end.
        """
        while self.step < self.total and self.attempts < _ATTEMPTS:
            loss = self.advance()
            if not loss <= self.limit:
                self.go_back()
            elif self.step % self.every == 0 or self.step == self.total:
                self.save()
            yield loss

    def advance(self) -> float:
        """One step of Adam; returns the loss of its batch."""
        batch = chosen(len(self.split), _BATCH, self.seed, self.step)
        mine = batch[self.peers.rank :: self.peers.size] if self.peers else batch
        loss = self.loss(self.student(*self.split.take(mine)), self._wanted(mine)) * (len(mine) / len(batch))
        self.optimizer.zero_grad()
        loss.backward()
        loss = loss.detach()
        if self.peers:
            self.peers.add([loss, *(p.grad for p in self.parameters.values() if p.grad is not None)])
        if self.step == 0:
            self.limit = _DIVERGED * max(loss.item(), _LEAST_LOSS)
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * one_cycle(self.step / self.total) / 2**self.attempts
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def go_back(self) -> None:
        """Returns to what was saved last, to go on at half the rate."""
        attempts, limit = self.attempts + 1, self.limit
        progress.note(f"the loss left all bounds at step {self.step}: back to what was saved, at half the rate")
        self.resume()
        self.attempts, self.limit = attempts, limit
        self.save()

    @torch.no_grad()
    def _wanted(self, chosen: Tensor) -> Outputs:
        """The teacher's outputs, remembered where that does not take much memory."""
        if self.known is None:
            samples, example = len(self.split), as_tuple(self.teacher(*self.split.take(0)))
            fits = samples * sum(y.numel() for y in example) <= _REMEMBERED
            self.known = torch.zeros(samples if fits else 0, dtype=torch.bool)
            self.answers = tuple(torch.empty((len(self.known), *y.shape[1:]), dtype=y.dtype) for y in example)
        if not len(self.known):
            return as_tuple(self.teacher(*self.split.take(chosen)))
        if not self.known[chosen].all():
            for kept, new in zip(self.answers, as_tuple(self.teacher(*self.split.take(chosen))), strict=True):
                kept[chosen] = new
            self.known[chosen] = True
        return tuple(kept[chosen] for kept in self.answers)

    def result(self) -> nn.Module:
        """The codebook net with what was learned."""
        net = copy.deepcopy(self.net)
        for name, module in self.student.named_modules():
            if isinstance(module, TrainableCodes):
                module.store_in(net.get_submodule(name))
        own = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if name in own:
                    own[name].copy_(parameter)
        return net

    def learned(self) -> dict[str, nn.Parameter]:
        return self.parameters

    def values(self) -> dict[str, Tensor]:
        codes = {
            f"{name}.index": part.index for name, part in self.student.named_modules() if isinstance(part, LearnedCodes)
        }
        return {name: parameter.data for name, parameter in self.parameters.items()} | codes

    def counters(self) -> dict[str, str]:
        return {**super().counters(), "limit": str(self.limit), "attempts": str(self.attempts)}

    def restore(self, counters: dict[str, str]) -> None:
        super().restore(counters)
        self.limit, self.attempts = float(counters["limit"]), int(counters["attempts"])

    def save(self) -> None:
        super().save()
        if self.peers and self.kept is not None:
            self.peers.keep(self.kept)
