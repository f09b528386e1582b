"""What a layer's inputs look like: their second moment, gathered by running calibration samples through the net."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers.matrix import input_rows

_BATCH = 256
_ROWS_PER_BATCH = 4096
_SAMPLE = 512


@dataclass(frozen=True)
class Inputs:
    """Calibration statistics of one layer.

    Attributes:
        second_moment: H = XᵀX/N, (n, n) fp32, for inputs X (N, n).
        sample: some of the rows of X, (≤ 512, n).
    """

    second_moment: Tensor
    sample: Tensor


class _Reached(Exception):
    """Ends a forward pass at the layer of interest."""


def gather(net: nn.Module, layer: nn.Module, samples: Tensor, seed: int = 0) -> Inputs:
    """Runs `samples` (N, …) through `net` up to `layer`, and accumulates the second moment of its inputs."""
    generator = torch.Generator().manual_seed(seed)
    moment, sample, rows = None, None, 0
    for x in _inputs_of(net, layer, samples):
        matrix = input_rows(layer, x.float(), _ROWS_PER_BATCH, generator)
        rows += len(matrix)
        if moment is None:
            moment = torch.zeros(matrix.shape[1], matrix.shape[1])
            sample = matrix[:: -(-len(matrix) // _SAMPLE)].clone()
        moment.addmm_(matrix.T, matrix)
    assert moment is not None and sample is not None
    return Inputs(moment.div_(rows), sample)


def _inputs_of(net: nn.Module, layer: nn.Module, samples: Tensor) -> Iterator[Tensor]:
    caught: list[Tensor] = []

    def catch(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        caught.append(arguments[0].detach())
        raise _Reached

    handle = layer.register_forward_pre_hook(catch)
    try:
        for batch in samples.split(_BATCH):
            with torch.no_grad(), contextlib.suppress(_Reached):
                net(batch)
            yield caught.pop()
    finally:
        handle.remove()
