"""What a layer's inputs look like: their moments and range, gathered by running calibration samples through the net."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.matrix import input_rows
from ..layers.quantized import Quantized, static_parts
from .error_feedback import damped, triangle

CALIBRATION_SAMPLES = 3072
ENERGY_SAMPLES = 1024  # enough for variances

_BATCH = 256
_ROWS_PER_BATCH = 4096
_ROWS_PER_PRODUCT = 2048
_STRIP = 1024
_SAMPLE = 512


@dataclass(frozen=True)
class Inputs:
    """Calibration statistics of one layer.

    Attributes:
        second_moment: H = XᵀX/N, (n, n) fp32, for inputs X (N, n).
        sample: some of the rows of X, (≤ 512, n).
        mean: of the rows of X, (n,).
    """

    second_moment: Tensor
    sample: Tensor
    mean: Tensor
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def known(self, what: str, make: Callable[[], Any], matrix: Tensor | None = None) -> Any:
        """What `make` gives, which depends on these inputs alone, and on the weights W if given: made once, for several
        methods may ask for it."""
        if matrix is not None:
            what += f" {tuple(matrix.shape)} {matrix.double().sum()} {matrix.double().square().sum()}"
        if what not in self._known:
            self._known[what] = make()
        return self._known[what]

    def centered(self) -> Inputs:
        """The same for X less its mean: what counts if a bias makes up for the error of the mean."""

        def make() -> Inputs:
            covariance = self.second_moment - torch.outer(self.mean, self.mean)
            return Inputs(covariance, self.sample - self.mean, torch.zeros_like(self.mean))

        return self.known("centered", make)

    @property
    def damped(self) -> Tensor:
        """H as methods take it, see `error_feedback.damped`."""
        return self.known("damped", lambda: damped(self.second_moment))

    @property
    def triangle(self) -> Tensor:
        """R, upper triangular, of the damped H = RRᵀ."""
        return self.known("triangle", lambda: triangle(self.damped))

    def through(self, matrix: Tensor) -> Inputs:
        """The same for X·matrixᵀ: what a layer after a dense one sees."""
        moment = matrix @ self.second_moment @ matrix.T
        return Inputs(moment, self.sample @ matrix.T, matrix @ self.mean)


class _Reached(Exception):
    """Ends a forward pass at the layer of interest."""


def gather(net: nn.Module, layer: nn.Module, samples: Tensor, seed: int = 0) -> Inputs:
    """Runs `samples` (N, …) through `net` up to `layer`, and accumulates the moments of its inputs."""
    moment = total = sample = torch.empty(0)
    rows = 0
    for matrix in _rows(net, layer, samples, seed):
        if rows == 0:
            n = matrix.shape[1]
            moment, total, sample = torch.zeros(n, n), torch.zeros(n), matrix[:: -(-len(matrix) // _SAMPLE)].clone()
        rows += len(matrix)
        for start in range(0, len(moment), _STRIP):  # the part below the diagonal is enough
            stop = start + _STRIP
            moment[start:stop, :stop].addmm_(matrix[:, start:stop].T, matrix[:, :stop])
        total += matrix.sum(0)
    moment = moment.tril_().div_(rows)
    return Inputs(moment + moment.tril(-1).T, sample, total.div_(rows))


def cross_moment(
    net: nn.Module, layer: nn.Module, seen_net: nn.Module, seen_layer: nn.Module, samples: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """How the inputs x of a layer go with those x̂ of its twin in another net, for the same samples: the covariance of
    x with x̂ (n, n), and the mean of x (n,)."""
    cross = total = seen_total = torch.empty(0)
    count = 0
    pairs = zip(_rows(net, layer, samples, seed), _rows(seen_net, seen_layer, samples, seed), strict=True)
    for rows, seen in pairs:
        if count == 0:
            cross = torch.zeros(rows.shape[1], rows.shape[1])
            total, seen_total = torch.zeros(rows.shape[1]), torch.zeros(rows.shape[1])
        count += len(rows)
        cross.addmm_(rows.T, seen)
        total += rows.sum(0)
        seen_total += seen.sum(0)
    return cross / count - torch.outer(total / count, seen_total / count), total / count


@torch.no_grad()
def fix_ranges(net: nn.Module, layer: nn.Module, replacement: nn.Module, samples: Tensor) -> None:
    """Gives the static int8 layers in `replacement` the ranges of their inputs and outputs when it is called with what
    `layer` gets in `net`."""
    seen: dict[Quantized, list[Tensor]] = {part: [] for part in static_parts(replacement)}

    def see(part: Quantized, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        seen[part].append(torch.stack([*arguments[0].aminmax(), *output.aminmax()]))

    handles = [part.register_forward_hook(see) for part in seen]
    try:
        for x in inputs_of(net, layer, samples):
            replacement(x)
    finally:
        for handle in handles:
            handle.remove()
    for part, batches in seen.items():
        low, high = torch.stack(batches).amin(0).tolist(), torch.stack(batches).amax(0).tolist()
        part.ranges = [(low[0], high[1]), (low[2], high[3])]


def _rows(net: nn.Module, layer: nn.Module, samples: Tensor, seed: int) -> Iterator[Tensor]:
    """The inputs of a layer as rows of what its matrix multiplies; the same seed takes the same rows."""
    generator = torch.Generator().manual_seed(seed)
    return _large(input_rows(layer, x.float(), _ROWS_PER_BATCH, generator) for x in inputs_of(net, layer, samples))


def _large(matrices: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same rows in matrices of many: a product of few rows with themselves is slow."""
    waiting: list[Tensor] = []
    for matrix in matrices:
        waiting.append(matrix)
        if sum(map(len, waiting)) >= _ROWS_PER_PRODUCT:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def inputs_of(net: nn.Module, layer: nn.Module, samples: Tensor) -> Iterator[Tensor]:
    """What `layer` is called with when `net` is with the samples (N, …), at most 256 of them at a time."""
    caught: list[Tensor] = []
    format = torch.channels_last if samples.dim() == 4 else torch.contiguous_format

    def catch(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        caught.append(arguments[0].detach())
        raise _Reached

    handle = layer.register_forward_pre_hook(catch)
    try:
        for batch in samples.split(_BATCH):
            with torch.no_grad(), contextlib.suppress(_Reached):
                net(batch.contiguous(memory_format=format))
            yield caught.pop()
    finally:
        handle.remove()
