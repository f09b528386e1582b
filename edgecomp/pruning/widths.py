"""How many channels of each group stay: from a criterion for the whole net to a number for every group."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..layers.channels import channels_of
from ..layers.hooks import capture, named
from ..records import Record
from .groups import Group


class Pruned(Record):
    """What the number of channels that stay is chosen by, at most one of those, else `DEFAULT`; and the training."""

    WISHES: ClassVar[tuple[str, ...]] = ("keep", "macs", "bytes", "latency", "instructions")
    MEASURED: ClassVar[tuple[str, ...]] = ("latency", "instructions")  # every trial is an export and a run
    DEFAULT: ClassVar[dict[str, float]] = {"macs": 0.5}

    keep: float | None = Field(None, gt=0, lt=1, description="Fraction of every group's channels that stays.")
    macs: float | None = Field(None, gt=0, lt=1, description="Fraction of the net's multiply-adds that is left.")
    bytes: float | None = Field(None, gt=0, lt=1, description="Fraction of the net's fp32 bytes that is left.")
    latency: float | None = Field(
        None, gt=0, lt=1, description="Fraction of the net's time on this machine that is left, by trial."
    )
    instructions: float | None = Field(
        None, gt=0, lt=1, description="Fraction of the instructions on the emulated target that is left, by trial."
    )
    multiple: int = Field(1, ge=1, description="Numbers of channels are multiples of this, and at least this.")
    adds: bool = Field(
        False, description="Also prune channels that are added to others, not only those within residual blocks."
    )
    epochs: float = Field(1, ge=0, description="Epochs of training on the training split after the surgery.")
    rate: float = Field(0.02, gt=0, description="Learning rate of that training.")

    @model_validator(mode="after")
    def _one_criterion(self) -> Pruned:
        given = [name for name in self.WISHES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say how many channels stay; give one of them")
        return self

    @property
    def criterion(self) -> tuple[str, float]:
        """The setting that decides how many channels stay, and its value."""
        given = [(name, getattr(self, name)) for name in self.WISHES if getattr(self, name) is not None]
        return next(iter([*given, *self.DEFAULT.items()]))


@dataclass(frozen=True)
class LayerSize:
    """What a layer costs as a function of its channels: taps of its kernel, pixels of its output."""

    outputs: int
    inputs: int
    groups: int
    taps: int
    pixels: int
    bias: bool

    @property
    def macs(self) -> int:
        return self.weights * self.pixels

    @property
    def weights(self) -> int:
        return self.outputs * self.inputs // self.groups * self.taps

    @property
    def bytes(self) -> int:
        return 4 * (self.weights + self.outputs * self.bias)


def layer_sizes(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, LayerSize]:
    """The sizes of convolutions and dense layers of a net whose norms are folded; reused ones do all their work."""
    sizes: dict[str, LayerSize] = {}

    layers = named(net, nn.Conv2d, nn.Linear)

    def note(name: str, _: tuple[Tensor, ...], output: Tensor) -> None:
        layer = layers[name]
        outputs, inputs, groups = channels_of(layer)  # type: ignore[misc]
        taps = math.prod(getattr(layer, "kernel_size", (1,)))
        pixels = output[0].numel() // outputs + (sizes[name].pixels if name in sizes else 0)
        sizes[name] = LayerSize(outputs, inputs, groups, taps, pixels, layer.bias is not None)

    with torch.no_grad(), capture(layers, note):
        net(*example_inputs)
    return sizes


def cut_sizes(sizes: dict[str, LayerSize], groups: list[Group], keeps: dict[str, int]) -> dict[str, LayerSize]:
    """The sizes with only so many units of each group, by its name."""
    left = {name: [size.outputs, size.inputs, size.groups] for name, size in sizes.items()}
    for group in groups:
        gone = group.units - keeps[group.name]
        for part in group.parts:
            if part.layer in left:
                outputs, inputs, layer_groups = left[part.layer]
                count = gone * part.index.shape[1]
                if part.side == "both":
                    left[part.layer] = [outputs - count, inputs - count, layer_groups - count]
                else:
                    left[part.layer] = [
                        outputs - count * (part.side == "out"),
                        inputs - count * (part.side == "in"),
                        layer_groups,
                    ]
    return {
        name: LayerSize(*left[name], sizes[name].taps, sizes[name].pixels, sizes[name].bias)  # type: ignore[misc]
        for name in sizes
    }


def uniform(
    groups: list[Group], config: Pruned, sizes: dict[str, LayerSize], meter: Callable[[dict[str, int]], float] | None
) -> dict[str, int]:
    """The same fraction of every group, as large as the criterion allows.

    Args:
        meter: for criteria that are measured: the fraction that so many units of each group take.
    """
    criterion, value = config.criterion
    if criterion == "keep":
        return _fraction(groups, value, config.multiple)
    choices = sorted({keep / group.units for group in groups for keep in range(1, group.units + 1)})
    if criterion in config.MEASURED:
        choices = [step / 16 for step in range(1, 17)]
    return widest(choices, lambda f: _fraction(groups, f, config.multiple), config, groups, sizes, meter)


def widest(
    choices: list[float],
    keeps: Callable[[float], dict[str, int]],
    config: Pruned,
    groups: list[Group],
    sizes: dict[str, LayerSize],
    meter: Callable[[dict[str, int]], float] | None = None,
) -> dict[str, int]:
    """The numbers of units of the largest choice that meets the criterion; those of the smallest, if none does."""
    criterion, value = config.criterion

    def fits(choice: float) -> bool:
        if criterion in config.MEASURED:
            assert meter is not None
            return meter(keeps(choice)) <= value
        if criterion == "keep":
            return sum(keeps(choice).values()) <= value * sum(group.units for group in groups)
        return share(sizes, groups, keeps(choice), criterion) <= value

    low, high = 0, len(choices) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(choices[middle]) else (low, middle - 1)
    return keeps(choices[low])


def share(sizes: dict[str, LayerSize], groups: list[Group], keeps: dict[str, int], what: str) -> float:
    """The fraction of multiply-adds (`macs`) or `bytes` that is left."""
    after = cut_sizes(sizes, groups, keeps)
    return sum(getattr(s, what) for s in after.values()) / sum(getattr(s, what) for s in sizes.values())


def _fraction(groups: list[Group], fraction: float, multiple: int) -> dict[str, int]:
    return {group.name: rounded(fraction * group.units, group.units, multiple) for group in groups}


def rounded(wanted: float, units: int, multiple: int) -> int:
    """A multiple, none less than one, of at most all units."""
    return min(units, max(multiple, int(wanted / multiple + 1e-6) * multiple))
