"""Single steps of recurrences, as loops over LSTMCell and the like unroll into: two dense layers, and their gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .builder import Builder
from .products import dense

_aten = torch.ops.aten


def _lstm(build: Builder, node: fx.Node) -> str | None:
    """h' = σ(o)·tanh(c'), c' = σ(f)·c + σ(i)·tanh(g). Replaces the node and what takes its outputs."""
    (_, c), width = node.args[1], node.meta["val"][0].shape[-1]
    rows = _rows(build, node, node.args[1][0])
    if isinstance(rows, str):
        return rows
    i, f, g, o = (_gate(build, build.op(_aten.add.Tensor, *rows), number, width) for number in range(4))
    kept = build.op(_aten.mul.Tensor, build.op(_aten.sigmoid.default, f), c)
    new = build.op(_aten.mul.Tensor, build.op(_aten.sigmoid.default, i), build.op(_aten.tanh.default, g))
    c = build.op(_aten.add.Tensor, kept, new)
    h = build.op(_aten.mul.Tensor, build.op(_aten.sigmoid.default, o), build.op(_aten.tanh.default, c))
    for user in list(node.users):
        user.replace_all_uses_with((h, c)[user.args[1]])
        build.graph.erase_node(user)
    build.graph.erase_node(node)
    return None


def _gru(build: Builder, node: fx.Node) -> fx.Node | str:
    """h' = n + σ(z)·(h − n), n = tanh(n_x + σ(r)·n_h)."""
    h, width = node.args[1], node.meta["val"].shape[-1]
    rows = _rows(build, node, h)
    if isinstance(rows, str):
        return rows
    (rx, zx, nx), (rh, zh, nh) = ([_gate(build, part, number, width) for number in range(3)] for part in rows)
    r, z = (build.op(_aten.sigmoid.default, build.op(_aten.add.Tensor, *pair)) for pair in ((rx, rh), (zx, zh)))
    n = build.op(_aten.tanh.default, build.op(_aten.add.Tensor, nx, build.op(_aten.mul.Tensor, r, nh)))
    return build.op(_aten.add.Tensor, n, build.op(_aten.mul.Tensor, z, build.op(_aten.sub.Tensor, h, n)))


def _plain(build: Builder, node: fx.Node) -> fx.Node | str:
    rows = _rows(build, node, node.args[1])
    if isinstance(rows, str):
        return rows
    return build.op(_ACTIVATIONS[node.target], build.op(_aten.add.Tensor, *rows))


def _rows(build: Builder, node: fx.Node, h: fx.Node) -> tuple[fx.Node, fx.Node] | str:
    """What the inputs and the hidden state give, (N, gates·hidden) each."""
    x, _, into, hidden, *biases = (*node.args, *[None] * (6 - len(node.args)))
    values = [build.value(into), build.value(hidden)]
    if any(value is None for value in values):
        return "the weights of its recurrence depend on the inputs"
    own = [None if bias is None else build.value(bias) for bias in biases]
    return dense(build, values[0], own[0], into, x), dense(build, values[1], own[1], hidden, h)  # type: ignore[arg-type]


def _gate(build: Builder, rows: fx.Node, number: int, width: int) -> fx.Node:
    return build.op(_aten.slice.Tensor, rows, -1, number * width, (number + 1) * width)


_ACTIVATIONS: dict[Any, Any] = {
    _aten.rnn_tanh_cell.default: _aten.tanh.default,
    _aten.rnn_relu_cell.default: _aten.relu.default,
}

FORMS = {_aten.lstm_cell.default: _lstm, _aten.gru_cell.default: _gru, **dict.fromkeys(_ACTIVATIONS, _plain)}
