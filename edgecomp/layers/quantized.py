"""Layers of 8-, 4- or 2-bit weights, one scale per output channel, that round what comes in to int8: products of
integers.

In an exported net they are the quantize and dequantize operators that runtimes recognise and turn into int8 kernels.
Outside of an export they do the same arithmetic, with one scale where the kernels have one: per row of inputs of a
dense layer, per image of a convolution, per pixel if it is a plain 1×1 (XNNPACK's qd8; affine quantization as in Jacob
et al. 2018, §2.1).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set
from typing import Any, NamedTuple

import torch
import torch.ao.quantization.fx._decomposed  # defines torch.ops.quantized_decomposed
from torch import Tensor, nn
from torch.nn import functional as F

from .packing import pack_signed, unpack_signed

_LEVELS = (-128, 127, torch.int8)
# Zero is zero in all. 8 bits do not miss −128, and some kernels want it left out; 2 bits would lose a quarter.
LEVELS_OF_WEIGHTS = {8: (-127, 127), 4: (-8, 7), 2: (-2, 1)}
_LEAST_SCALE = torch.finfo(torch.float32).eps

Range = tuple[float, float]


class Arithmetic(NamedTuple):
    """How a layer will be multiplied, before it is one of these: what a runtime is asked whether it can."""

    bits: int
    static: bool


class Quantized(nn.Module):
    """What the two layers share.

    Attributes:
        bits: of a weight.
        codes: the weights in units of their row's scale, see LEVELS_OF_WEIGHTS. 8 bits: int8 of torch's shape. Less:
            those of `matrix` packed side by side, see `pack_signed`.
        scale: (rows,) fp32.
        bias: (rows,) fp32, or None.
        static: scales of inputs and outputs are fixed; else inputs have theirs chosen at run time, and outputs are
            fp32.
        ranges: what static scales must hold, (lowest, highest) of inputs and of outputs. Until they are known the
            layer rounds nothing but its weights.
    """

    def __init__(
        self, shape: list[int], bias: bool, static: bool, ranges: list[Range] | None = None, bits: int = 8
    ) -> None:
        super().__init__()
        self.shape, self.bits, rows = torch.Size(shape), bits, shape[0]
        codes = torch.zeros(shape, dtype=torch.int8)
        self.register_buffer("codes", codes if bits == 8 else pack_signed(codes, bits))
        self.register_buffer("scale", torch.ones(rows))
        self.bias = nn.Parameter(torch.zeros(rows)) if bias else None
        self.static, self.ranges = static, ranges
        self.zeros = torch.zeros(rows, dtype=torch.int64)  # the operator wants zero points; nothing stores them

    def store(self, codes: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        """Fills the layer.

        Args:
            codes: (rows, columns) integers, in the order of `decode`.
            scale: (rows,). bias: (rows,) or None.
        """
        self.codes.copy_(self._shaped(codes) if self.bits == 8 else pack_signed(codes, self.bits))
        self.scale.copy_(scale)
        if bias is not None:
            with torch.no_grad():
                self.bias.copy_(bias)

    def matrix(self) -> Tensor:
        """The codes as a matrix, (rows, columns) int8: columns of a convolution run over (height, width, channel)."""
        if self.bits < 8:
            return unpack_signed(self.codes, self.bits, self.shape.numel()).reshape(self.shape[0], -1)
        return self.codes.permute(0, 2, 3, 1).flatten(1) if len(self.shape) == 4 else self.codes

    def levels(self) -> Tensor:
        """The same in torch's shape."""
        return self.codes if self.bits == 8 else self._shaped(self.matrix())

    def _shaped(self, matrix: Tensor) -> Tensor:
        return matrix.unflatten(1, (*self.shape[2:], -1)).permute(0, 3, 1, 2) if len(self.shape) == 4 else matrix

    def decode(self) -> Tensor:
        """The matrix that the codes mean, (rows, columns) fp32."""
        return self.matrix() * self.scale[:, None]

    @property
    def weight(self) -> Tensor:
        """The same in torch's shape."""
        if torch.compiler.is_exporting():
            per_channel = torch.ops.quantized_decomposed.dequantize_per_channel
            return per_channel(self.codes, self.scale, self.zeros, 0, *LEVELS_OF_WEIGHTS[self.bits], torch.int8)
        return self.levels() * self.scale.reshape(-1, *(1,) * (len(self.shape) - 1))

    def forward(self, x: Tensor) -> Tensor:
        if not self.static:
            return self.product(rounded(x, self.dims), self.bias)
        if self.ranges is None:
            return self.product(x, self.bias)
        inputs, outputs = (grid(*range) for range in self.ranges)
        return _rounded(self.product(_rounded(x, *inputs), self._rounded_bias(inputs[0])), *outputs)

    def _rounded_bias(self, scale: float) -> Tensor | None:
        """The bias of a static layer: an integer in units of its inputs' and its row's scale, which is coarse if the
        weights have few bits. In an export the runtime rounds it."""
        if self.bias is None or torch.compiler.is_exporting():
            return self.bias
        unit = scale * self.scale
        return self.bias + ((self.bias / unit).round() * unit - self.bias).detach()

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x times the weights, plus the bias."""
        raise NotImplementedError

    @property
    def dims(self) -> tuple[int, ...]:
        """Over which the inputs share a scale that is chosen at run time."""
        raise NotImplementedError

    def structure(self) -> dict[str, Any]:
        """Arguments that build an empty layer of this shape, for the checkpoint."""
        return {
            "shape": list(self.shape),
            "bits": self.bits,
            "bias": self.bias is not None,
            "static": self.static,
            "ranges": self.ranges,
        }

    @classmethod
    def from_structure(cls, structure: dict[str, Any]) -> Quantized:
        return cls(**{name: value for name, value in structure.items() if name != "class"})

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, {self.bits} bits, {'static' if self.static else 'dynamic'}"


class QuantizedLinear(Quantized):
    """(…, columns) → (…, rows)."""

    dims = (-1,)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self.weight, bias)


class QuantizedConv2d(Quantized):
    """(N, channels, H, W) → (N, rows, H', W'); zero padding.

    `geometry` has stride, padding, dilation, each [height, width], and groups.
    """

    def __init__(self, geometry: dict[str, Any], **common: Any) -> None:
        super().__init__(**common)
        self.geometry = geometry
        self.groups: int = geometry["groups"]

    @property
    def dims(self) -> tuple[int, ...]:
        if self.bits < 8:
            return -3, -2, -1  # XNNPACK has no such kernel, LiteRT's own see images
        plain = {"stride": [1, 1], "padding": [0, 0], "dilation": self.geometry["dilation"], "groups": 1}
        pointwise = tuple(self.shape[2:]) == (1, 1) and self.geometry == plain
        return (-3,) if pointwise else (-3, -2, -1)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, self.weight, bias, **self.geometry)

    def structure(self) -> dict[str, Any]:
        return {**super().structure(), "geometry": self.geometry}


def static_parts(module: nn.Module) -> list[Quantized]:
    """The layers in it whose scales are fixed, once `calibration.fix_ranges` has told them."""
    return [part for part in module.modules() if isinstance(part, Quantized) and part.static]


@contextlib.contextmanager
def exportable(net: nn.Module, packed_ones: Set[nn.Module] = frozenset()) -> Iterator[None]:
    """Within it the codes of `net` are int8 of torch's shape, for `torch.export` to find; not of `packed_ones`."""
    parts = [part for part in net.modules() if isinstance(part, Quantized) and part not in packed_ones]
    packed = {part: part.codes for part in parts}
    try:
        for part in packed:
            part.codes = part.levels().contiguous()
        yield
    finally:
        for part, codes in packed.items():
            part.codes = codes


def grid(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the 256 levels that span a range; zero is one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, _LEAST_SCALE)
    return scale, round(-128 - low / scale)


def rounded(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x in the 256 levels that its range over `dims` asks for."""
    return _rounded(x, *_chosen_grid(x, dims))


def _chosen_grid(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The same for the range of x over `dims`. In an export the operator marks the place: kernels choose by `dims`."""
    if torch.compiler.is_exporting():
        return torch.ops.quantized_decomposed.choose_qparams.tensor(x, -128, 127, _LEAST_SCALE, torch.int8)
    low, high = x.detach().amin(dims, keepdim=True).clamp(max=0), x.detach().amax(dims, keepdim=True).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=_LEAST_SCALE)
    return scale, (-128 - low / scale).round()


def _rounded(x: Tensor, scale: Tensor | float, zero: Tensor | int) -> Tensor:
    """x in 256 levels. Gradients pass straight through, so that layers before this one can be trained."""
    if torch.compiler.is_exporting():
        levels = torch.ops.quantized_decomposed.quantize_per_tensor(x, scale, zero, *_LEVELS)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(levels, scale, zero, *_LEVELS)
    levels = ((x.detach() / scale).round() + zero).clamp(-128, 127)
    return x + ((levels - zero) * scale - x.detach())
