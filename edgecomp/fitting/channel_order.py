"""Input channels of a layer in the order of their energy; the layer before it gives them out in that order.

With `error_feedback` later columns make up for the errors of earlier ones, so those whose errors weigh
most come first (GPTQ calls it act-order), and channels alike in energy share a block (PQF, Martinez et al. 2021, §3.2).
Nothing is stored for it, and the network computes what it did.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..graph.batches import comfortable
from ..graph.given import as_tuple
from ..layers.hooks import capture
from ..training.outputs import predict
from .calibration import Samples


@torch.no_grad()
def order_by_energy(net: nn.Module, producers: dict[str, str], samples: Samples) -> None:
    """Reorders, in place, the input channels of each layer and the output channels of its producer.

    Args:
        producers: by layer, the one that its input channels come from (see `graph.trace.channel_producers`).
        samples: inputs of the net, from which the variance of each channel is taken.
    """
    energies = _energies(net, producers, samples)
    for name, producer in producers.items():
        layer, before = net.get_submodule(name), net.get_submodule(producer)
        order = energies[name].argsort(descending=True, stable=True)
        for tensor in before.parameters(recurse=False):
            tensor.copy_(tensor[order])
        weight = layer.weight.unflatten(1, (len(order), -1))[:, order].flatten(1, 2)
        layer.weight.copy_(weight.reshape(layer.weight.shape))


def _energies(net: nn.Module, producers: dict[str, str], samples: Samples) -> dict[str, Tensor]:
    """The variance of each channel, by layer (channels,)."""
    sums: dict[str, list[Tensor]] = {name: [] for name in producers}

    def observe(name: str, arguments: tuple[Tensor, ...]) -> None:
        x, channels = arguments[0], len(net.get_submodule(producers[name]).weight)
        dense = isinstance(net.get_submodule(name), nn.Linear)
        rows = (x if dense else x.movedim(1, -1)).flatten(0, -2).double()  # (…, inputs)
        moments = torch.stack([rows.sum(0), rows.square().sum(0), torch.full_like(rows[0], len(rows))])
        sums[name].append(moments.unflatten(1, (channels, -1)))

    with capture({name: net.get_submodule(name) for name in producers}, observe, before=True):
        predict(net, samples, comfortable(net, as_tuple(samples)))
    energies = {}
    for name, parts in sums.items():
        total, squares, count = sum(parts)  # type: ignore[misc]
        energies[name] = (squares / count - (total / count).square()).sum(1)
    return energies
