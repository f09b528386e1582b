"""Outputs of nets: computed in batches, flattened, and how far they are from others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..graph.given import Outputs, as_tuple
from ..records import Data, Split
from . import metrics

_SAME = 1e-3  # sums of probabilities


def first_output(outputs: Tensor | Outputs) -> Tensor:
    """What metrics see of the outputs of a net."""
    return as_tuple(outputs)[0]


def flat_output(outputs: Tensor | Outputs) -> Tensor:
    """The first output of a torch module as (N, values)."""
    first = first_output(outputs)
    return first.reshape(len(first), -1)


def predict(net: nn.Module, inputs: Tensor | tuple[Tensor, ...], batch: int = 500) -> Tensor:
    """The first output (N, …) of `net`; see `predict_all`."""
    return predict_all(net, inputs, batch)[0]


def predict_all(net: nn.Module, inputs: Tensor | tuple[Tensor, ...], batch: int = 500) -> Outputs:
    """Outputs of `net` in evaluation mode, on the device the net is on, returned on the CPU.

    Args:
        inputs: one tensor (N, …) for each input; a net with one input may be given it alone.
    """
    given = as_tuple(inputs)
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    training = net.training
    net.eval()
    with torch.inference_mode():
        parts = [
            [y.cpu() for y in as_tuple(net(*(x.to(device) for x in part)))]
            for part in zip(*(x.split(batch) for x in given), strict=True)
        ]
    net.train(training)
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback–Leibler divergence of class probabilities, given as logits (N, C, …), over samples and places."""
    got, reference = outputs.log_softmax(1), wanted.log_softmax(1)
    total = F.kl_div(got, reference, reduction="sum", log_target=True)
    return total / max(1, wanted.numel() // wanted.shape[1])


@dataclass(frozen=True)
class OutputLoss:
    """How far outputs of a net are from the original's: the one loss of recovery, `auto` and pruning.

    Where the first output holds scores of classes, the Kullback–Leibler divergence of their probabilities; else the
    squared distance of all outputs, each in units of its own variance.

    Attributes:
        axis: of the classes in the first output; None where there are none.
        probabilities: it holds probabilities, not logits.
        scales: the variance of each output over samples; None for one that no gradient reaches, such as integers.
    """

    axis: int | None
    probabilities: bool = False
    scales: tuple[float | None, ...] = ()

    @property
    def name(self) -> str:
        return "distance" if self.axis is None else "KL"

    @property
    def text(self) -> str:
        """What it is, for reports."""
        if self.axis is None:
            return "squared distance of the outputs from the original's, in units of their variance"
        return "KL divergence of the class probabilities from the original's, nats"

    def __call__(self, outputs: Tensor | Outputs, wanted: Tensor | Outputs) -> Tensor:
        """A mean over samples. wanted: of the original."""
        if self.axis is not None:
            return divergence(*(self._logits(first_output(x)) for x in (outputs, wanted)))
        parts = [
            _squared(y, w) / scale
            for y, w, scale in zip(as_tuple(outputs), as_tuple(wanted), self.scales, strict=True)
            if scale is not None
        ]
        return torch.stack(parts).mean()

    def _logits(self, x: Tensor) -> Tensor:
        x = x.movedim(self.axis, 1)  # type: ignore[arg-type]
        return x.clamp(min=1e-12).log() if self.probabilities else x


def output_loss(data: Data, outputs: Tensor | Outputs, split: Split | None = None) -> OutputLoss:
    """The loss that fits a model.

    Args:
        outputs: the original's, for the first samples of `split`, the calibration split unless told.
    """
    outputs = as_tuple(outputs)
    first, split = outputs[0], split or data.calibration
    targets = None if split.targets is None else split.targets[: len(first)]
    axis = class_axis(data, first, targets)
    if axis is None:
        return OutputLoss(None, scales=tuple(map(_variance, outputs)))
    sums = first.sum(axis)
    probabilities = bool(first.min() >= 0) and bool(((sums - 1).abs() < _SAME).all())
    return OutputLoss(axis, probabilities)


def class_axis(data: Data, first: Tensor, targets: Tensor | None) -> int | None:
    """Where a first output (N, …) has its classes; None where it has none, or nothing tells that it has."""
    if first.dim() < 2 or not first.is_floating_point():
        return None
    metric = metrics.chosen(data, first, targets)
    if targets is None:
        return 1 if metric.classes and first.dim() == 2 and first.shape[1] > 1 else None
    if not metric.classes and metric.function is None:
        return None
    return metrics.class_axis(first, targets)


def _variance(x: Tensor) -> float | None:
    """Over samples, of what is finite; that about zero where samples hardly differ."""
    if not x.is_floating_point():
        return None
    values = torch.where(x.isfinite(), x, 0).double()
    spread = (values - values.mean(0)).square().mean().item()
    whole = values.square().mean().item()
    return spread if spread > 1e-6 * whole else whole or 1.0


def _squared(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Mean over what is finite."""
    finite = wanted.isfinite()
    if finite.all():
        return (outputs - wanted).square().mean()
    return (outputs[finite] - wanted[finite]).square().mean()
