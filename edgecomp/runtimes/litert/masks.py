"""Masks of minus infinity. The converter writes the lowest finite number in their place, and makes them part of the
bias of the layer before; XNNPACK cuts what a layer gives to finite numbers, but not what an addition gives.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import nn

from . import flatbuffer
from .flatbuffer import schema

_LARGEST = np.finfo(np.float32).max
_LAYERS = (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.CONV_2D)


def infinite(net: nn.Module) -> bool:
    """The net holds masks of infinite values."""
    return any(x.is_floating_point() and x.isinf().any() for x in (*net.parameters(), *net.buffers()))


def restore(model: Any) -> None:
    """Gives a converted model (`ModelT`) its infinite constants again; what a bias has of them is added apart."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if tensor.type == schema.TensorType.FLOAT32 and data is not None and len(data):
                values = np.frombuffer(bytes(data), np.float32)
                if (abs(values) >= _LARGEST).any():
                    values = np.where(abs(values) >= _LARGEST, np.copysign(np.inf, values), values)
                    model.buffers[tensor.buffer].data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    for graph in model.subgraphs:
        operators = []
        for op in graph.operators:
            operators.append(op)
            if model.operatorCodes[op.opcodeIndex].builtinCode in _LAYERS and len(op.inputs) > 2 and op.inputs[2] >= 0:
                operators += _split(model, graph, op)
        graph.operators = operators


def _split(model: Any, graph: Any, op: Any) -> list[Any]:
    """The addition that takes over what is not finite in a bias; none where all is."""
    tensor = graph.tensors[op.inputs[2]]
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != schema.TensorType.FLOAT32:
        return []
    bias = np.frombuffer(bytes(data), np.float32)
    if np.isfinite(bias).all() or op.builtinOptions.fusedActivationFunction != schema.ActivationFunctionType.NONE:
        return []
    finite = np.isfinite(bias)
    op.inputs = list(op.inputs)
    op.inputs[2] = _constant(model, graph, tensor, np.where(finite, bias, 0))
    mask = _constant(model, graph, tensor, np.where(finite, 0, bias))
    sums, inner = op.outputs[0], copy.copy(graph.tensors[op.outputs[0]])
    inner.name = bytes(inner.name) + b"/finite"
    graph.tensors.append(inner)
    op.outputs = [len(graph.tensors) - 1]
    return [flatbuffer.operator(model, "ADD", [op.outputs[0], mask], sums, schema.AddOptionsT())]


def _constant(model: Any, graph: Any, like: Any, values: np.ndarray) -> int:
    buffer, tensor = schema.BufferT(), copy.copy(like)
    buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer, tensor.name = len(model.buffers) - 1, bytes(like.name) + f"/{len(model.buffers)}".encode()
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
