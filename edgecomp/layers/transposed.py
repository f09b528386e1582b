"""A transposed convolution as a convolution over its input with zeros between the pixels, so that every method and
kernel for convolutions takes it (Dumoulin and Visin 2016, §4)."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[int, int]


class TransposedConv2d(nn.Module):
    """(N, channels, H, W) → (N, rows, H', W').

    Attributes:
        weight: the convolution, whose kernel is the transposed one's turned round: stride 1, no padding.
        stride, padding, extra: those of the transposed one, (height, width); `extra` is its output padding.
    """

    def __init__(self, weight: nn.Conv2d, stride: Pair, padding: Pair, extra: Pair) -> None:
        super().__init__()
        self.weight, self.stride, self.padding, self.extra = weight, stride, padding, extra
        reach = [d * (k - 1) for d, k in zip(weight.dilation, weight.kernel_size, strict=True)]
        self.before = [r - p for r, p in zip(reach, padding, strict=True)]
        self.after = [b + e - (s - 1) for b, e, s in zip(self.before, extra, stride, strict=True)]

    def refuse(self) -> str:
        """Why it cannot be computed so; empty if it can."""
        return "a transposed convolution that cuts off more than its kernel reaches" if min(self.before) < 0 else ""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight(self._spread(x))

    def _spread(self, x: Tensor) -> Tensor:
        """The input with zeros between its pixels, and around it."""
        for dim, step in ((2, self.stride[0]), (3, self.stride[1])):
            if step > 1:  # a new last dimension of the pixel and its zeros, or one between height and width
                x = F.pad(x.unsqueeze(dim + 1), (0, 0) * (3 - dim) + (0, step - 1)).flatten(dim, dim + 1)
        (top, left), (bottom, right) = self.before, self.after
        x = F.pad(x, (left, max(right, 0), top, max(bottom, 0)))
        return x[:, :, : x.shape[2] + min(bottom, 0), : x.shape[3] + min(right, 0)]

    def plain(self) -> nn.ConvTranspose2d:
        """The layer of torch that computes the same, while `weight` is a plain convolution."""
        own = self.weight
        layer = nn.ConvTranspose2d(
            own.in_channels,
            own.out_channels,
            own.kernel_size,
            self.stride,
            self.padding,
            self.extra,
            own.groups,
            own.bias is not None,
            own.dilation,
        )
        layer.weight = nn.Parameter(swapped(own.weight.detach(), own.groups).flip(2, 3).contiguous())
        layer.bias = own.bias
        return layer.eval()

    def extra_repr(self) -> str:
        return f"stride={self.stride}, padding={self.padding}, output_padding={self.extra}"


class Cropped(nn.Module):
    """A transposed convolution whose padding is cut off its outputs: LiteRT's converter knows few other paddings."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        sides = zip(layer.padding[::-1], layer.output_padding[::-1], strict=True)
        self.cut = [n for p, extra in sides for n in (-p, extra - p)]
        self.bias = layer.bias
        self.whole = copy.copy(layer)
        self.whole.padding, self.whole.output_padding = (0, 0), (0, 0)
        self.whole.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.whole(x), self.cut)
        return y if self.bias is None else y + self.bias[:, None, None]


def swapped(weight: Tensor, groups: int) -> Tensor:
    """(g·a, b, …) → (g·b, a, …): rows for columns in each group's part of a weight."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def with_plain_transposed(net: nn.Module) -> nn.Module:
    """A copy in which transposed convolutions that nothing has been done to are torch's own, which are faster."""
    transposed: dict[str, Any] = {
        name: layer
        for name, layer in net.named_modules()
        if isinstance(layer, TransposedConv2d) and isinstance(layer.weight, nn.Conv2d)
    }
    if not transposed:
        return net
    net = copy.deepcopy(net)
    for name in transposed:
        net.set_submodule(name, net.get_submodule(name).plain())
    return net
