"""What the `data()` of a model file returns, made into `Data` and checked before anything long begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BuildError, UsageError
from ..records import Data, Split
from . import metrics
from .metrics import IGNORED

_NAMES = ("train", "calibration", "test")
_REMEDY = "Return {'train': (inputs, targets), 'calibration': …, 'test': …, 'metric': 'top1'}; targets may be None."


def data_of(
    returned: Any, examples: tuple[Tensor, ...], names: tuple[str, ...], source: str, owner: str = "example_inputs()"
) -> Data:
    """`Data` of what a model file's data() gave: splits by name, each inputs, or inputs and targets. Inputs are a
    tensor, a tuple of them, or a dict by the names of the model's arguments.

    Args:
        examples: the model's example inputs; every sample is to be like the samples in them.
        names: of the model's arguments, where example_inputs() gave a dict.
        owner: whose inputs they are, for messages.

    Raises:
        BuildError: what is wrong, in which split, with the number that says so.
    """
    if isinstance(returned, Data):
        splits, metric = {split: getattr(returned, split) for split in _NAMES}, returned.metric
    elif isinstance(returned, Mapping):
        missing = [name for name in _NAMES if name not in returned]
        if missing:
            raise BuildError(f"{source}: data() returns no {' and no '.join(missing)}", _REMEDY)
        splits = {name: _split(name, returned[name], source) for name in _NAMES}
        metric = returned.get("metric")
    else:
        raise BuildError(
            f"{source}: data() returns {type(returned).__name__}, neither edgecomp.Data nor a dict of splits", _REMEDY
        )
    made = {name: checked(split, examples, names, f"{source}: data(), {name}", owner) for name, split in splits.items()}
    return Data(**made, metric=metric)


def judged(data: Data, outputs: Tensor, source: str) -> Data:
    """The data with a metric that fits, named or by default, and targets as it takes them.

    Args:
        outputs: (n, …) the model's first output for some samples.

    Raises:
        BuildError: the metric cannot judge such outputs by such targets, or a label is none of the classes.
    """
    splits = {name: _labelled(getattr(data, name), outputs) for name in _NAMES}
    data = replace(data, **splits)
    try:
        named = None if data.metric is None else metrics.metric_of(data.metric)
        by_split = {
            name: named if named is not None and split.targets is not None else _chosen(data, outputs, split)
            for name, split in splits.items()
        }
    except (BuildError, UsageError) as error:
        raise BuildError(f"{source}: data(), {error}", error.remedy) from error
    for name, split in splits.items():
        if split.targets is not None:
            _fits(by_split[name], outputs, split.targets, f"{source}: data(), {name}")
    return data if data.metric is not None else replace(data, metric=by_split["test"].name)


def _chosen(data: Data, outputs: Tensor, split: Split) -> metrics.Metric:
    return metrics.chosen(data, outputs, None if split.targets is None else split.targets[: len(outputs)])


# --- inputs -----------------------------------------------------------------------------------------------


def _split(name: str, given: Any, source: str) -> Split:
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return Split(name, *given)
    if isinstance(given, (Tensor, np.ndarray, Mapping)):
        return Split(name, given)
    what = f"{len(given)} things" if isinstance(given, (tuple, list)) else type(given).__name__
    raise BuildError(f"{source}: data(), {name}: {what}, where (inputs, targets) is expected", _REMEDY)


def checked(split: Split, examples: tuple[Tensor, ...], names: tuple[str, ...], where: str, owner: str) -> Split:
    """The split with its inputs as a tuple in the order of `names`, where it names them; see `data_of`."""
    if split.names and set(split.names) != set(names):
        raise BuildError(
            f"{where}: inputs are named {', '.join(split.names)}, those of {owner} {', '.join(names) or 'are not'}"
        )
    inputs = split.inputs
    if split.names:
        inputs = tuple(inputs[split.names.index(name)] for name in names)
    if len(inputs) != len(examples):
        raise BuildError(
            f"{where}: {len(inputs)} inputs, {owner} has {len(examples)}",
            "Several inputs are a tuple beside their targets: ((ids, mask), targets).",
        )
    titles = names or tuple(f"input {i + 1}" for i in range(len(inputs)))
    taken = [_input(x, e, f"{where}, {title}", owner) for x, e, title in zip(inputs, examples, titles, strict=True)]
    targets = None if split.targets is None else _tensor(split.targets, f"{where}, targets")
    lengths = {title: len(x) for title, x in zip(titles, taken, strict=True)}
    if targets is not None:
        lengths["targets"] = len(targets) if targets.dim() else -1
        _require_finite(targets, f"{where}, targets")
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} of {title}" for title, count in lengths.items())
        raise BuildError(f"{where}: not one of each for every sample: {counted}")
    if 0 in lengths.values():
        raise BuildError(f"{where}: has no samples", "Give every split at least one.")
    return replace(split, inputs=tuple(taken), targets=targets, names=())


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise BuildError(f"{where}: is {type(value).__name__}, not a tensor")
    return value.detach().cpu()


def _input(given: Any, example: Tensor, where: str, owner: str) -> Tensor:
    x = _tensor(given, where)
    if x.dim() == 0 or x.shape[1:] != example.shape[1:]:
        raise BuildError(
            f"{where}: samples have shape {tuple(x.shape[1:])}, that of {owner} {tuple(example.shape[1:])}",
            "Inputs are (N, …), N samples of what the exported file is to take.",
        )
    if x.dtype != example.dtype:
        floats = x.is_floating_point(), example.is_floating_point()
        same_kind = floats[0] == floats[1] and torch.bool not in (x.dtype, example.dtype)
        converted = x.to(example.dtype) if same_kind else x
        if not same_kind or not (floats[0] or torch.equal(converted.to(x.dtype), x)):
            raise BuildError(f"{where}: is {x.dtype}, {owner} has {example.dtype}", "Convert it as the app will.")
        x = converted
    if not example.is_floating_point() or example.isfinite().all():
        _require_finite(x, where)
    return x


def _require_finite(x: Tensor, where: str) -> None:
    if not x.is_floating_point() or x.isfinite().all():
        return
    bad = ~x.isfinite().reshape(len(x), -1).all(1)
    raise BuildError(f"{where}: {int(bad.sum())} of {len(x)} samples hold NaN or infinite values, first {_first(bad)}")


def _first(bad: Tensor) -> str:
    return f"sample {int(bad.nonzero()[0, 0])}"


# --- targets ----------------------------------------------------------------------------------------------


def _labelled(split: Split, outputs: Tensor) -> Split:
    """Labels as int64, one for each sample as (N,)."""
    targets = split.targets
    if targets is None or targets.is_floating_point():
        return split
    targets = targets.long()
    if targets.dim() == 2 and targets.shape[1] == 1 and outputs.dim() == 2 and outputs.shape[1] > 1:
        targets = targets[:, 0]
    return replace(split, targets=targets)


def _fits(metric: metrics.Metric, outputs: Tensor, targets: Tensor, where: str) -> None:
    reason = metric.check(outputs, targets)
    if reason:
        raise BuildError(
            f"{where}: {metric.name} cannot judge this: {reason}",
            f"Name another metric, {', '.join(metrics.METRICS)}, or a function (outputs, targets) → number.",
        )
    if not metric.classes or metric.name == "agreement":  # which looks at no targets
        return
    classes = outputs.shape[metrics.class_axis(outputs, targets) or 1]
    bad = ((targets < 0) | (targets >= classes)) & (targets != IGNORED)
    if metric.right:
        bad |= targets == IGNORED
    if bad.any():
        raise BuildError(
            f"{where}: {int(bad.sum())} labels are none of the {classes} classes of the model's first output "
            f"(0 to {classes - 1}), first {int(targets[bad][0])} at {_first(bad)}",
            "" if metric.right else f"Use {IGNORED} for places that do not count.",
        )
