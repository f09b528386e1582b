"""Which channels can only go together: a group for every set of coupled layers, from torch-pruning's dependency graph.

A residual add couples the outputs of the layers it adds, a depthwise convolution its outputs with its inputs, a
convolution in groups the channels at the same place of all groups, flattening gives one channel many inputs of a dense
layer, a concatenation moves them. `Part.index` says all that; importance and surgery only read it.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import BuildError
from ..layers.hooks import capture


@dataclass(frozen=True)
class Part:
    """What the units of a group are in one layer: unit u is `index[u]` (units, r) of its outputs or inputs, or of
    both in a depthwise convolution or a norm."""

    layer: str
    side: Literal["out", "in", "both"]
    index: Tensor


@dataclass(frozen=True)
class Group:
    """Coupled channels, as units that can go one by one; `reason` says why none can, empty if they can."""

    parts: tuple[Part, ...]
    units: int
    reason: str = ""

    @property
    def producers(self) -> tuple[str, ...]:
        """The layers that give the channels out."""
        return tuple(part.layer for part in self.parts if part.side == "out")

    @property
    def consumers(self) -> tuple[str, ...]:
        """The layers that take them in."""
        return tuple(part.layer for part in self.parts if part.side == "in")

    @property
    def name(self) -> str:
        return self.producers[0]

    def side(self, *sides: str) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.side in sides)


def find_groups(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> list[Group]:
    """The groups of a net, in the order in which their first layers run.

    Raises:
        BuildError: torch-pruning is not installed, or cannot trace the net.
    """
    net = copy.deepcopy(net).eval().requires_grad_(True)
    names = {module: name for name, module in net.named_modules()}
    order = _order(net, example_inputs)
    groups = []
    for items in _traced(net, example_inputs):
        group = _group(items, names)
        if group is not None:
            groups.append(replace(group, parts=tuple(sorted(group.parts, key=lambda part: order.get(part.layer, 0)))))
    return sorted(groups, key=lambda group: order.get(group.name, len(order)))


def _order(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """When each layer runs first."""
    order: dict[str, int] = {}

    def note(name: str, _: tuple[Tensor, ...]) -> None:
        order.setdefault(name, len(order))

    with torch.no_grad(), capture(dict(net.named_modules()), note, before=True):
        net(*example_inputs)
    return order


def _traced(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> list:  # type: ignore[type-arg]
    """torch-pruning's groups, with all channels of their first layer."""
    try:
        import torch_pruning
    except ImportError as error:
        raise BuildError(f"torch-pruning cannot be imported: {error}", "pip install 'edgecomp[prune]'") from error
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            traced = torch_pruning.DependencyGraph().build_dependency(net, example_inputs, verbose=False)
            return list(traced.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
    except Exception as error:
        raise BuildError(f"torch-pruning cannot trace the model: {type(error).__name__}: {error}") from error


def _group(items: list, names: dict[nn.Module, str]) -> Group | None:  # type: ignore[type-arg]
    """Our view of a group of torch-pruning's; None for channels that no layer gives out, such as those of images."""
    channels = len(items[0].idxs)
    reason = ""
    places: dict[tuple[str, str], dict[int, list[int]]] = {}
    modules: dict[str, nn.Module] = {}
    for item in items:
        module, is_input = item.dep.target.module, "in_channels" in item.dep.handler.__name__
        kind = type(module).__name__
        if kind == "_OutputOp":
            reason = "its channels are outputs of the net"
        elif isinstance(module, nn.Parameter) or (
            any(True for _ in module.parameters(recurse=False)) and not _known(module)
        ):
            reason = reason or f"a {kind} among its layers is not one whose channels can be cut"
        if module not in names or not _known(module):
            continue
        side = "both" if _depthwise(module) or isinstance(module, _BatchNorm) else "in" if is_input else "out"
        modules[names[module]] = module
        by_root = places.setdefault((names[module], side), defaultdict(list))
        for place, origin in zip(item.idxs, item.root_idxs, strict=True):
            by_root[origin].append(place)
    units, why = _units(channels, places, modules)
    parts, uneven = _parts(units, places)
    sides = {side for _, side in places}
    if "out" not in sides:
        return None
    if "in" not in sides:
        reason = "its channels are outputs of the net"
    return Group(parts, len(units), reason or why or uneven)


def _known(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv2d, nn.Linear, _BatchNorm))


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _units(
    channels: int, places: dict[tuple[str, str], dict[int, list[int]]], modules: dict[str, nn.Module]
) -> tuple[list[list[int]], str]:
    """The channels of the first layer that must go together, for convolutions in groups keep groups of equal size; and
    why there are no two such sets, or why a set is not the same in all groups."""
    leader = list(range(channels))

    def find(channel: int) -> int:
        while leader[channel] != channel:
            channel = leader[channel]
        return channel

    reason = ""
    for (name, side), by_root in places.items():
        module = modules[name]
        if side == "both" or getattr(module, "groups", 1) == 1:
            continue
        total = module.in_channels if side == "in" else module.out_channels
        size = total // module.groups
        first: dict[int, int] = {}
        for origin, places in by_root.items():
            for place in places:
                leader[find(origin)] = find(first.setdefault(place % size, origin))
        if sum(map(len, by_root.values())) < total:
            reason = f"{name}, in {module.groups} groups, takes channels of other layers beside"
    sets: dict[int, list[int]] = defaultdict(list)
    for channel in range(channels):
        sets[find(channel)].append(channel)
    if len(sets) == 1 and channels > 1:
        reason = reason or "its channels can only go all together"
    return list(sets.values()), reason


def _parts(units: list[list[int]], places: dict[tuple[str, str], dict[int, list[int]]]) -> tuple[tuple[Part, ...], str]:
    parts, uneven = [], ""
    for (name, side), by_root in places.items():
        rows = [sorted(place for channel in unit for place in by_root.get(channel, [])) for unit in units]
        if len({len(row) for row in rows}) != 1:
            uneven, rows = f"its channels are not all alike in {name}", [[] for _ in units]
        parts.append(Part(name, side, torch.tensor(rows)))  # type: ignore[arg-type]
    return tuple(parts), uneven
