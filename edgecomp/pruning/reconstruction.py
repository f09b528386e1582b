"""What each unit of a group contributes to the outputs of the layers that take it in, on calibration inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..fitting.calibration import inputs_of
from ..layers.matrix import explicit_padding
from .groups import Group, Part
from .state import PruningState

_PLACES = 10  # of each image, where outputs are looked at, as published


def contributions(job: PruningState, group: Group, outputs: int) -> Tensor:
    """How much of sampled outputs comes from each unit: (samples, units), without bias.

    Args:
        outputs: output channels that are looked at in each place; 0 for all.
    """
    generator = job.generator(group)
    return torch.cat([_part(job, part, outputs, generator) for part in group.side("in")])


def _part(job: PruningState, part: Part, outputs: int, generator: torch.Generator) -> Tensor:
    layer = job.net.get_submodule(part.layer)
    weight = dense_weight(layer)  # (outputs, inputs, taps)
    by_batch = []
    for x in inputs_of(job.net, layer, job.some(512)):
        rows = patches(layer, x, _PLACES, generator)  # (N, inputs, taps)
        if outputs:
            which = torch.randint(len(weight), (len(rows), outputs), generator=generator)
            by_channel = torch.einsum("nit,noit->noi", rows, weight[which])
        else:
            by_channel = torch.einsum("nit,oit->noi", rows, weight)
        by_batch.append(by_channel[:, :, part.index].sum(3).flatten(0, 1))
    return torch.cat(by_batch)


def patches(layer: nn.Module, x: Tensor, places: int, generator: torch.Generator) -> Tensor:
    """What a layer multiplies at some places of each of its inputs: (N·places, inputs, taps)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1], 1)
    assert isinstance(layer, nn.Conv2d)
    unfolded = nn.functional.unfold(x, layer.kernel_size, layer.dilation, explicit_padding(layer), layer.stride)
    chosen = torch.randint(unfolded.shape[2], (places,), generator=generator)
    return unfolded[:, :, chosen].transpose(1, 2).flatten(0, 1).unflatten(1, (layer.in_channels, -1))


def dense_weight(layer: nn.Module) -> Tensor:
    """(outputs, inputs, taps), with zeros where a convolution in groups has no weights."""
    weight = layer.weight.detach().flatten(2) if layer.weight.dim() > 2 else layer.weight.detach()[:, :, None]
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        return weight
    blocks = weight.unflatten(0, (groups, -1))  # (groups, outputs each, inputs each, taps)
    dense = torch.zeros(groups, blocks.shape[1], groups, *blocks.shape[2:])
    dense[range(groups), :, range(groups)] = blocks
    return dense.flatten(2, 3).flatten(0, 1)
