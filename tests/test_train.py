"""Training: a function of its recipe, whenever and however often it is interrupted."""

import os
import signal
from collections import Counter

import pytest
import torch
from torch import nn

from edgecomp.errors import BuildError
from edgecomp.records import Data, Split
from edgecomp.train import Recipe
from edgecomp.training import datasets
from edgecomp.training.loop import one_cycle
from edgecomp.training.train import _augment, train, weights_path

RECIPE = Recipe(epochs=3, batch=16, learning_rate=0.05, weight_decay=1e-4, seed=3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path / "cache"))


def small():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * 36, 3)
    )


def data():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.rand(80, 1, 8, 8, generator=generator), torch.randint(0, 3, (80,), generator=generator)
    split = Split("random", inputs, targets)
    return Data(split, split, split)


def trained(path):
    from safetensors.torch import load_file

    return load_file(path)


class Interrupting(nn.Module):
    """Passes its input on; at one call it presses Ctrl-C or dies."""

    def __init__(self, at, how):
        super().__init__()
        self.calls, self.at, self.how = 0, at, how

    def forward(self, x):
        self.calls += self.training
        if self.calls == self.at:
            self.calls += 1
            self.how()
        return x

    def __repr__(self):  # the same net as far as the cache is concerned
        return "Interrupting()"


def with_interruption(at, how):
    return nn.Sequential(*small(), Interrupting(at, how))


def test_ctrl_c_keeps_the_state_and_the_result_is_the_same():
    straight = trained(train(with_interruption(-1, None), data(), RECIPE))
    path = weights_path(with_interruption(-1, None), data(), RECIPE)
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        train(with_interruption(8, lambda: os.kill(os.getpid(), signal.SIGINT)), data(), RECIPE)
    assert not path.exists() and path.with_name("training.safetensors").exists()
    resumed = trained(train(with_interruption(-1, None), data(), RECIPE))
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert not path.with_name("training.safetensors").exists()


def test_a_crash_goes_on_from_the_last_epoch():
    def crash():
        raise RuntimeError("power cut")

    straight = trained(train(with_interruption(-1, None), data(), RECIPE))
    weights_path(with_interruption(-1, None), data(), RECIPE).unlink()
    with pytest.raises(RuntimeError, match="power cut"):
        train(with_interruption(13, crash), data(), RECIPE)
    resumed = trained(train(with_interruption(-1, None), data(), RECIPE))
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_trained_weights_are_reused():
    first = train(small(), data(), RECIPE)
    before = first.stat().st_mtime_ns
    assert train(small(), data(), RECIPE) == first and first.stat().st_mtime_ns == before


def test_other_recipe_other_weights():
    assert weights_path(small(), data(), RECIPE) != weights_path(small(), data(), RECIPE.quick())


def test_too_few_samples():
    with pytest.raises(BuildError, match="fewer than one batch"):
        train(small(), data(), RECIPE.model_copy(update={"batch": 1000}))


def test_learning_rate_rises_and_falls():
    factors = [one_cycle(i / 100) for i in range(101)]
    assert factors[0] == pytest.approx(0.04) and max(factors) == pytest.approx(1) and factors[-1] == pytest.approx(0)


def test_augmentation_only_moves_pixels():
    images = torch.rand(50, 1, 6, 6)
    moved = _augment(images, RECIPE)
    assert moved.shape == images.shape
    assert set(moved.unique().tolist()) <= set(images.unique().tolist()) | {0.0}
    assert torch.equal(_augment(images, RECIPE.model_copy(update={"shift": 0, "flip": False})), images)


def _counted(inputs, targets):
    """How often every sample, image and label, is there: a few images are published twice."""
    pixels = (255 * inputs).round().to(torch.uint8).flatten(1).numpy()
    return Counter((image.tobytes(), label) for image, label in zip(pixels, targets.tolist(), strict=True))


def test_fashion_mnist_splits_are_fixed_and_disjoint():
    first, second = datasets.fashion_mnist(), datasets.fashion_mnist()
    assert [len(s) for s in (first.train, first.calibration, first.test)] == [50_000, 10_000, 10_000]
    assert torch.equal(first.calibration.inputs[0], second.calibration.inputs[0])
    folder = datasets.locate()
    published = datasets._images(folder / "train-images-idx3-ubyte.gz")
    labels = datasets._labels(folder / "train-labels-idx1-ubyte.gz")
    parts = [_counted(split.inputs[0], split.targets) for split in (first.train, first.calibration)]
    assert parts[0] + parts[1] == _counted(published, labels)  # every sample is in one of them, once
    assert first.train.inputs[0].min() == 0 and first.train.inputs[0].max() == 1


def test_fashion_mnist_from_a_named_folder(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("EDGECOMP_FASHION_MNIST", str(folder))
    with pytest.raises(BuildError, match="EDGECOMP_FASHION_MNIST"):
        datasets.fashion_mnist()
    for path in datasets._DEBIAN.glob("*.gz"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert len(datasets.fashion_mnist().test) == 10_000
    damaged = folder / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(BuildError, match=r"t10k-labels.*not the published file"):
        datasets.fashion_mnist()


def test_fashion_mnist_that_is_nowhere_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_DEBIAN", tmp_path / "absent")
    monkeypatch.setattr(datasets, "_MIRROR", "http://127.0.0.1:9/")
    with pytest.raises(BuildError, match="dataset-fashion-mnist"):
        datasets.fashion_mnist()


def test_a_head_start_lends_the_tensors_that_fit():
    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv, self.dense = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, width)
            self.out = nn.Linear(width, 3)

        def forward(self, x):
            return self.out(self.dense(self.conv(x).relu().flatten(1)).relu())

    still = RECIPE.model_copy(update={"epochs": 1, "learning_rate": 0.0, "weight_decay": 0.0})
    narrow = trained(train(Net(4), data(), RECIPE))
    wide = trained(train(Net(9), data(), still, (Net(4), RECIPE)))
    assert torch.equal(wide["conv.weight"], narrow["conv.weight"])
    assert wide["dense.weight"].shape == (9, 144) and torch.equal(wide["out.bias"], narrow["out.bias"])
    assert weights_path(Net(9), data(), still) != weights_path(Net(9), data(), still, (Net(4), RECIPE))
