"""Products with a constant matrix, and look-ups in one, as dense and embedding layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from .builder import Builder

_aten = torch.ops.aten


def dense(build: Builder, weight: Tensor, bias: Tensor | None, place: fx.Node, x: fx.Node) -> fx.Node:
    """x (…, n) times weight (m, n), plus bias (m,)."""
    shell = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return build.call(shell, weight, bias, place, x)


def _linear(build: Builder, node: fx.Node) -> fx.Node | str | None:
    x, place, *rest = node.args
    weight, bias = build.value(place), rest[0] if rest else None
    if weight is None:
        return None
    if weight.dim() != 2:
        return "a dense layer of one output has no matrix"
    if bias is None or build.value(bias) is not None:
        return dense(build, weight, build.value(bias), place, x)
    return build.op(_aten.add.Tensor, dense(build, weight, None, place, x), bias)


def _matmul(build: Builder, node: fx.Node) -> fx.Node | str | None:
    left, right = node.args
    if (weight := build.value(right)) is not None:
        return dense(build, weight.T, None, right, left) if weight.dim() == 2 else _NO_MATRIX
    if (weight := build.value(left)) is not None:
        if weight.dim() != 2 or right.meta["val"].dim() < 2:
            return _NO_MATRIX
        turned = dense(build, weight, None, left, build.op(_aten.transpose.int, right, -1, -2))
        return build.op(_aten.transpose.int, turned, -1, -2)
    return None


def _addmm(build: Builder, node: fx.Node) -> fx.Node | str | None:
    bias, x, place = node.args
    weight = build.value(place)
    if weight is None:
        return None
    if node.kwargs:
        return "a product that is scaled as it is added"
    constant = build.value(bias)
    if constant is not None and constant.dim() == 1 and len(constant) == weight.shape[1]:
        return dense(build, weight.T, constant, place, x)
    return build.op(_aten.add.Tensor, dense(build, weight.T, None, place, x), bias)


def _einsum(build: Builder, node: fx.Node) -> fx.Node | str | None:
    """`btd,dhk->bthk`: what is summed over comes last in x, and becomes the columns of the matrix."""
    equation, operands = node.args[:2]
    if len(operands) != 2 or (weight := build.value(operands[1])) is None:
        return None
    inputs, _, given = str(equation).replace(" ", "").partition("->")
    first, second = inputs.split(",")
    summed = [label for label in first if label in second and label not in given]
    kept = [label for label in second if label not in first]
    rest = [label for label in first if label not in summed]
    if "." in equation or not summed or set(second) != {*summed, *kept} or set(given) != {*rest, *kept}:
        return _NO_MATRIX
    sizes = dict(zip(second, weight.shape, strict=True))
    matrix = weight.permute([second.index(label) for label in (*kept, *summed)])
    matrix = build.derived(matrix.reshape(-1, math.prod(sizes[label] for label in summed)), operands[1])
    x = _permuted(build, operands[0], first, [*rest, *summed])
    x = build.op(_aten.flatten.using_ints, x, len(rest), -1) if len(summed) > 1 else x
    y = dense(build, matrix, None, operands[1], x)
    if not kept:
        y = build.op(_aten.squeeze.dim, y, -1)
    elif len(kept) > 1:
        y = build.op(_aten.unflatten.int, y, -1, [sizes[label] for label in kept])
    return _permuted(build, y, [*rest, *kept], list(given))


def _permuted(build: Builder, x: fx.Node, labels: Any, wanted: list[str]) -> fx.Node:
    order = [list(labels).index(label) for label in wanted]
    return x if order == sorted(order) else build.op(_aten.permute.default, x, order)


def _embedding(build: Builder, node: fx.Node) -> fx.Node | str | None:
    place, index = node.args[:2]
    weight = build.value(place)
    if weight is None:
        return None
    return build.call(nn.Embedding(*weight.shape, device="meta"), weight, None, place, index)


def _bag(build: Builder, node: fx.Node) -> str | None:
    """Rows looked up, and their sums, means or maxima for bags of one size. Replaces the node and its first output."""
    place, index, offsets, _, mode, _, scales, _, padding, *_ = (*node.args, *[None] * 9)
    weight = build.value(place)
    if weight is None:
        return None
    others = [user for user in node.users if user.args[1] != 0 and user.users]
    of_one_size = offsets.target == _aten.arange.start_step and offsets.args[0] == 0
    if others or scales is not None or padding is not None or not of_one_size:
        return "a bag of embeddings with weights, padding, or bags of several sizes"
    rows = build.call(nn.Embedding(*weight.shape, device="meta"), weight, None, place, index)
    bags = build.op(_aten.unflatten.int, rows, 0, [-1, offsets.args[2]])
    joined = build.op(_BAGS[mode or 0], bags, [1])
    for user in list(node.users):
        user.replace_all_uses_with(joined)
        build.graph.erase_node(user)
    build.graph.erase_node(node)
    return None


def _bilinear(build: Builder, node: fx.Node) -> fx.Node | str | None:
    """xᵀ·W·y for every output: rows of all W times x, then their products with y."""
    x, y, place, *rest = node.args
    weight = build.value(place)
    if weight is None:
        return None
    outputs, rows, columns = weight.shape
    matrix = build.derived(weight.transpose(1, 2).reshape(-1, rows), place)
    result = build.op(_aten.unflatten.int, dense(build, matrix, None, place, x), -1, [outputs, columns])
    result = build.op(_aten.mul.Tensor, result, build.op(_aten.unsqueeze.default, y, -2))
    result = build.op(_aten.sum.dim_IntList, result, [-1])
    return build.op(_aten.add.Tensor, result, rest[0]) if rest and rest[0] is not None else result


_BAGS = [_aten.sum.dim_IntList, _aten.mean.dim, _aten.amax.default]
_NO_MATRIX = "its product is not one of rows with a matrix"

FORMS = {
    _aten.linear.default: _linear,
    _aten.matmul.default: _matmul,
    _aten.mm.default: _matmul,
    _aten.addmm.default: _addmm,
    _aten.einsum.default: _einsum,
    _aten.embedding.default: _embedding,
    _aten.embedding_bag.padding_idx: _bag,
    _aten.bilinear.default: _bilinear,
}
