"""Convolutions as `nn.Conv2d`, whatever the number of their dimensions, with zero padding alike on both sides.

- Over one dimension: an image one pixel high.
- Over three: neighbours in depth become channels, depths become images.
- Transposed: where windows do not overlap, a 1×1 convolution whose outputs become neighbours; else a convolution with
  the kernel turned round, over the input with zeros between its pixels (Dumoulin and Visin 2016, §4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx, nn

from ..layers.transposed import TransposedConv2d, swapped
from .builder import Builder
from .fold import CONVOLUTIONS, TRANSPOSED

_aten = torch.ops.aten


def _convolution(build: Builder, node: fx.Node) -> fx.Node | str | None:
    spatial, weight, bias = CONVOLUTIONS[node.target], build.value(node.args[1]), build.value(_argument(node, 2))
    if weight is None:
        return None
    if bias is None and _argument(node, 2) is not None:
        return "its bias depends on the inputs"
    groups, alone = _argument(node, 6, 1), node.meta["val"].dim() == spatial + 1
    stride, dilation = (_sizes(node, place, 1, spatial) for place in (3, 5))
    before, after = _padding(node, weight, dilation)
    depth = node.args[0].meta["val"].shape[-3] if spatial == 3 else 0
    x = build.op(_aten.unsqueeze.default, node.args[0], 0) if alone else node.args[0]
    if before != after:
        pads = [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
        x, depth = build.op(_aten.constant_pad_nd.default, x, pads), depth + before[0] + after[0]
        before = [0] * spatial
    shape = weight.shape
    if spatial == 1:
        x, weight = build.op(_aten.unsqueeze.default, x, 2), weight.unsqueeze(2)
        stride, before, dilation = [1, *stride], [0, *before], [1, *dilation]
    elif spatial == 3:
        x, depth = _depths(build, x, (depth, shape[2], stride[0], before[0], dilation[0]), groups)
        weight = build.derived(weight.transpose(1, 2).flatten(1, 2), node.args[1])
        stride, before, dilation = stride[1:], before[1:], dilation[1:]
    channels = weight.shape[1] * groups, weight.shape[0]
    geometry = (tuple(values) for values in (weight.shape[2:], stride, before, dilation))
    layer = nn.Conv2d(*channels, *geometry, groups, bias is not None, device="meta")
    y = build.call(layer, weight, bias, node.args[1], x)
    if spatial == 1:
        y = build.op(_aten.squeeze.dim, y, 2)
    elif spatial == 3:
        y = build.op(_aten.permute.default, build.op(_aten.unflatten.int, y, 0, [-1, depth]), [0, 2, 1, 3, 4])
    return build.op(_aten.squeeze.dim, y, 0) if alone else y


def _depths(build: Builder, x: fx.Node, along: tuple[int, int, int, int, int], groups: int) -> tuple[fx.Node, int]:
    """(N, S, D, H, W) → (N·D', k·S, H, W), and D': images of all that a kernel sees at each of its places in depth,
    group by group.

    Args:
        along: D, and of the kernel in depth its size, stride, padding and dilation.
    """
    depth, size, stride, padding, dilation = along
    if padding:
        x = build.op(_aten.constant_pad_nd.default, x, [0, 0, 0, 0, padding, padding])
    places = (depth + 2 * padding - dilation * (size - 1) - 1) // stride + 1
    starts = range(0, dilation * size, dilation)
    seen = [build.op(_aten.slice.Tensor, x, 2, s, s + stride * (places - 1) + 1, stride) for s in starts]
    if groups == 1 or size == 1:
        x = build.op(_aten.cat.default, seen, 1) if size > 1 else seen[0]
    else:
        apart = [build.op(_aten.unflatten.int, part, 1, [groups, -1]) for part in seen]
        x = build.op(_aten.flatten.using_ints, build.op(_aten.cat.default, apart, 2), 1, 2)
    x = build.op(_aten.permute.default, x, [0, 2, 1, 3, 4])
    return build.op(_aten.flatten.using_ints, x, 0, 1), places


def _transposed(build: Builder, node: fx.Node) -> fx.Node | str | None:
    spatial, weight, bias = TRANSPOSED[node.target], build.value(node.args[1]), build.value(_argument(node, 2))
    if weight is None:
        return None
    if bias is None and _argument(node, 2) is not None:
        return "its bias depends on the inputs"
    stride, padding, extra = (_sizes(node, place, default, spatial) for place, default in ((3, 1), (4, 0), (5, 0)))
    dilation = _sizes(node, 7, 1, spatial)
    if spatial == 3:
        return "there is no kernel for transposed convolutions over three dimensions"
    if node.meta["val"].dim() != spatial + 2:
        return "a transposed convolution of a sample that is not in a batch"
    x, groups = node.args[0], _argument(node, 6, 1)
    if spatial == 1:
        x, weight = build.op(_aten.unsqueeze.default, x, 2), weight.unsqueeze(2)
        stride, padding, extra, dilation = [1, *stride], [0, *padding], [0, *extra], [1, *dilation]
    if groups == 1 and list(weight.shape[2:]) == stride and not any(padding) and not any(extra):
        y = _neighbours(build, node, x, weight, bias)
    else:
        turned = swapped(weight, groups).flip(2, 3)
        channels, size = (turned.shape[1] * groups, turned.shape[0]), tuple(turned.shape[2:])
        kernel = nn.Conv2d(*channels, size, dilation=tuple(dilation), groups=groups, device="meta")
        layer = TransposedConv2d(kernel, tuple(stride), tuple(padding), tuple(extra))
        if reason := layer.refuse():
            return reason
        y = build.call(layer, build.derived(turned, node.args[1]), bias, node.args[1], x)
    return build.op(_aten.squeeze.dim, y, 2) if spatial == 1 else y


def _neighbours(build: Builder, node: fx.Node, x: fx.Node, weight: Tensor, bias: Tensor | None) -> fx.Node:
    """Every pixel becomes a block of pixels that no other has a part in."""
    (inputs, outputs, *block), area = weight.shape, math.prod(weight.shape[2:])
    matrix = build.derived(weight.permute(1, 2, 3, 0).reshape(-1, inputs, 1, 1), node.args[1])
    bias = None if bias is None else build.derived(bias.repeat_interleave(area), _argument(node, 2))
    layer = nn.Conv2d(inputs, outputs * area, 1, bias=bias is not None, device="meta")
    y = build.call(layer, matrix, bias, node.args[1], x)
    if block[0] == block[1]:
        return build.op(_aten.pixel_shuffle.default, y, block[0])
    y = build.op(_aten.unflatten.int, y, 1, [outputs, *block])
    y = build.op(_aten.permute.default, y, [0, 1, 4, 2, 5, 3])
    return build.op(_aten.flatten.using_ints, build.op(_aten.flatten.using_ints, y, 4, 5), 2, 3)


def _padding(node: fx.Node, weight: Tensor, dilation: list[int]) -> tuple[list[int], list[int]]:
    """Zeros before and after the input, along every dimension."""
    spatial, given = CONVOLUTIONS[node.target], _argument(node, 4, 0)
    if given == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return [size // 2 for size in total], [size - size // 2 for size in total]
    sizes = [0] * spatial if given == "valid" else _sizes(node, 4, 0, spatial)
    return sizes, sizes


def _sizes(node: fx.Node, place: int, default: int, spatial: int) -> list[int]:
    given = _argument(node, place, default)
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    return values * spatial if len(values) == 1 else values


def _argument(node: fx.Node, place: int, default: object = None) -> object:
    return node.args[place] if len(node.args) > place else default


FORMS = {**dict.fromkeys(CONVOLUTIONS, _convolution), **dict.fromkeys(TRANSPOSED, _transposed)}
