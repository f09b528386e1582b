"""What the layers of a `.tflite` get when it runs on calibration samples.

The file runs as a whole, at most a few times: each pass listens to some layers in a row, and those before them have the
weights by then that stand for their codes. Of what passes by only moments and a bounded sample are kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...fitting.calibration import ROWS_PER_PRODUCT, Inputs, Moments, Recording, rows_of_a_sample
from ...graph.batches import Tensors
from ...layers.matrix import input_rows, kind_of, weight_matrix
from ...util.files import temporary_folder
from . import rewriter
from .file_net import FileNet, Site
from .interpreter import values_of

_PASSES = 4
_MOMENTS = 512 << 20  # bytes of the moments of a pass
_AT_ONCE = 256  # samples
_WAITING = 4 << 20  # bytes of a layer's inputs that rows are taken from at a time
_KEPT, _KEPT_SAMPLES = 8 << 20, 64  # of a layer's inputs, to choose its tables by


class FileRecording(Recording):
    """Inputs of layers of a file.

    Args:
        net: its layers may change their weights once they have been asked for.
        samples: (N, …) each. batch: of the file.
        names: of the layers that will be asked for, in this order.
    """

    def __init__(self, net: FileNet, samples: Tensors, batch: int, names: list[str]) -> None:
        full = max(batch, len(samples[0]) // batch * batch)  # no sample twice where there are enough
        self._samples, self._batch, self._names = tuple(x[:full] for x in samples), batch, names
        self._heard: dict[str, tuple[Inputs, Tensor]] = {}

    def statistics(self, net: nn.Module, layer: nn.Module, seed: int) -> Inputs:
        return self._of(net, layer, seed)[0]

    def inputs(self, net: nn.Module, layer: nn.Module) -> Tensor:
        return self._of(net, layer, 0)[1]

    def _of(self, net: nn.Module, layer: nn.Module, seed: int) -> tuple[Inputs, Tensor]:
        assert isinstance(net, FileNet)
        name = next(name for name, child in net.named_children() if child is layer)
        if name not in self._heard:
            start = self._names.index(name)
            self._heard = self._record(net, self._names[:start], self._together(net, start), seed)
        return self._heard[name]

    def _together(self, net: FileNet, start: int) -> list[str]:
        """The layers of a pass: a share of all, as far as memory allows, and at least one."""
        taken, size = [], 0
        for name in self._names[start : start + -(-len(self._names) // _PASSES)]:
            size += 4 * weight_matrix(net.get_submodule(name)).shape[1] ** 2
            if taken and size > _MOMENTS:
                break
            taken.append(name)
        return taken

    def _record(self, net: FileNet, fitted: list[str], names: list[str], seed: int) -> dict[str, tuple[Inputs, Tensor]]:
        count = len(self._samples[0])
        listeners = [_Listener(net.get_submodule(name), net.sites[name], self._batch, count, seed) for name in names]
        tensors = [net.sites[name].given for name in names]
        with temporary_folder() as temporary:
            path = Path(temporary, "fitted.tflite")
            rewriter.write(net.plain(fitted), path)
            file = path.read_bytes()
        for values in values_of(file, net, self._samples, self._batch, tensors):
            for listener, x in zip(listeners, values, strict=True):
                listener.hear(x)
        return {name: listener.heard() for name, listener in zip(names, listeners, strict=True)}


class _Listener:
    """Gathers what one layer gets, record by record."""

    def __init__(self, layer: nn.Module, site: Site, batch: int, count: int, seed: int) -> None:
        self._layer, self._site, self._batch = layer, site, batch
        self._rows_of_a_sample = rows_of_a_sample(count, weight_matrix(layer).shape[1])
        self._generator = torch.Generator().manual_seed(seed)
        self._moments, self._rows = Moments(), list[Tensor]()
        self._waiting, self._kept = list[Tensor](), list[Tensor]()
        self._samples = 0

    def hear(self, values: np.ndarray) -> None:
        x = as_called(self._layer, self._site, torch.from_numpy(values))
        size = x.numel() * x.element_size()
        if self._samples < _KEPT_SAMPLES and (not self._kept or size * len(self._kept) < _KEPT):
            self._kept.append(x)
        self._samples += self._batch
        self._waiting.append(x)
        if len(self._waiting) * self._batch >= _AT_ONCE or len(self._waiting) * size >= _WAITING:
            self._take()

    def heard(self) -> tuple[Inputs, Tensor]:
        if self._waiting:
            self._take()
        if self._rows:
            self._moments.add(torch.cat(self._rows))
        return self._moments.inputs(), torch.cat(self._kept)

    def _take(self) -> None:
        """Rows of what is waiting, as many for a sample as of other nets."""
        limit = self._rows_of_a_sample * len(self._waiting) * self._batch
        x = torch.cat(self._waiting)
        self._rows.append(input_rows(self._layer, x, limit, self._generator))
        self._waiting = []
        if sum(map(len, self._rows)) >= ROWS_PER_PRODUCT:
            self._moments.add(torch.cat(self._rows))
            self._rows = []


def as_called(layer: nn.Module, site: Site, x: Tensor) -> Tensor:
    """What the torch layer of a site is called with, where its operator in the file gets x: images (N, C, H, W), padded
    where the layer does not, or rows."""
    if kind_of(layer) == "conv":
        x = x.permute(0, 3, 1, 2)
        if site.padding is None:
            return x
        top, bottom, left, right = site.padding
        return F.pad(x, (left, right, top, bottom))
    return x.reshape(-1, layer.in_features)  # type: ignore[union-attr, arg-type]
