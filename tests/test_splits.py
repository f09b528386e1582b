"""Data are checked before anything long begins: what is wrong names the split and the number."""

import numpy as np
import pytest
import torch

from edgecomp.errors import BuildError
from edgecomp.records import Data, Split
from edgecomp.training.splits import data_of, judged
from edgecomp.util.cache import key_of

EXAMPLES = (torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4))
NAMES = ("ids", "mask")


def ids(samples=6):
    return torch.arange(4 * samples).reshape(samples, 4)


def mask(samples=6):
    return torch.ones(samples, 4)


def every(split):
    return {"train": split, "calibration": split, "test": split}


def made(split, examples=EXAMPLES[1:], names=(), **more):
    return data_of({**every(split), **more}, examples, names, "net.py")


def test_a_split_is_a_tuple_of_inputs():
    split = Split("s", mask(), torch.arange(6))
    assert isinstance(split.inputs, tuple) and len(split) == 6
    assert [len(x) for x in split.take(slice(4))] == [4] and split.take(-1)[0].shape == (1, 4)
    assert len(split.take(torch.tensor([0, 5]))[0]) == 2
    part = split.part(slice(2, None), "rest")
    assert (part.name, len(part), part.targets.tolist()) == ("rest", 4, [2, 3, 4, 5])
    assert len(split.first(2)) == 2 and [len(x) for (x,) in split.batches(4)] == [4, 2]
    assert Split("s", (ids(), mask())).first(3).targets is None
    assert key_of(split) != key_of(split.first(5)) != key_of(Split("s", mask(5)))


@pytest.mark.parametrize("inputs", [(ids(), mask()), {"mask": mask(), "ids": ids()}])
def test_several_inputs(inputs):
    data = made((inputs, torch.zeros(6)), EXAMPLES, NAMES)
    assert torch.equal(data.train.inputs[0], ids()) and data.test.inputs[1].dtype == torch.float32
    given = Data(*(Split(name, inputs, torch.zeros(6)) for name in every(None)), metric="mse")
    assert torch.equal(data_of(given, EXAMPLES, NAMES, "net.py").train.inputs[0], ids())


@pytest.mark.parametrize("split", [mask(), (mask(), None), mask().numpy(), {"x": mask()}, (mask().double(), None)])
def test_without_targets(split):
    data = made(split, names=("x",))
    assert data.test.targets is None and data.test.inputs[0].dtype == torch.float32


def test_harmless_conversions():
    assert made((ids().int(), None), EXAMPLES[:1]).train.inputs[0].dtype == torch.long
    assert made((np.ones((6, 4)), np.arange(6))).train.targets.tolist() == list(range(6))


@pytest.mark.parametrize(
    "split,message",
    [
        ((mask(), torch.zeros(5)), "6 of input 1, 5 of targets"),
        ((mask(0), torch.zeros(0)), "train: has no samples"),
        ((torch.ones(6, 5), None), r"samples have shape \(5,\), that of example_inputs\(\) \(4,\)"),
        ((mask().bool(), None), "torch.bool, example_inputs.. has torch.float32"),
        ((torch.full((6, 4), torch.nan), None), "6 of 6 samples hold NaN or infinite values, first sample 0"),
        ((mask(), torch.tensor([0, 1, 2, torch.inf, 4, 5])), "targets: 1 of 6 .* first sample 3"),
        (((mask(), mask()), None), "2 inputs, example_inputs.. has 1"),
        (({"image": mask()}, None), "inputs are named image"),
        ((mask(), None, 3), "3 things, where"),
        ("images/", "str, where"),
        (("images/", None), "is str, not a tensor"),
    ],
)
def test_what_is_wrong_is_said(split, message):
    with pytest.raises(BuildError, match=message) as caught:
        made(split)
    assert "net.py: data(), train" in str(caught.value)


def test_missing_splits():
    with pytest.raises(BuildError, match="no calibration and no test"):
        data_of({"train": mask()}, EXAMPLES[1:], (), "net.py")
    with pytest.raises(BuildError, match="returns list, neither"):
        data_of([mask()], EXAMPLES[1:], (), "net.py")


# --- targets and metrics ----------------------------------------------------------------------------------


def judge(outputs, targets, **more):
    return judged(made((mask(), targets), **more), outputs, "net.py")


def test_the_metric_is_named_from_then_on():
    assert judge(torch.zeros(1, 6), torch.arange(6)).metric == "top1"
    assert judge(torch.zeros(1, 2, 3, 3), torch.zeros(6, 3, 3, dtype=torch.uint8)).metric == "accuracy"
    assert judge(torch.zeros(1, 1), torch.zeros(6)).metric == "mse"
    assert judge(torch.zeros(1, 9), None).metric == "agreement"
    assert judge(torch.zeros(1, 9), None, metric="cosine").metric == "cosine"


def test_labels_become_whole_numbers_one_a_sample():
    data = judge(torch.zeros(1, 6), torch.arange(6, dtype=torch.int32)[:, None])
    assert data.test.targets.dtype == torch.int64 and data.test.targets.shape == (6,)
    assert judge(torch.zeros(1, 3), torch.tensor([0, 1, 1, 0, 1, 0]).bool()).test.targets.sum() == 3


@pytest.mark.parametrize(
    "outputs,targets,metric,message",
    [
        (torch.zeros(1, 5), torch.arange(6), None, r"1 labels are none of the 5 classes .* first 5 at sample 5"),
        (torch.zeros(1, 5), torch.arange(6) - 1, None, "1 labels are none"),
        (torch.zeros(1, 2, 3, 3), torch.full((6, 3, 3), 255), None, "Use -100 for places that do not count"),
        (torch.zeros(1, 5), torch.zeros(6, 5).long(), None, "no metric is named.*\n.*mIoU"),
        (torch.zeros(1, 5), torch.zeros(6), "top1", "train: top1 cannot judge this"),
        (torch.zeros(1, 4), torch.zeros(6).long(), "top5", "4 classes are too few"),
        (torch.zeros(1, 4), torch.arange(6), "auc", "classes are 0 to 3, targets 0 to 5"),
        (torch.zeros(1, 4), torch.zeros(6, 3), "mse", "it takes targets .N, 4., as the outputs are"),
        (torch.zeros(1, 4), torch.zeros(6).long(), "miou", "unknown metric 'miou'"),
    ],
)
def test_targets_that_do_not_fit(outputs, targets, metric, message):
    with pytest.raises(BuildError, match=message):
        judge(outputs, targets, metric=metric)


def test_places_that_do_not_count():
    targets = torch.zeros(6, 3, 3).long()
    targets[:, 0] = -100
    assert judge(torch.zeros(1, 2, 3, 3), targets).metric == "accuracy"
