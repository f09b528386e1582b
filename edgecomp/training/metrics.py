"""Metrics by name: what the outputs of a net are worth.

A metric sees the first output of a net, (N, …) for N samples, and their targets. Most are means over samples of what
each one contributes, so that a bootstrap only has to draw from these contributions; `auc` and functions of the user's
are computed anew for every draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BuildError, unknown
from ..records import Data

IGNORED = -100  # a target that does not count, as of torch's cross entropy
_QUERIES = 1000  # the first samples, whose retrieval `mAP` looks at
_AT_ONCE = 1 << 24  # numbers of outputs

Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Metric:
    """One way to judge outputs.

    Attributes:
        unit: "%" for shares, which are 0–100; else its own, or none.
        classes: the outputs are scores of classes.
        check: why outputs and targets of these shapes cannot be judged so; empty if they can.
        parts: what each sample contributes, (N, k) fp64; `whole` makes the score of their means (k,). Without them
            `score` is all there is.
        right: contributions are 0 or 1, and the score is their share.
    """

    name: str
    unit: str = "%"
    higher_is_better: bool = True
    classes: bool = False
    check: Callable[[Tensor, Tensor], str] = lambda outputs, targets: ""
    parts: Callable[[Tensor, Tensor], Tensor] | None = None
    whole: Callable[[Tensor], float] = lambda means: 100 * means[0].item()
    right: bool = False
    function: Score | None = None

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Of N samples: outputs (N, …), targets (N, …)."""
        if self.parts is None:
            assert self.function is not None
            return float(self.function(outputs, targets))
        return self.whole(self.parts(outputs, targets).mean(0))

    def drop(self, before: float, after: float) -> float:
        """How much worse it has become, in its unit; percent in points."""
        return before - after if self.higher_is_better else after - before


def metric_of(metric: str | Callable[..., float] | Metric) -> Metric:
    """The metric of a name, or of a function: what it is called, its unit (attribute `unit`, none unless said) and
    direction (attribute `higher_is_better`, True unless said) are the function's own.

    Raises:
        UsageError: no metric has that name.
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        function = getattr(metric, "func", metric)  # of a partial
        return Metric(
            name=getattr(function, "__name__", type(function).__name__),
            unit=str(getattr(metric, "unit", "")),
            higher_is_better=bool(getattr(metric, "higher_is_better", True)),
            function=metric,
        )
    if metric not in METRICS:
        raise unknown("metric", str(metric), METRICS)
    return METRICS[metric]


def chosen(data: Data, outputs: Tensor, targets: Tensor | None) -> Metric:
    """The metric by which outputs of a split are judged: that of the data, or, where the split has no targets, one that
    compares with the original's outputs, which then are the targets (see `original_as_targets`); any function does."""
    if targets is None:
        named = None if data.metric is None else metric_of(data.metric)
        compares = named is not None and (callable(data.metric) or named.name in _OF_ORIGINAL)
        return named if compares else default(outputs, None)
    return default(outputs, targets) if data.metric is None else metric_of(data.metric)


def original_as_targets(metric: Metric, outputs: Tensor) -> Tensor:
    """Targets for samples that have none: what the original gives."""
    return labels(outputs) if metric.classes else outputs


def default(outputs: Tensor, targets: Tensor | None) -> Metric:
    """The metric that fits where none was named.

    Raises:
        BuildError: none does for sure.
    """
    if targets is None:
        return METRICS["agreement" if outputs.dim() > 1 and outputs.shape[1] > 1 else "mse"]
    if targets.is_floating_point() and _same_numbers(outputs, targets):
        return METRICS["mse"]
    if not targets.is_floating_point() and not _classes(outputs, targets):
        return METRICS["top1" if targets.dim() == 1 else "accuracy"]
    raise BuildError(
        f"no metric is named, and none is plain for targets {_shape(targets)} {targets.dtype} beside outputs "
        f"{_shape(outputs)}",
        f"Name one beside the splits, 'metric': {', '.join(METRICS)}, or a function (outputs, targets) → number.",
    )


def labels(outputs: Tensor, axis: int | None = None) -> Tensor:
    """The class with the highest score at every place: (N, C, …) → (N, …). Where nothing tells the `axis` of the
    classes, it is the last one of (N, T, C), as nets for text have it."""
    if outputs.dim() < 2:
        return outputs
    return outputs.argmax(axis or (-1 if outputs.dim() == 3 else 1))


def answers_agree(a: Tensor, b: Tensor, axis: int | None = None) -> float | None:
    """Percent of the answers that are the same; None where outputs hold no choice."""
    if a.dim() < 2 or a[:1].numel() < 2:
        return None
    return 100 * (labels(a, axis) == labels(b, axis)).double().mean().item()


# --- shapes -----------------------------------------------------------------------------------------------


def _shape(x: Tensor) -> str:
    return f"({', '.join(['N', *map(str, x.shape[1:])])}{',' if x.dim() == 1 else ''})"


def _same_numbers(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.shape[1:].numel() == targets.shape[1:].numel()


def _numbers(outputs: Tensor, targets: Tensor) -> str:
    """Targets are to be as many numbers as outputs."""
    return "" if _same_numbers(outputs, targets) else f"it takes targets {_shape(outputs)}, as the outputs are"


def class_axis(outputs: Tensor, targets: Tensor) -> int | None:
    """Which axis of outputs has the classes, of which targets tell one for each place: 1 of (N, C, …), -1 of (N, …, C);
    None if neither can be."""
    if targets.is_floating_point() or outputs.dim() < 2:
        return None
    for axis, places in ((1, outputs.shape[2:]), (-1, outputs.shape[1:-1])):
        if targets.shape[1:] == places and outputs.shape[axis] > 1:
            return axis
    return None


def _classes(outputs: Tensor, targets: Tensor) -> str:
    """Targets are to be the number of the right class at every place."""
    if targets.is_floating_point():
        return f"it takes targets of whole numbers, these are {targets.dtype}"
    if class_axis(outputs, targets) is not None:
        return ""
    shapes = f"{_shape(outputs)} and targets {_shape(targets)}"
    return f"it takes outputs (N, classes, …) and a class for each place, here are {shapes}"


def _one_class(outputs: Tensor, targets: Tensor) -> str:
    if outputs.dim() != 2 or targets.dim() != 1:
        return f"it takes outputs (N, classes) and targets (N,), here are {_shape(outputs)} and {_shape(targets)}"
    return _classes(outputs, targets)


def _five(outputs: Tensor, targets: Tensor) -> str:
    few = outputs.dim() == 2 and outputs.shape[1] < 6
    return f"{outputs.shape[1]} classes are too few for it" if few else _one_class(outputs, targets)


def _by_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs as (N, C, …)."""
    return outputs.movedim(class_axis(outputs, targets) or 1, 1)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).double()


# --- what each sample contributes -------------------------------------------------------------------------


def _in_parts(parts: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The same, for so many samples at a time that copies of large outputs are small."""

    def one_after_the_other(outputs: Tensor, targets: Tensor) -> Tensor:
        size = max(1, _AT_ONCE // max(1, outputs[:1].numel()))
        pairs = zip(outputs.split(size), targets.split(size), strict=True)
        return torch.cat([parts(*pair).double() for pair in pairs])

    return one_after_the_other


@_in_parts
def _top1(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets)[:, None]


@_in_parts
def _top5(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.topk(5, 1).indices == targets[:, None]).any(1, keepdim=True)


@_in_parts
def _places(outputs: Tensor, targets: Tensor) -> Tensor:
    """(right, all) places that count."""
    predicted = _by_class(outputs, targets).argmax(1)
    counts = targets != IGNORED
    return torch.stack([((predicted == targets) & counts).flatten(1).sum(1), counts.flatten(1).sum(1)], 1)


@_in_parts
def _agreeing(outputs: Tensor, targets: Tensor) -> Tensor:
    return (labels(outputs) == targets).reshape(len(outputs), -1).double().mean(1, keepdim=True)


@_in_parts
def _intersections(outputs: Tensor, targets: Tensor) -> Tensor:
    """The places in the intersection, and in the union, of what is found and what is wanted, of every class."""
    outputs = _by_class(outputs, targets)
    classes, counts = outputs.shape[1], targets != IGNORED
    pairs = targets * classes + outputs.argmax(1)
    confusion = torch.stack([torch.bincount(p[c], minlength=classes**2) for p, c in zip(pairs, counts, strict=True)])
    confusion = confusion.unflatten(1, (classes, classes))
    both = confusion.diagonal(dim1=1, dim2=2)
    return torch.cat([both, confusion.sum(1) + confusion.sum(2) - both], 1)


def _mean_of_classes(means: Tensor) -> float:
    """Over the classes that are found or wanted anywhere."""
    both, either = means.chunk(2)
    return 100 * (both / either)[either > 0].mean().item()


@_in_parts
def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (_rows(outputs) - _rows(targets)).square().mean(1, keepdim=True)


@_in_parts
def _absolutes(outputs: Tensor, targets: Tensor) -> Tensor:
    return (_rows(outputs) - _rows(targets)).abs().mean(1, keepdim=True)


@_in_parts
def _cosines(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cosine_similarity(_rows(outputs), _rows(targets))[:, None]


def _noise(outputs: Tensor, targets: Tensor) -> Tensor:
    """10 log10(range² / mse) of each sample; the range is 1 or 255 for images of such values, else the targets' own."""
    low, high = targets.min().item(), targets.max().item()
    span = next((span for span in (1.0, 255.0) if low >= 0 and high <= span), high - low)
    return 20 * math.log10(max(span, 1e-30)) - 10 * _squares(outputs, targets).clamp(min=1e-30).log10()


@_in_parts
def _likelihoods(outputs: Tensor, targets: Tensor) -> Tensor:
    """(−log p of the right classes, how many places count)."""
    outputs = _by_class(outputs, targets)
    losses = F.cross_entropy(outputs.float(), targets, ignore_index=IGNORED, reduction="none").double()
    return torch.stack(
        [losses.reshape(len(losses), -1).sum(1), (targets != IGNORED).reshape(len(losses), -1).sum(1)], 1
    )


def average_precisions(outputs: Tensor, targets: Tensor, queries: int = _QUERIES) -> Tensor:
    """Of retrieving the samples of the same class by cosine similarity, for each of the first `queries` against all
    others: (queries,) fp64.

    Args:
        outputs: (N, …). targets: (N,) classes.
    """
    features = nn.functional.normalize(outputs.flatten(1).float(), dim=1)
    precisions = []
    for chosen in torch.arange(min(queries, len(features))).split(100):
        similarity = features[chosen] @ features.T
        similarity[torch.arange(len(chosen)), chosen] = -torch.inf
        order = similarity.argsort(1, descending=True)[:, :-1]
        relevant = (targets[order] == targets[chosen][:, None]).double()
        precision = relevant.cumsum(1) / torch.arange(1, relevant.shape[1] + 1)
        precisions.append((precision * relevant).sum(1) / relevant.sum(1).clamp(min=1))
    return torch.cat(precisions)


def _auc(outputs: Tensor, targets: Tensor) -> float:
    """Area under the curve of true against false positives, percent: of one score, of several labels (their mean), or
    of classes, each against all others (their mean)."""
    from sklearn.metrics import roc_auc_score

    scores, wanted = _rows(outputs), targets.reshape(len(targets), -1)
    if scores.shape == wanted.shape:
        both = (wanted.min(0).values != wanted.max(0).values).numpy()  # else there is no curve
        scores, wanted = scores.numpy()[:, both], wanted.numpy()[:, both]
        return 100 * float(roc_auc_score(wanted, scores)) if both.any() else math.nan
    columns = [(wanted[:, 0] == c) for c in range(scores.shape[1])]
    scores = scores.softmax(1)
    areas = [roc_auc_score(c.numpy(), scores[:, i].numpy()) for i, c in enumerate(columns) if 0 < c.sum() < len(c)]
    return 100 * sum(areas) / len(areas) if areas else math.nan


def _ranked(outputs: Tensor, targets: Tensor) -> str:
    if targets.is_floating_point() and not bool(((targets == 0) | (targets == 1)).all()):
        return "it takes targets of 0 and 1, or classes"
    several = outputs.dim() == 2 and outputs.shape[1] > 1 and targets.shape[1:].numel() == 1
    if several and (targets.min() < 0 or targets.max() >= outputs.shape[1]):
        return f"classes are 0 to {outputs.shape[1] - 1}, targets {targets.min().item():g} to {targets.max().item():g}"
    return "" if several or _same_numbers(outputs, targets) else f"it takes a score for each of {_shape(targets)}"


def _retrieved(outputs: Tensor, targets: Tensor) -> str:
    if targets.dim() != 1 or targets.is_floating_point():
        return f"it takes the class of each sample, (N,) whole numbers, these are {_shape(targets)} {targets.dtype}"
    return ""


def _share(means: Tensor) -> float:
    return 100 * (means[0] / means[1]).item()


def _value(means: Tensor) -> float:
    return means[0].item()


def _perplexity(means: Tensor) -> float:
    return math.exp(min(700.0, (means[0] / means[1]).item()))


_LESS = {"unit": "", "higher_is_better": False}
METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", classes=True, check=_one_class, parts=_top1, right=True),
        Metric("top5", classes=True, check=_five, parts=_top5, right=True),
        Metric("accuracy", classes=True, check=_classes, parts=_places, whole=_share),
        Metric("mIoU", classes=True, check=_classes, parts=_intersections, whole=_mean_of_classes),
        Metric("mAP", check=_retrieved, parts=lambda outputs, targets: average_precisions(outputs, targets)[:, None]),
        Metric("mse", **_LESS, check=_numbers, parts=_squares, whole=_value),
        Metric("mae", **_LESS, check=_numbers, parts=_absolutes, whole=_value),
        Metric("psnr", unit="dB", check=_numbers, parts=_noise, whole=_value),
        Metric("cosine", unit="", check=_numbers, parts=_cosines, whole=_value),
        Metric("auc", check=_ranked, function=_auc),
        Metric("perplexity", **_LESS, classes=True, check=_classes, parts=_likelihoods, whole=_perplexity),
        Metric("agreement", classes=True, parts=_agreeing),
    )
}
_OF_ORIGINAL = {"agreement", "mse", "mae", "cosine"}  # what two nets' outputs can be compared by
