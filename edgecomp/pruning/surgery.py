"""Takes channels out of a net, or only stops listening to them: two ways to compute the same."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..layers.channels import channels_of, cut
from .groups import Group, Part


@torch.no_grad()
def removed(net: nn.Module, groups: Iterable[Group], kept: dict[str, Tensor]) -> nn.Module:
    """A copy of the net with only those units of each group, by its name, that are kept (int64, ascending)."""
    net = copy.deepcopy(net)
    gone: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    for group in groups:
        for part in group.parts:
            gone[part.layer, part.side].append(part.index[_others(group, kept)].flatten())
    for name in dict.fromkeys(name for name, _ in gone):
        layer = net.get_submodule(name)
        channels = channels_of(layer)
        if channels is None:  # a norm that has been folded
            continue
        outputs, inputs, layer_groups = channels
        both = gone.get((name, "both"), [])
        out = _left(outputs, [*gone.get((name, "out"), []), *both])
        into = _left(inputs, [*gone.get((name, "in"), []), *both])
        cut(layer, out, into, len(out) if both and layer_groups > 1 else layer_groups)
    return net


@torch.no_grad()
def mask(net: nn.Module, groups: Iterable[Group], kept: dict[str, Tensor]) -> None:
    """Sets to zero, in place, the weights by which layers listen to units that are not kept."""
    for group in groups:
        for part in group.side("in"):
            InputColumns(net.get_submodule(part.layer), part, _others(group, kept)).zero()


def masked(net: nn.Module, groups: Iterable[Group], kept: dict[str, Tensor]) -> nn.Module:
    """A copy of the net that does not listen to units that are not kept; it computes what `removed` does."""
    net = copy.deepcopy(net)
    mask(net, groups, kept)
    return net


def proven(net: nn.Module, group: Group, inputs: tuple[Tensor, ...]) -> Group:
    """The group, with a reason if a net without half of its units does not compute what the net does where they are
    not listened to: then its channels meet in a way that the dependency graph does not follow."""
    if group.reason:
        return group
    keep = torch.randperm(group.units, generator=torch.Generator().manual_seed(0))[: max(1, group.units // 2)]
    kept = {group.name: keep.sort().values}
    with torch.no_grad():
        expected = _outputs(masked(net, [group], kept), inputs)
        try:
            got = _outputs(removed(net, [group], kept), inputs)
        except Exception as error:
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            return replace(group, reason=f"without some of its channels the net does not run: {text}")
    if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-3, atol=1e-4 * expected.abs().max()):
        return replace(group, reason="its channels meet others in a way that the dependency graph does not follow")
    return group


def _outputs(net: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    outputs = net(*inputs)
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


class InputColumns:
    """The weights by which a layer listens to some units: positions of the second axis of its weight.

    In a convolution in groups units lie at the same places of all groups, so that one index serves them all.
    """

    def __init__(self, layer: nn.Module, part: Part, units: Tensor) -> None:
        self.weight: Tensor = layer.weight  # type: ignore[assignment]
        self.index = (part.index[units].flatten() % self.weight.shape[1]).unique()

    def zero(self) -> None:
        self.weight.data[:, self.index] = 0

    def copy_from(self, other: Tensor) -> None:
        self.weight.data[:, self.index] = other[:, self.index]


def _others(group: Group, kept: dict[str, Tensor]) -> Tensor:
    gone = torch.ones(group.units, dtype=torch.bool)
    gone[kept[group.name]] = False
    return gone.nonzero().flatten()


def _left(count: int, gone: list[Tensor]) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    for index in gone:
        left[index] = False
    return left.nonzero().flatten()
