"""Metrics are what scikit-learn says, each in its unit and direction; losses fit the outputs."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch.nn import functional as F

from edgecomp.errors import BuildError, UsageError
from edgecomp.records import Data, Split
from edgecomp.training import metrics
from edgecomp.training.metrics import IGNORED, METRICS, metric_of
from edgecomp.training.outputs import OutputLoss, divergence, output_loss
from edgecomp.training.scores import compare_answers


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def labelled(samples=60, classes=7, places=()):
    targets = torch.randint(0, classes, (samples, *places))
    outputs = torch.randn(samples, classes, *places) + 2 * F.one_hot(targets, classes).movedim(-1, 1)
    return outputs, targets


def test_classes():
    outputs, targets = labelled()
    assert METRICS["top1"].score(outputs, targets) == 100 * reference.accuracy_score(targets, outputs.argmax(1))
    five = reference.top_k_accuracy_score(targets, outputs, k=5, labels=range(7))
    assert METRICS["top5"].score(outputs, targets) == pytest.approx(100 * five)
    likelihood = reference.log_loss(targets, outputs.double().softmax(1), labels=range(7))
    assert METRICS["perplexity"].score(outputs, targets) == pytest.approx(math.exp(likelihood), rel=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_places(last):
    """Segmentation has classes second, text last; some places do not count."""
    outputs, targets = labelled(8, 5, (6, 4) if not last else (9,))
    targets[0, :2] = IGNORED
    counted, found = targets != IGNORED, outputs.argmax(1)
    outputs = outputs.movedim(1, -1) if last else outputs
    expected = reference.accuracy_score(targets[counted], found[counted])
    assert METRICS["accuracy"].score(outputs, targets) == pytest.approx(100 * expected)
    expected = reference.jaccard_score(targets[counted], found[counted], average="macro")
    assert METRICS["mIoU"].score(outputs, targets) == pytest.approx(100 * expected)


def test_numbers():
    outputs, targets = torch.randn(50, 3), torch.rand(50, 3)
    for name, expected in (("mse", reference.mean_squared_error), ("mae", reference.mean_absolute_error)):
        assert METRICS[name].score(outputs, targets) == pytest.approx(expected(targets, outputs), rel=1e-6)
        assert not METRICS[name].higher_is_better
    cosines = reference.pairwise.paired_cosine_distances(outputs, targets)
    assert METRICS["cosine"].score(outputs, targets) == pytest.approx(1 - cosines.mean(), rel=1e-6)
    assert METRICS["mse"].score(outputs[:, 0], targets[:, :1]) == pytest.approx(
        reference.mean_squared_error(targets[:, 0], outputs[:, 0]), rel=1e-6
    )


def test_noise_is_that_of_each_image():
    images = torch.rand(4, 3, 8, 8)
    noisy = images + torch.tensor([0.01, 0.1, 0.001, 1.0])[:, None, None, None]
    assert METRICS["psnr"].score(noisy, images) == pytest.approx((40 + 20 + 60 + 0) / 4, abs=1e-3)
    assert METRICS["psnr"].score(noisy * 255, images * 255) == pytest.approx(30, abs=1e-3)


def test_area_under_the_curve():
    scores, wanted = torch.randn(80), torch.randint(0, 2, (80,))
    expected = 100 * reference.roc_auc_score(wanted, scores)
    assert METRICS["auc"].score(scores[:, None], wanted) == pytest.approx(expected)
    outputs, targets = labelled()
    expected = reference.roc_auc_score(targets, outputs.double().softmax(1), multi_class="ovr")
    assert METRICS["auc"].score(outputs, targets) == pytest.approx(100 * expected)
    several = torch.randint(0, 2, (60, 7))
    assert METRICS["auc"].score(outputs, several) == pytest.approx(100 * reference.roc_auc_score(several, outputs))


def test_retrieval():
    features, targets = torch.randn(40, 6), torch.randint(0, 4, (40,))
    similarity = reference.pairwise.cosine_similarity(features)
    expected = []
    for query in range(40):
        others = np.arange(40) != query
        same = (targets[others] == targets[query]).numpy()
        expected.append(reference.average_precision_score(same, similarity[query, others]))
    assert METRICS["mAP"].score(features, targets) == pytest.approx(100 * np.mean(expected), rel=1e-5)


# --- what is chosen, and what fits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outputs,targets,expected",
    [
        (torch.zeros(4, 3), torch.zeros(4).long(), "top1"),
        (torch.zeros(4, 3, 5, 5), torch.zeros(4, 5, 5).long(), "accuracy"),
        (torch.zeros(4, 9, 50), torch.zeros(4, 9).long(), "accuracy"),
        (torch.zeros(4, 1), torch.zeros(4), "mse"),
        (torch.zeros(4), torch.zeros(4), "mse"),
        (torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8), "mse"),
        (torch.zeros(4, 3), None, "agreement"),
        (torch.zeros(4, 1), None, "mse"),
    ],
)
def test_default(outputs, targets, expected):
    assert metrics.default(outputs, targets).name == expected


@pytest.mark.parametrize(
    "outputs,targets",
    [
        (torch.zeros(4, 3), torch.zeros(4, 3).long()),
        (torch.zeros(4, 1), torch.zeros(4).long()),
        (torch.zeros(4, 3), torch.zeros(4, 2)),
    ],
)
def test_where_nothing_is_plain_the_choices_are_named(outputs, targets):
    with pytest.raises(BuildError, match="no metric is named") as caught:
        metrics.default(outputs, targets)
    assert "mIoU" in str(caught.value) and "auc" in str(caught.value)


def test_functions_say_what_they_are():
    def rmse(outputs, targets):
        return (outputs - targets).square().mean().sqrt()

    found = metric_of(rmse)
    assert (found.name, found.unit, found.higher_is_better) == ("rmse", "", True)
    rmse.higher_is_better, rmse.unit = False, "m"
    found = metric_of(rmse)
    assert (found.name, found.unit, found.drop(1.0, 3.0)) == ("rmse", "m", 2.0)
    assert metric_of(partial(rmse)).name == "rmse"
    with pytest.raises(UsageError, match="mIoU"):
        metric_of("miou")


# --- what is lost -----------------------------------------------------------------------------------------


def data_of(targets, metric=None, inputs=60):
    split = Split("split", torch.zeros(inputs, 1), targets)
    return Data(split, split, split, metric)


def test_a_drop_is_positive_where_it_is_worse():
    targets = torch.randn(60, 1)
    found = compare_answers(data_of(targets, "mse"), targets + 0.1, targets + 0.3, "host")
    assert found.original == pytest.approx(0.01, rel=1e-4) and found.compressed == pytest.approx(0.09, rel=1e-4)
    assert found.drop_points == pytest.approx(0.08, rel=1e-4)
    assert found.interval[0] <= found.drop_points <= found.interval[1]
    assert (found.metric, found.unit, found.higher_is_better, found.agreement) == ("mse", "", False, None)
    outputs, labels = labelled()
    found = compare_answers(data_of(labels), outputs, outputs.roll(1, 0), "host")
    assert found.metric == "top1" and found.drop_points == pytest.approx(found.original - found.compressed, abs=1e-3)
    assert found.interval_method.startswith("95 %, Newcombe")


def test_without_targets_the_original_is_right():
    outputs, _ = labelled()
    other = outputs.clone()
    other[:6] = -other[:6]
    found = compare_answers(data_of(None, "top1"), outputs, other, "host")
    assert (found.metric, found.original) == ("agreement", 100) and found.compressed == pytest.approx(90)
    named = compare_answers(data_of(torch.zeros(60).long(), "agreement"), outputs, other, "host")
    assert (named.metric, named.original, named.compressed) == ("agreement", 100, found.compressed)
    single = compare_answers(data_of(None), outputs[:, :1], other[:, :1], "host")
    assert single.metric == "mse" and single.original == 0 and single.drop_points > 0


@pytest.mark.parametrize("name", ["accuracy", "mIoU", "auc", "mAP", "psnr", "perplexity"])
def test_every_drop_has_an_interval(name):
    places = (4, 4) if name in ("accuracy", "mIoU") else ()
    outputs, targets = labelled(places=places)
    if name == "psnr":
        targets = torch.rand_like(outputs)
    found = compare_answers(data_of(targets, name), outputs, outputs + 2 * torch.randn_like(outputs), "host")
    assert found.interval[0] <= found.drop_points <= found.interval[1] and found.interval[0] < found.interval[1]


# --- losses -----------------------------------------------------------------------------------------------


def test_classes_are_compared_by_their_probabilities():
    outputs, targets = labelled()
    loss = output_loss(data_of(targets), outputs)
    other = torch.randn_like(outputs)
    assert loss.name == "KL" and torch.equal(loss(other, outputs), divergence(other, outputs))
    probabilities = output_loss(data_of(targets), outputs.softmax(1))
    assert probabilities(other.softmax(1), outputs.softmax(1)).item() == pytest.approx(
        divergence(other, outputs).item(), rel=1e-4
    )


def test_classes_of_every_place():
    outputs, targets = labelled(8, 5, (6, 4))
    loss, other = output_loss(data_of(targets, inputs=8), outputs), torch.randn_like(outputs)
    rows, wanted = (x.movedim(1, -1).reshape(-1, 5) for x in (other, outputs))
    assert loss(other, outputs).item() == pytest.approx(divergence(rows, wanted).item(), rel=1e-5)


@pytest.mark.parametrize(
    "outputs,targets,metric",
    [
        ((torch.randn(60, 1),), torch.randn(60, 1), "mse"),
        ((torch.randn(60),), torch.randint(0, 2, (60,)), "auc"),
        ((torch.randn(60, 1),), None, None),
        ((torch.randn(60, 3, 4, 4),), None, None),
        ((torch.randn(60, 8), torch.randn(60, 5)), torch.randint(0, 4, (60,)), "mAP"),
    ],
)
def test_other_outputs_by_their_distance(outputs, targets, metric):
    loss = output_loss(data_of(targets, metric), outputs)
    assert loss.axis is None and loss(outputs, outputs).item() == 0
    off = tuple(y + y.std() for y in outputs)
    assert loss(off, outputs).item() == pytest.approx(1, rel=0.1)
    large = tuple(1000 * y for y in outputs)
    assert output_loss(data_of(targets, metric), large)(tuple(1000 * y for y in off), large).item() == pytest.approx(
        loss(off, outputs).item(), rel=1e-3
    )


def test_all_outputs_count_but_those_without_gradients():
    outputs = torch.randn(20, 1), torch.arange(20), torch.full((20, 2), -torch.inf)
    loss = OutputLoss(None, scales=(1.0, None, 1.0))
    off = outputs[0] + 2, outputs[1] + 5, outputs[2]
    found = output_loss(data_of(None, inputs=20), outputs[:2])
    assert found.scales[1] is None and found(off[:2], outputs[:2]).item() == pytest.approx(4 / found.scales[0])
    assert torch.isfinite(loss((off[0], off[1], torch.randn(20, 3)), (outputs[0], outputs[1], torch.randn(20, 3))))
