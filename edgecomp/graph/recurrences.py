"""LSTM, GRU and plain RNN: of every layer and direction a dense layer for all steps at once, and a `Recurrence`."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..layers.recurrent import Kind, Recurrence
from .builder import Builder
from .products import dense

_aten = torch.ops.aten
_KINDS: dict[Any, Kind] = {
    _aten.lstm.input: "lstm",
    _aten.gru.input: "gru",
    _aten.rnn_tanh.input: "rnn_tanh",
    _aten.rnn_relu.input: "rnn_relu",
}


def _recurrence(build: Builder, node: fx.Node) -> str | None:
    """Replaces the node and what takes its outputs out of their tuple."""
    x, states, weights, biased, layers, _, _, bidirectional, batch_first = node.args
    directions, each = 1 + bidirectional, 4 if biased else 2
    if len(weights) != layers * directions * each:
        return "a recurrent layer with projections"
    if any(build.value(weight) is None for weight in weights):
        return "the weights of its recurrence depend on the inputs"
    if node.meta["val"][0].dim() != 3:
        return "a recurrent layer without a batch"
    kind = _KINDS[node.target]
    states = states if kind == "lstm" else [states]
    x = build.op(_aten.transpose.int, x, 0, 1) if batch_first else x
    ends: list[list[fx.Node]] = [[] for _ in states]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            given = [build.op(_aten.select.int, state, 0, place) for state in states]
            own = weights[place * each : (place + 1) * each]
            results = _steps(build, kind, x, given, own, bool(direction))
            outputs.append(build.op(operator.getitem, results, 0))
            for number, end in enumerate(ends):
                end.append(build.op(operator.getitem, results, 1 + number))
        x = build.op(_aten.cat.default, outputs, -1) if directions > 1 else outputs[0]
    x = build.op(_aten.transpose.int, x, 0, 1) if batch_first else x
    replaced = [x, *(build.op(_aten.stack.default, end) for end in ends)]
    for user in list(node.users):
        user.replace_all_uses_with(replaced[user.args[1]])
        build.graph.erase_node(user)
    build.graph.erase_node(node)
    return None


def _steps(
    build: Builder, kind: Kind, x: fx.Node, states: list[fx.Node], weights: list[fx.Node], reverse: bool
) -> fx.Node:
    """All steps of one direction of a layer: (out, last h, last c or None).

    Args:
        x: (T, N, features). states: h, and c of an LSTM, (N, hidden).
        weights: of the inputs and of the hidden state, then their biases if there are any.
    """
    into, hidden, *biases = weights
    values: list[Tensor | None] = [build.value(weight) for weight in weights]
    given, own = (values[2], values[3]) if biases else (None, None)
    projected = dense(build, values[0], given, into, x)
    rows, columns = values[1].shape
    layer = nn.Linear(columns, rows, own is not None, device="meta")
    return build.call(Recurrence(kind, layer, reverse), values[1], own, hidden, projected, *states)


FORMS = dict.fromkeys(_KINDS, _recurrence)
