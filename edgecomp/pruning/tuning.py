"""Training of nets that are being pruned: SGD with Nesterov momentum on the labels of the training split, as published;
where they are not labels of classes, with the original as teacher.
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
from ..training.loop import Training, chosen, finish, one_cycle
from ..training.outputs import class_axis, output_loss

BATCH = 128
_MOMENTUM, _DECAY = 0.9, 1e-4
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
    which = chosen(len(split), size, seed, step)
    return tuple(map(laid_out, split.take(which))), None if split.targets is None else split.targets[which]


class Tuning(Training):
    """One run of training.

    Args:
        after: called after each step, with gradients still there.
        extra: parameters outside of the net that learn with it; they are not kept.
    """

    def __init__(
        self,
        net: nn.Module,
        split: Split,
        steps: int,
        rate: float,
        seed: int,
        loss: Loss,
        extra: Iterable[nn.Parameter] = (),
        after: Callable[[], None] | None = None,
        kept: Path | None = None,
    ) -> None:
        super().__init__(net, steps, kept)
        self.split, self.rate, self.seed, self.loss, self.after = split, rate, seed, loss, after
        parameters = [*net.parameters(), *extra]
        self.optimizer = torch.optim.SGD(parameters, rate, _MOMENTUM, weight_decay=_DECAY, nesterov=True)

    def run(self, title: str) -> None:
        """All steps that are left; with `kept`, an interruption loses nothing.

        Raises:
            KeyboardInterrupt: asked for, and the state is kept.
        """
        self.resume()
        self.net.train()
        finish(self, title)
        self.net.eval()

    def advance(self) -> float:
        """One step of SGD; returns the loss of its batch."""
        loss = self.loss(self.net, *batch(self.split, self.seed, self.step))
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * one_cycle(self.step / self.total)
        self.optimizer.step()
        if self.after is not None:
            self.after()
        self.step += 1
        return loss.item()
