"""Training of nets that are being pruned: SGD with Nesterov momentum on the labels of the training split, as published.

Batches follow from (seed, step), so that a run goes on where it stopped to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .. import progress
from ..files import atomic_file
from ..records import Split
from ..train import interruptible, one_cycle

BATCH = 128
_MOMENTUM, _DECAY = 0.9, 1e-4
_SAVE_EVERY = 50

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def label_loss(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(net(inputs), targets)


def steps_of(epochs: float, split: Split) -> int:
    return round(epochs * len(split) / BATCH)


def batch(split: Split, seed: int, step: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """The step-th batch of the training split, in an order that the seed decides."""
    size = min(size, len(split))
    epoch, index = divmod(step, len(split) // size)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    chosen = order[index * size : (index + 1) * size]
    inputs = split.inputs[chosen]
    if inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return inputs, split.targets[chosen]


class Tuning:
    """One run of training. `after` is called after each step, with gradients still there."""

    def __init__(
        self,
        net: nn.Module,
        split: Split,
        steps: int,
        rate: float,
        seed: int,
        loss: Loss = label_loss,
        extra: Iterable[nn.Parameter] = (),
    ) -> None:
        self.net, self.split, self.steps, self.rate, self.seed, self.loss = net, split, steps, rate, seed, loss
        self.step = 0
        parameters = [*net.parameters(), *extra]
        self.optimizer = torch.optim.SGD(parameters, rate, _MOMENTUM, weight_decay=_DECAY, nesterov=True)

    def run(self, title: str, after: Callable[[], None] | None = None, kept: Path | None = None) -> None:
        """All steps that are left; with `kept`, an interruption loses nothing.

        Raises:
            KeyboardInterrupt: asked for, and the state is kept.
        """
        if kept is not None and kept.exists():
            self._resume(kept)
        self.net.train()
        with interruptible() as interrupted, progress.bar(title, self.steps) as advance:
            advance(self.step)
            while self.step < self.steps:
                inputs, targets = batch(self.split, self.seed, self.step)
                loss = self.loss(self.net, inputs, targets)
                self.optimizer.zero_grad()
                loss.backward()
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate * one_cycle(self.step / self.steps)
                self.optimizer.step()
                if after is not None:
                    after()
                self.step += 1
                advance(text=f"loss {loss.item():.3f}")
                stop = interrupted()
                if kept is not None and (stop or self.step % _SAVE_EVERY == 0):
                    self._save(kept)
                if stop:
                    raise KeyboardInterrupt
        self.net.eval()

    def _save(self, path: Path) -> None:
        state = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            state[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        with atomic_file(path) as partial:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial, {"step": str(self.step)})

    def _resume(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.step = int(file.metadata()["step"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.net.load_state_dict({n.removeprefix("net."): t for n, t in state.items() if n.startswith("net.")})
        for name, parameter in self.net.named_parameters():
            momentum = torch.empty_like(parameter).copy_(state[f"momentum.{name}"])
            self.optimizer.state[parameter]["momentum_buffer"] = momentum
        progress.note(f"going on at step {self.step} of {self.steps}")
