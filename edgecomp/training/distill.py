"""Training with the original net as teacher; see `edgecomp.recover`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..engines import Engine
from ..records import Model, Split
from ..util import progress
from ..util.files import atomic_file
from .outputs import divergence, predict
from .train import interruptible, one_cycle
from .trainable import TrainableCodes, free_parameters, trainable

_BATCH = 256
_DIVERGED = 4  # times the loss at the start
_LEAST_LOSS = 0.1  # below it nothing has diverged, in nats
_ATTEMPTS = 4
_SAVE_EVERY = 50
_REMEMBERED = 1 << 26  # numbers of the teacher's, so that later epochs need not ask it again
CHECK_SAMPLES = 4096


def train_net(
    model: Model, net: nn.Module, epochs: float, seed: int, kept: Path, engine: Engine | None = None
) -> tuple[nn.Module, str]:
    """The recovered net, or the given one if training did not help; and what to say about it.

    Args:
        model: the original, whose training split is used, and its calibration split to judge by.
        net: compressed. kept: file for what an interrupted run goes on from.
    """
    assert model.data is not None
    task = model.net, net, model.data.train, epochs, seed
    check = model.data.calibration
    inputs = check.inputs[:CHECK_SAMPLES]
    wanted = predict(model.net, inputs)
    before = divergence(predict(trainable(net), inputs), wanted).item()
    run = _trained_by_ray(task, kept, engine) if engine is not None and engine.name == "ray" else _trained(task, kept)
    if run.attempts == _ATTEMPTS:
        return net, f"recovery diverged {_ATTEMPTS} times, last after step {run.step}, and was undone"
    result = run.result()
    after = divergence(predict(trainable(result), inputs), wanted).item()
    text = f"divergence from the original {before:.4f} → {after:.4f} on {len(inputs):,} samples of {check.name}"
    if run.attempts:
        text += f"; it diverged {run.attempts} times, went back, and on at half the rate"
    return (result, text) if after < before else (net, f"recovery was undone: {text}")


_Task = tuple[nn.Module, nn.Module, Split, float, int]  # what a _Run begins with


def _trained(task: _Task, kept: Path) -> _Run:
    """A run gone to its end in this process."""
    run = _Run(*task, kept)
    with interruptible() as interrupted, progress.bar("recovering", run.total) as advance:
        before = _begin(run, advance)
        for loss in run.steps():
            advance(run.step - before, text=f"KL {loss:.4f}")
            before = run.step
            if interrupted():
                run.save()
                _say_kept(run)
                raise KeyboardInterrupt
    return run


def _trained_by_ray(task: _Task, kept: Path, engine: Engine) -> _Run:
    """The same by the workers of Ray Train, in which the last digits depend on how many there are."""
    from ..engines import ray_train

    run = _Run(*task, kept)
    with progress.bar("recovering", run.total) as advance:
        before = _begin(run, advance)

        def told(step: int, loss: float) -> None:
            nonlocal before
            if step:
                advance(step - before, text=f"KL {loss:.4f}")
                before = step

        try:
            ray_train.train(_worker, task, kept, engine.workers, told)
        except KeyboardInterrupt:
            _say_kept(_Run(*task, kept))
            raise
    return _Run(*task, kept)


def _worker(task: _Task, kept: Path, peers: Peers) -> None:
    """What each of Ray Train's workers does."""
    run = _Run(*task, kept, peers)
    for loss in run.steps():
        peers.tell(run.step, loss)


def _begin(run: _Run, advance: Callable[..., None]) -> int:
    """Shows where the run begins."""
    if run.step:
        progress.note(f"going on at step {run.step} of {run.total}")
        advance(run.step)
    return run.step


def _say_kept(run: _Run) -> None:
    progress.note(f"recovery kept at step {run.step} of {run.total}; the same command goes on from there")


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


class _Run:
    """The state of one recovery: the student, Adam's moments, and the step, which determines all else."""

    def __init__(
        self,
        teacher: nn.Module,
        net: nn.Module,
        split: Split,
        epochs: float,
        seed: int,
        kept: Path,
        peers: Peers | None = None,
    ) -> None:
        self.teacher, self.split, self.kept, self.net, self.step, self.seed = teacher, split, kept, net, 0, seed
        self.peers = peers
        self.student = trainable(net)
        self.limit, self.attempts = math.inf, 0
        self.answers: Tensor | None = None
        if split.inputs.dim() == 4:  # convolutions are faster so
            self.teacher = copy.deepcopy(teacher).to(memory_format=torch.channels_last)
            self.student.to(memory_format=torch.channels_last)
        batches = max(1, len(split) // _BATCH)
        self.per_epoch = batches
        self.total = max(1, round(epochs * batches))
        self.parameters: dict[str, nn.Parameter] = {}
        for parameter in self.student.parameters():
            parameter.requires_grad_(False)
        groups = []
        before = {name: parameter.shape for name, parameter in teacher.named_parameters()}
        whole = any(before.get(name, parameter.shape) != parameter.shape for name, parameter in net.named_parameters())
        for name, parameter, rate in free_parameters(self.student, whole):
            self.parameters[name] = parameter.requires_grad_(True)
            peak = rate * parameter.detach().square().mean().sqrt().clamp(min=1e-3).item()
            groups.append({"params": [parameter], "lr": peak, "peak": peak})
        self.optimizer = torch.optim.Adam(groups)
        self._resume() if kept.exists() else self.save()

    def steps(self) -> Iterator[float]:
        """Goes on to the end, from what was saved wherever it diverges, and saves now and then; the loss of every step.

        If it diverged too often `attempts` is _ATTEMPTS at the end.
        """
        while self.step < self.total and self.attempts < _ATTEMPTS:
            loss = self.advance()
            if not loss <= self.limit:
                self.go_back()
            elif self.step % _SAVE_EVERY == 0 or self.step == self.total:
                self.save()
            yield loss

    def advance(self) -> float:
        """One step of Adam; returns the loss of its batch."""
        epoch, index = divmod(self.step, self.per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        chosen = torch.randperm(len(self.split), generator=generator)[index * _BATCH : (index + 1) * _BATCH]
        mine = chosen[self.peers.rank :: self.peers.size] if self.peers else chosen
        inputs = self.split.inputs[mine]
        loss = divergence(self.student(inputs), self._wanted(mine, inputs)) * (len(mine) / len(chosen))
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
        self._resume()
        self.attempts, self.limit = attempts, limit
        self.save()

    @torch.no_grad()
    def _wanted(self, chosen: Tensor, inputs: Tensor) -> Tensor:
        """The teacher's outputs, remembered where that does not take much memory."""
        if self.answers is None:
            outputs = self.teacher(inputs[:1]).shape[1]
            remembered = len(self.split) if len(self.split) * outputs <= _REMEMBERED else 0
            self.answers = torch.full((remembered, outputs), math.nan)
        if len(self.answers) == 0:
            return self.teacher(inputs)
        if self.answers[chosen].isnan().any():
            self.answers[chosen] = self.teacher(inputs)
        return self.answers[chosen]

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

    def save(self) -> None:
        state: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            state[f"value.{name}"] = parameter.detach()
            if self.step:
                moments = self.optimizer.state[parameter]
                state |= {f"first.{name}": moments["exp_avg"], f"second.{name}": moments["exp_avg_sq"]}
        metadata = {key: str(getattr(self, key)) for key in ("step", "limit", "attempts")}
        with atomic_file(self.kept) as partial:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial, metadata)
        if self.peers:
            self.peers.keep(self.kept)

    def _resume(self) -> None:
        with safe_open(self.kept, "pt") as file:
            metadata = file.metadata()
            self.step, self.attempts = int(metadata["step"]), int(metadata["attempts"])
            self.limit = float(metadata["limit"])
            self.optimizer.state.clear()
            for name, parameter in self.parameters.items():
                parameter.data.copy_(file.get_tensor(f"value.{name}"))
                if self.step:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(self.step)),
                        "exp_avg": torch.empty_like(parameter).copy_(file.get_tensor(f"first.{name}")),
                        "exp_avg_sq": torch.empty_like(parameter).copy_(file.get_tensor(f"second.{name}")),
                    }
