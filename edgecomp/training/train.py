"""Trains the models of the zoo: SGD with Nesterov momentum, one warm-up and cosine cycle, on a GPU if there is one.

Training is a function of the recipe alone.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from ..errors import BuildError
from ..records import Data, Record
from ..util import progress
from ..util.cache import digest_path, note, remembered_file
from ..util.files import cache_folder
from .loop import Training, chosen, finish, one_cycle
from .outputs import predict


class Recipe(Record):
    """How a model is trained. `shift` (pixels) and `flip` augment images; `samples` limits the training set."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    seed: int
    momentum: float = 0.9
    label_smoothing: float = 0.05
    shift: int = 2
    flip: bool = True
    samples: int | None = None

    def quick(self) -> "Recipe":
        """The variant for trying things out: one epoch over 10,000 samples."""
        return self.model_copy(update={"epochs": 1, "samples": 10_000})


def weights_path(
    net: nn.Module, data: Data, recipe: Recipe, head_start: tuple[nn.Module, Recipe] | None = None
) -> Path:
    """Where the trained weights of this net, data and recipe are kept for this user."""
    identity = [repr(net), data.train.name, len(data.train), recipe.model_dump_json()]
    if head_start:
        identity += [repr(head_start[0]), head_start[1].model_dump_json()]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return cache_folder("weights", f"{type(net).__name__.lower()}-{digest}") / "weights.safetensors"


def train(net: nn.Module, data: Data, recipe: Recipe, head_start: tuple[nn.Module, Recipe] | None = None) -> Path:
    """Trains `net` in place unless its weights are cached; returns the path of the weights (fp32 safetensors).

    An interruption by Ctrl-C keeps the state at once; a kill loses what came after the last finished epoch.

    Args:
        head_start: a cheaper net, trained first, and its recipe; the tensors it shares with `net` by name and shape
            are where `net` starts.
    """
    final = weights_path(net, data, recipe, head_start)
    if final.exists() and not digest_path(final).exists():
        note(final)  # of a version that kept none

    def make(path: Path) -> None:
        _train(net, data, recipe, head_start, final.with_name("training.safetensors"))
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)

    remembered_file(final, make)
    final.with_name("training.safetensors").unlink(missing_ok=True)
    return final


def _train(net: nn.Module, data: Data, recipe: Recipe, head_start: tuple[nn.Module, Recipe] | None, kept: Path) -> None:
    """Trains `net` in place; `kept` is what an interrupted run goes on from."""
    start = load_file(train(head_start[0], data, head_start[1])) if head_start else {}
    run = RecipeRun(net, data, recipe, kept)
    run.begin(start)
    finish(run, "training")
    net.to("cpu", memory_format=torch.contiguous_format)


def _progress_accuracy(net: nn.Module, data: Data) -> float:
    split = data.calibration.first(2000)
    assert split.targets is not None
    return 100 * (predict(net, split.inputs).argmax(1) == split.targets).float().mean().item()


class RecipeRun(Training):
    """One training by its recipe. Epochs are told, and their ends kept."""

    def __init__(self, net: nn.Module, data: Data, recipe: Recipe, kept: Path) -> None:
        self.data, self.recipe, split = data, recipe, data.train
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        samples = min(recipe.samples or len(split), len(split))
        if len(split.inputs) != 1 or split.inputs[0].dim() != 4 or not _are_labels(split.targets):
            raise BuildError(
                f"{split.name}: a recipe takes images (N, channels, rows, columns) and labels (N,), this has others",
                "Train the model elsewhere, and name its weights in the model file.",
            )
        first = split.first(samples)
        (self.inputs,), self.targets = first.inputs, first.targets
        epoch = samples // recipe.batch
        if epoch == 0:
            raise BuildError(f"{split.name} has {samples} samples, fewer than one batch of {recipe.batch}")
        super().__init__(net, recipe.epochs * epoch, kept, every=epoch)
        self.net.to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(
            net.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
            fused=True,
        )

    def begin(self, start: dict[str, torch.Tensor]) -> None:
        """Goes on from the checkpoint; without one, from `start` where it fits and from random weights elsewhere."""
        if self.resume():
            return
        torch.manual_seed(self.recipe.seed)
        self.net.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
        own = self.net.state_dict()
        fitting = {k: v for k, v in start.items() if k in own and own[k].shape == v.shape}
        self.net.load_state_dict(fitting, strict=False)

    def steps(self) -> Iterator[float]:
        for loss in super().steps():
            if self.step % self.every == 0:
                accuracy = _progress_accuracy(self.net, self.data)
                progress.note(f"epoch {self.step // self.every}: {accuracy:.2f} % of 2,000 calibration samples")
            yield loss

    def advance(self) -> float:
        recipe = self.recipe
        batch = chosen(len(self.inputs), recipe.batch, recipe.seed, self.step)
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed * 1_000_003 + self.step)
            inputs = _augment(self.inputs[batch], recipe).to(self.device, memory_format=torch.channels_last)
            outputs = self.net(inputs)
        loss = F.cross_entropy(outputs, self.targets[batch].to(self.device), label_smoothing=recipe.label_smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * one_cycle(self.step / self.total)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()


def _are_labels(targets: torch.Tensor | None) -> bool:
    return targets is not None and targets.dim() == 1 and not targets.is_floating_point()


def _augment(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Flips (N, C, H, W) images left to right and shifts them by up to `shift` pixels, each at random."""
    samples, _, height, width = images.shape
    if recipe.flip:
        images = torch.where(torch.rand(samples, 1, 1, 1) < 0.5, images.flip(3), images)
    if recipe.shift:
        padded = F.pad(images, (recipe.shift,) * 4)
        offsets = torch.randint(0, 2 * recipe.shift + 1, (2, samples, 1))
        rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
        which = torch.arange(samples)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images
