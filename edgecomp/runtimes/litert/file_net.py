"""A model that is an exported file already: weights in it that can be coded, as layers; all else stays in the file."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.codebook import Coded
from ...layers.matrix import has_bias, weight_matrix


class FileInput(NamedTuple):
    """An input of a file: its name, the index of its tensor in the main graph, and whether more sizes than that of the
    batch are left open. Those are 1 then, as in the runtime."""

    name: str
    tensor: int
    open: bool = False


@dataclass(frozen=True)
class Site:
    """Where the file has a layer.

    Attributes:
        operator: its index among the operators of the main graph.
        given: the tensor of what the layer is called with.
        weight, bias: the tensors that store them, perhaps in fp16 for a DEQUANTIZE; -1 for no bias.
        shape: of the zeros to run the layer on, as torch wants them: (1, columns) or (1, channels, height, width).
        padding: zeros to put above, below, left and right of images before the layer; it pads by itself otherwise.
        folds: the layer's inputs must be made rows of its length first.
    """

    operator: int
    given: int
    weight: int
    bias: int
    shape: tuple[int, ...]
    padding: tuple[int, int, int, int] | None = None
    folds: bool = False


class StoredLinear(nn.Linear):
    """A dense layer with weights and bias of the dtypes they are stored in; it computes in fp32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.float(), None if self.bias is None else self.bias.float())


class StoredConv2d(nn.Conv2d):
    """The same, a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.float(), None if self.bias is None else self.bias.float())


class Kept(nn.Module):
    """A constant of the file that stays as it is, and the reason. `weight` has the dtype it is stored in."""

    def __init__(self, weight: nn.Parameter, reason: str) -> None:
        super().__init__()
        self.weight, self.reason = weight, reason

    def forward(self) -> Tensor:
        return self.weight[:1]


class FileNet(nn.Module):
    """The layers of a file. It cannot compute what the file does: calling it runs every layer alone, on zeros, which is
    what stages need to learn their order and shapes.

    Attributes:
        source: the file's path, for messages. file: its bytes.
        sites: by name of a layer; what is `Kept` has none.
        inputs: in the order of the runtime.
        outputs: how many fp32 values the file gives at first, over all outputs up to one of another dtype.
    """

    def __init__(self, source: str, file: bytes, inputs: tuple[FileInput, ...], outputs: int) -> None:
        super().__init__()
        self.source, self.file, self.inputs, self.outputs = source, file, inputs, outputs
        self.sites: dict[str, Site] = {}

    def add(self, name: str, layer: nn.Module, site: Site | None = None) -> None:
        """Adds a layer under the name, with a number behind it if it is taken."""
        free, number = name, 1
        while hasattr(self, free):
            number += 1
            free = f"{name}_{number}"
        self.add_module(free, layer)
        if site is not None:
            self.sites[free] = site

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            layer(torch.zeros(self.sites[name].shape)) if name in self.sites else layer()
            for name, layer in self.named_children()
        )

    def decoded(self) -> FileNet:
        """The same without codes: as dense layers, also of convolutions, of the matrices that they stand for."""
        coded = [name for name, layer in self.named_children() if isinstance(layer, Coded)]
        return self.plain(coded)

    def plain(self, names: Iterable[str]) -> FileNet:
        """The same with some layers as dense ones in fp32, of the matrices that they are now, or stand for."""
        net = copy.deepcopy(self)
        for name in names:
            layer = net.get_submodule(name)
            matrix = layer.decode() if isinstance(layer, Coded) else weight_matrix(layer)
            plain = nn.Linear(*matrix.T.shape, bias=False, device="meta")
            plain.weight = nn.Parameter(matrix)
            plain.bias = nn.Parameter(layer.bias.detach().float()) if has_bias(layer) else None
            net.set_submodule(name, plain)
        return net
