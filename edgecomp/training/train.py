"""Trains the models of the zoo: SGD with Nesterov momentum, one warm-up and cosine cycle, on a GPU if there is one.

Training is a function of the recipe alone: every random number follows from (seed, step). It can therefore be
stopped at any time and goes on, to the same weights, when started again.
"""

import contextlib
import hashlib
import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from ..errors import BuildError
from ..records import Data, Record, Split
from ..util import progress
from ..util.files import atomic_file, cache_folder
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
    if final.exists():
        return final
    start = load_file(train(head_start[0], data, head_start[1])) if head_start else {}
    run = _Run(net, data.train, recipe, final.with_name("training.safetensors"))
    run.resume(start)
    with interruptible() as interrupted, progress.bar("training", run.total) as advance:
        advance(run.step)
        while run.step < run.total:
            loss = run.advance()
            advance(text=f"loss {loss:.3f}")
            if interrupted():
                run.save()
                progress.note(f"training kept at step {run.step} of {run.total}; the same command goes on from there")
                raise KeyboardInterrupt
            if run.step % run.steps_per_epoch == 0:
                run.save()
                accuracy = _progress_accuracy(net, data)
                progress.note(f"epoch {run.step // run.steps_per_epoch}: {accuracy:.2f} % of 2,000 calibration samples")
    net.to("cpu", memory_format=torch.contiguous_format)
    with atomic_file(final) as partial:
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, partial)
    run.checkpoint.unlink(missing_ok=True)
    return final


def _progress_accuracy(net: nn.Module, data: Data) -> float:
    split = data.calibration.first(2000)
    assert split.targets is not None
    return 100 * (predict(net, split.inputs).argmax(1) == split.targets).float().mean().item()


class _Run:
    """The state of one training: the net, the momentum, and the step, which determines all else."""

    def __init__(self, net: nn.Module, split: Split, recipe: Recipe, checkpoint: Path) -> None:
        self.recipe, self.checkpoint, self.step = recipe, checkpoint, 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        samples = min(recipe.samples or len(split), len(split))
        if len(split.inputs) != 1 or split.inputs[0].dim() != 4 or not _are_labels(split.targets):
            raise BuildError(
                f"{split.name}: a recipe takes images (N, channels, rows, columns) and labels (N,), this has others",
                "Train the model elsewhere, and name its weights in the model file.",
            )
        first = split.first(samples)
        (self.inputs,), self.targets = first.inputs, first.targets
        self.steps_per_epoch = samples // recipe.batch
        if self.steps_per_epoch == 0:
            raise BuildError(f"{split.name} has {samples} samples, fewer than one batch of {recipe.batch}")
        self.total = recipe.epochs * self.steps_per_epoch
        self.net = net.to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(
            net.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
            fused=True,
        )

    def advance(self) -> float:
        """One step of SGD; returns the loss of its batch."""
        recipe = self.recipe
        epoch, index = divmod(self.step, self.steps_per_epoch)
        order = torch.randperm(len(self.inputs), generator=_generator(recipe.seed, epoch))
        chosen = order[index * recipe.batch : (index + 1) * recipe.batch]
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed * 1_000_003 + self.step)
            inputs = _augment(self.inputs[chosen], recipe).to(self.device, memory_format=torch.channels_last)
            outputs = self.net(inputs)
        loss = F.cross_entropy(outputs, self.targets[chosen].to(self.device), label_smoothing=recipe.label_smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * one_cycle(self.step / self.total)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def save(self) -> None:
        save_state(self.checkpoint, self.net, self.optimizer, self.step)

    def resume(self, start: dict[str, torch.Tensor]) -> None:
        """Goes on from the checkpoint; without one, from `start` where it fits and from random weights elsewhere."""
        if not self.checkpoint.exists():
            torch.manual_seed(self.recipe.seed)
            self.net.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
            own = self.net.state_dict()
            fitting = {k: v for k, v in start.items() if k in own and own[k].shape == v.shape}
            self.net.load_state_dict(fitting, strict=False)
            return
        self.step = load_state(self.checkpoint, self.net, self.optimizer)
        progress.note(f"going on at step {self.step} of {self.total}")


def save_state(path: Path, net: nn.Module, optimizer: torch.optim.SGD, step: int) -> None:
    """Writes what a training by SGD with momentum needs to go on: the net, the momentum, the step."""
    state: dict[str, torch.Tensor] = {f"net.{k}": v for k, v in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        state[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"]
    with atomic_file(path) as partial:
        save_file({k: v.cpu().contiguous() for k, v in state.items()}, partial, {"step": str(step)})


def load_state(path: Path, net: nn.Module, optimizer: torch.optim.SGD) -> int:
    """Puts back what `save_state` wrote; returns the step."""
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    for name, parameter in net.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(state[f"momentum.{name}"])
    return step


def _are_labels(targets: torch.Tensor | None) -> bool:
    return targets is not None and targets.dim() == 1 and not targets.is_floating_point()


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def one_cycle(position: float) -> float:
    """Learning-rate factor: a quarter of the run up from 0.04, the rest down to 0, both as cosines."""
    if position < 0.25:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * position / 0.25)) / 2
    return (1 + math.cos(math.pi * (position - 0.25) / 0.75)) / 2


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


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C into a question: `with interruptible() as interrupted: … if interrupted(): …`."""
    pressed: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)
