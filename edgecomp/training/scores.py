"""What a net's outputs are worth beside the original's: scores, what is lost, and how sure that is."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..records import Accuracy, Data, Evidence, Split
from ..util import statistics
from .metrics import Metric, answers_agree, chosen, class_axis, original_as_targets


def score(data: Data, outputs: Tensor) -> float:
    """The model's metric on the test split."""
    assert data.test.targets is not None
    return chosen(data, outputs, data.test.targets).score(outputs, data.test.targets)


def compare_answers(
    data: Data, original: Tensor, compressed: Tensor, evidence: Evidence, split: Split | None = None
) -> Accuracy:
    """Scores of both nets from their first outputs (N, …) on the first samples of a split, that for tests unless told,
    as many as there are outputs. Where the split has no targets, the original's outputs are."""
    split, count = split or data.test, len(original)
    targets = None if split.targets is None else split.targets[:count]
    metric = chosen(data, original, targets)
    if targets is None or metric.name == "agreement":
        targets = original_as_targets(metric, original)
    before, after = metric.score(original, targets), metric.score(compressed, targets)
    interval, method = _interval(metric, original, compressed, targets)
    agreement = None
    if metric.classes or metric.function is not None:
        agreement = answers_agree(original, compressed, class_axis(original, targets))
    return Accuracy(
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        split=split.name,
        samples=count,
        original=_rounded(before, metric),
        compressed=_rounded(after, metric),
        drop_points=_rounded(metric.drop(before, after), metric),
        agreement=agreement if agreement is None else round(agreement, 4),
        interval=interval,
        interval_method=method,
        evidence=evidence,
    )


def _interval(
    metric: Metric, original: Tensor, compressed: Tensor, targets: Tensor
) -> tuple[tuple[float, float] | None, str]:
    """95 % of the drop, and how it was found; none where it cannot be."""
    if metric.parts is None:

        def drop(which: np.ndarray) -> float:
            return metric.drop(*(metric.score(outputs[which], targets[which]) for outputs in (original, compressed)))

        count = len(targets)
    else:
        parts = [metric.parts(outputs, targets) for outputs in (original, compressed)]
        if metric.classes and all(p.shape[1] == 1 and bool(((p == 0) | (p == 1)).all()) for p in parts):
            rights = [p[:, 0].bool().numpy() for p in parts]
            return statistics.drop_of_rights(*rights), "95 %, Newcombe's for paired proportions"

        def drop(which: np.ndarray) -> float:
            return metric.drop(*(metric.whole(p[which].mean(0)) for p in parts))

        count = len(parts[0])
    bounds = statistics.drop_of_scores(drop, count)
    if not np.isfinite(bounds).all():
        return None, ""
    return (_rounded(bounds[0], metric), _rounded(bounds[1], metric)), "95 %, paired bootstrap"


def _rounded(value: float, metric: Metric) -> float:
    return round(value, 4) if metric.unit == "%" else float(f"{value:.6g}")
