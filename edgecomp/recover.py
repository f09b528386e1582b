"""Stage 4, recover: trains what codes leave free, with the original net as teacher, and publishes `model.safetensors`.

Codebooks, row scales and all biases learn to give the original's outputs on the training split (METHODS.md §1): the
loss is the Kullback–Leibler divergence of the class probabilities. Codes stay as they are: those that a gradient step
or the layer's own outputs asked for raised the loss in every trial, for they were fitted with all others in view.

Where layers were factorized the whole net learns. Gradients explode easily within the inserted layers (Lebedev et al.
2015, §3.3): they learn more slowly, gradients are clipped, and a run that diverges goes back and on at half the rate.
What does not lower the loss on the calibration split is not kept.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from . import checkpoint, progress
from .errors import UsageError
from .files import atomic_file, sha256_file
from .layers import Factored
from .layers.codebook import CodebookConv2d, CodebookEmbedding, Coded
from .records import Compressed, Model, Plan, Split
from .train import interruptible, one_cycle, predict
from .workspace import Workspace, stage_key

_BATCH = 256
# Rates of Adam, relative to the root mean square of what it moves: codebooks, scales and biases of coded nets; layers
# of factorized nets; layers inserted there.
_RATE, _LAYER_RATE, _INSERTED_RATE = 0.01, 0.003, 0.002
_DIVERGED = 4  # times the loss at the start
_LEAST_LOSS = 0.1  # below it nothing has diverged, in nats
_ATTEMPTS = 4
_SAVE_EVERY = 50
_REMEMBERED = 1 << 26  # numbers of the teacher's, so that later epochs need not ask it again
CHECK_SAMPLES = 4096


def recover(model: Model, plan: Plan, compressed: Compressed, work: Workspace) -> Compressed:
    """Trains for `plan.recover_epochs`; without any it only publishes the checkpoint.

    Raises:
        UsageError: training is asked for, and the model has no data.
    """
    path = work.path("model.safetensors")
    if not plan.recover_epochs:
        with progress.stage("recover", "nothing to train"), atomic_file(path) as partial:
            shutil.copyfile(compressed.checkpoint, partial)
        return compressed
    if model.data is None:
        raise UsageError("--recover trains on the model's data, and it has none", "Give the model file a data().")
    key = stage_key("recover", sha256_file(compressed.checkpoint), plan.recover_epochs, plan.seed)
    with progress.stage("recover", f"{plan.recover_epochs:g} epochs of {model.data.train.name}"):
        done = work.recall("recover", key)
        if done is not None:
            progress.note("cached")
            net = checkpoint.restore(model.net, path)
        else:
            kept = work.stages / f"recover-{key[:16]}.safetensors"
            net, note = train_net(model, compressed.net, plan.recover_epochs, plan.seed, kept)
            checkpoint.save(net, path)
            done = {"note": note}
            work.record("recover", key, [path], done)
            kept.unlink(missing_ok=True)
        progress.note(done["note"])
        return dataclasses.replace(compressed, net=net, checkpoint=path, notes=(*compressed.notes, done["note"]))


def train_net(model: Model, net: nn.Module, epochs: float, seed: int, kept: Path) -> tuple[nn.Module, str]:
    """The recovered net, or the given one if training did not help; and what to say about it.

    Args:
        model: the original, whose training split is used, and its calibration split to judge by.
        net: compressed. kept: file for what an interrupted run goes on from.
    """
    assert model.data is not None
    run = _Run(model.net, net, model.data.train, epochs, seed, kept)
    check = model.data.calibration
    inputs = check.inputs[:CHECK_SAMPLES]
    wanted = predict(model.net, inputs)
    before = divergence(predict(run.student, inputs), wanted).item()
    with interruptible() as interrupted, progress.bar("recovering", run.total) as advance:
        advance(run.step)
        while run.step < run.total:
            loss = run.advance()
            advance(text=f"KL {loss:.4f}")
            if not loss <= run.limit:
                diverged = run.step
                if not run.go_back():
                    return net, f"recovery diverged {_ATTEMPTS} times, last at step {diverged}, and was undone"
                advance(run.step - diverged)
            if interrupted():
                run.save()
                progress.note(f"recovery kept at step {run.step} of {run.total}; the same command goes on from there")
                raise KeyboardInterrupt
            if run.step % _SAVE_EVERY == 0:
                run.save()
    result = run.result()
    after = divergence(predict(_trainable(result), inputs), wanted).item()
    text = f"divergence from the original {before:.4f} → {after:.4f} on {len(inputs):,} samples of {check.name}"
    if run.attempts:
        text += f"; it diverged {run.attempts} times, went back, and on at half the rate"
    return (result, text) if after < before else (net, f"recovery was undone: {text}")


def divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback–Leibler divergence of class probabilities, given as logits."""
    return F.kl_div(outputs.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)


class _Run:
    """The state of one recovery: the student, Adam's moments, and the step, which determines all else."""

    def __init__(self, teacher: nn.Module, net: nn.Module, split: Split, epochs: float, seed: int, kept: Path) -> None:
        self.teacher, self.split, self.kept, self.net, self.step, self.seed = teacher, split, kept, net, 0, seed
        self.student = _trainable(net)
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
        for name, parameter, rate in _free_parameters(self.student, whole):
            self.parameters[name] = parameter.requires_grad_(True)
            peak = rate * parameter.detach().square().mean().sqrt().clamp(min=1e-3).item()
            groups.append({"params": [parameter], "lr": peak, "peak": peak})
        self.optimizer = torch.optim.Adam(groups)
        self._resume() if kept.exists() else self.save()

    def advance(self) -> float:
        """One step of Adam; returns the loss of its batch."""
        epoch, index = divmod(self.step, self.per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        chosen = torch.randperm(len(self.split), generator=generator)[index * _BATCH : (index + 1) * _BATCH]
        inputs = self.split.inputs[chosen]
        loss = divergence(self.student(inputs), self._wanted(chosen, inputs))
        if self.step == 0:
            self.limit = _DIVERGED * max(loss.item(), _LEAST_LOSS)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * one_cycle(self.step / self.total) / 2**self.attempts
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def go_back(self) -> bool:
        """Returns to what was saved last, to go on at half the rate; False if that has been tried often enough."""
        attempts, limit = self.attempts + 1, self.limit
        if attempts == _ATTEMPTS:
            return False
        progress.note(f"the loss left all bounds at step {self.step}: back to what was saved, at half the rate")
        self._resume()
        self.attempts, self.limit = attempts, limit
        self.save()
        return True

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
            if isinstance(module, _TrainableCodes):
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
        progress.note(f"going on at step {self.step} of {self.total}")


def _trainable(net: nn.Module) -> nn.Module:
    """A copy of `net` whose codebook layers are differentiable."""
    net = copy.deepcopy(net).eval()
    twins: dict[int, _TrainableCodes] = {}
    for name, module in list(net.named_modules(remove_duplicate=False)):
        if isinstance(module, Coded):
            net.set_submodule(name, twins.setdefault(id(module), _TrainableCodes(module)))
    return net


def _free_parameters(net: nn.Module, whole: bool = False) -> Iterator[tuple[str, nn.Parameter, float]]:
    """What learns, and its rate: codebooks, scales, every bias and norm; where layers were factorized, or the `whole`
    net was pruned, all weights."""
    inserted = {
        f"{name}.{part}"
        for name, module in net.named_modules()
        if isinstance(module, Factored)
        for part, parameter in module.named_parameters()
        if parameter.dim() > 1 and not part.endswith(".words")
    }
    for name, parameter in net.named_parameters():
        if name in inserted:
            yield name, parameter, _INSERTED_RATE
        elif name.endswith(".words") or (parameter.dim() == 1 and not inserted):
            yield name, parameter, _RATE
        elif inserted or whole:
            yield name, parameter, _LAYER_RATE


class _TrainableCodes(nn.Module):
    """A codebook layer that decodes, with fp32 codebooks that gradients reach."""

    def __init__(self, coded: Coded) -> None:
        super().__init__()
        self.kind, self.format, self.geometry = type(coded), coded.format, getattr(coded, "geometry", None)
        f = coded.format
        codes = coded.unpacked().long()  # (stages, blocks, lanes)
        groups = torch.arange(f.blocks) // -(-f.blocks // f.groups) + f.groups * torch.arange(f.stages)[:, None]
        self.index = (codes + f.k * groups[:, :, None]).transpose(1, 2).contiguous()  # (stages, lanes, blocks)
        self.words = nn.Parameter(coded.codebook.float().transpose(2, 3).reshape(-1, f.s))
        self.scale = None if coded.scale is None else nn.Parameter(coded.scale.clone())
        self.bias = None if coded.bias is None else nn.Parameter(coded.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        f = self.format
        matrix = _Decode.apply(self.words, self.index)
        matrix = matrix[:, : f.columns] if f.axis == 0 else matrix[:, : f.rows].T
        if self.scale is not None:
            matrix = matrix * self.scale[:, None]
        if self.kind is CodebookEmbedding:
            return F.embedding(x, matrix)
        if self.kind is not CodebookConv2d:
            return F.linear(x, matrix, self.bias)
        g = self.geometry
        weight = matrix.reshape(f.rows, *g["kernel"], -1).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, self.bias, g["stride"], g["padding"], g["dilation"])

    def store_in(self, coded: Coded) -> None:
        f = self.format
        with torch.no_grad():
            coded.codebook.copy_(self.words.reshape(f.stages, f.groups, f.k, f.s).transpose(2, 3))
            for name in ("scale", "bias"):
                if getattr(self, name) is not None:
                    getattr(coded, name).copy_(getattr(self, name))


class _Decode(torch.autograd.Function):
    """words (all codewords, s), index (stages, lanes, blocks) → Σ_stages words[index], (lanes, blocks·s)."""

    @staticmethod
    def forward(ctx: Any, words: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = words.shape
        return sum(F.embedding(stage, words).flatten(1) for stage in index)  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        count, s = ctx.size
        columns = gradient.reshape(-1, s).T.contiguous()
        sums = [
            torch.stack([torch.bincount(stage.flatten(), column, count) for column in columns], 1) for stage in index
        ]
        return sum(sums).to(gradient.dtype), None  # type: ignore[union-attr]
