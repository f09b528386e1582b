"""Training of nets that are being pruned: SGD with Nesterov momentum on the labels of the training split, as published;
where they are not labels of classes, with the original as teacher.

Batches follow from (seed, step), so that a run goes on where it stopped to the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..graph.given import Given, Outputs
from ..layers.layout import laid_out
from ..records import Model, Split
from ..training.outputs import class_axis, output_loss
from ..training.train import interruptible, load_state, one_cycle, save_state
from ..util import progress

BATCH = 128
_MOMENTUM, _DECAY = 0.9, 1e-4
_SAVE_EVERY = 50
_SEEN = 256  # samples that tell what the outputs are

Inputs = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Inputs, Tensor | None], Tensor]


class OwnLoss:
    """What a pruned net is trained with: the cross entropy of the labels where it tells classes apart, else how far its
    outputs are from the original's.

    Attributes:
        labels: the first; the second is `distance`.
    """

    def __init__(self, model: Model, original: nn.Module) -> None:
        assert model.data is not None
        self._names, self._dtypes = getattr(model.given, "names", ()), getattr(model.given, "dtypes", None)
        self._original, train = original, model.data.train
        with torch.no_grad():
            outputs = self.outputs(original, train.take(slice(_SEEN)))
        targets = None if train.targets is None else train.targets[:_SEEN]
        axis = None if targets is None else class_axis(model.data, outputs[0], targets)
        self.labels, self._axis = axis is not None, axis or 1
        self.distance = output_loss(model.data, outputs, train)

    def outputs(self, net: nn.Module, inputs: Inputs) -> Outputs:
        """All of them, of the original or a net made from it."""
        return Given(net, self._names, self._dtypes)(*inputs)

    def __call__(self, net: nn.Module, inputs: Inputs, targets: Tensor | None) -> Tensor:
        outputs = self.outputs(net, inputs)
        if self.labels:
            assert targets is not None
            return F.cross_entropy(outputs[0].movedim(self._axis, 1), targets)
        with torch.no_grad():
            wanted = self.outputs(self._original, inputs)
        return self.distance(outputs[: len(wanted)], wanted)  # more come in training from heads for that alone


def steps_of(epochs: float, split: Split) -> int:
    return round(epochs * len(split) / BATCH)


def batch(split: Split, seed: int, step: int, size: int = BATCH) -> tuple[Inputs, Tensor | None]:
    """The step-th batch of the training split, in an order that the seed decides."""
    size = min(size, len(split))
    epoch, index = divmod(step, len(split) // size)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    chosen = order[index * size : (index + 1) * size]
    return tuple(map(laid_out, split.take(chosen))), None if split.targets is None else split.targets[chosen]


class Tuning:
    """One run of training. `after` is called after each step, with gradients still there."""

    def __init__(
        self,
        net: nn.Module,
        split: Split,
        steps: int,
        rate: float,
        seed: int,
        loss: Loss,
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
            self.step = load_state(kept, self.net, self.optimizer)
            progress.note(f"going on at step {self.step} of {self.steps}")
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
                    save_state(kept, self.net, self.optimizer, self.step)
                if stop:
                    raise KeyboardInterrupt
        self.net.eval()
