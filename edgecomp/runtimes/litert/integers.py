"""Layers of 8-, 4- and 2-bit weights in a `.tflite`: plain layers go through the converter, whose fp32 weights then
become the integers that they stand for.

A dynamic layer is an op with fp32 inputs and outputs and integer weights, which rounds its inputs itself. A static
layer gets a QUANTIZE before and a DEQUANTIZE after it, and an int32 bias in units of its inputs' and its row's scale.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import BuildError
from ...layers.packing import pack_signed
from ...layers.quantized import Quantized, QuantizedLinear, grid
from ...layers.recurrent import inside_recurrences
from . import flatbuffer
from .flatbuffer import schema

_TYPES = {8: schema.TensorType.INT8, 4: schema.TensorType.INT4, 2: schema.TensorType.INT2}
_DENSE, _DEPTHWISE = schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.DEPTHWISE_CONV_2D
_MULTIPLYING = (_DENSE, schema.BuiltinOperator.CONV_2D, _DEPTHWISE)


def plain_layers(net: nn.Module) -> dict[str, Quantized]:
    """Replaces the integer layers of `net` by torch's, with the weights they mean; returns them by name. Those of
    recurrences stay: their op takes them as they are."""
    apart = inside_recurrences(net)
    layers = {n: part for n, part in net.named_modules() if isinstance(part, Quantized) and part not in apart}
    replacements = {part: _plain(part) for part in layers.values()}
    for name, part in net.named_modules(remove_duplicate=False):
        if part in replacements:
            net.set_submodule(name, replacements[part])
    return layers


def store_integers(model: Any, layers: dict[str, Quantized]) -> None:
    """Makes the plain layers of a converted model (`ModelT`) integer ones again.

    Raises:
        BuildError: the converter has changed the weights of a layer, so that they are not found.
    """
    waiting: dict[bytes, list[tuple[str, Quantized]]] = defaultdict(list)
    for name, layer in layers.items():
        for form in forms(layer.decode()):
            waiting[_digest(form.numpy())].append((name, layer))
    missing, rewriters, plain = set(layers), [], []
    for graph in model.subgraphs:
        rewriter = _Rewriter(model, graph)
        for op in list(graph.operators):
            if model.operatorCodes[op.opcodeIndex].builtinCode not in _MULTIPLYING:
                continue
            data = model.buffers[graph.tensors[op.inputs[1]].buffer].data
            twins = waiting.get(_digest(data), []) if data is not None else []
            if twins:  # of several equal layers each has its op, in order; of one, all have
                name, layer = twins.pop(0) if len(twins) > 1 else twins[0]
                missing.discard(name)
                rewriter.rewrite(op, layer, layer.scale)
            elif data is not None:
                plain.append((rewriter, op, data))
        rewriters.append(rewriter)
    for rewriter, op, data in plain:  # a factor behind a layer has become part of its weights
        scales = {name: _scaled(layers[name], data) for name in missing if not layers[name].static}
        for name, scale in [(name, scale) for name, scale in scales.items() if scale is not None][:1]:
            missing.discard(name)
            rewriter.rewrite(op, layers[name], scale)
    for rewriter in rewriters:
        rewriter.finish()
    if missing:
        raise BuildError(
            f"{', '.join(sorted(missing))}: LiteRT's converter has merged the layer with its neighbours",
            "Leave it out with --layers, or give it another method.",
        )
    _drop_unused(model)


def forms(matrix: Tensor) -> list[Tensor]:
    """How the weights (rows, columns) lie in the file: as they are, or transposed for one input channel per group."""
    return [matrix.contiguous(), matrix.T.contiguous()]


def _scaled(layer: Quantized, data: Any) -> Tensor | None:
    """The row scales with which the layer's integers mean these weights; None if none do."""
    codes, weights = layer.matrix().float(), torch.from_numpy(np.frombuffer(bytes(data), np.float32).copy())
    if weights.numel() != codes.numel():
        return None
    weights = weights.reshape(codes.shape)
    scale = (weights * codes).sum(1) / codes.square().sum(1).clamp(min=1)
    alike = torch.allclose(scale[:, None] * codes, weights, rtol=1e-4, atol=1e-6 * weights.abs().max().item())
    return scale if alike and (scale >= 0).all() else None


class _Rewriter:
    """Changes ops of one graph, and adds others around them."""

    def __init__(self, model: Any, graph: Any) -> None:
        self.model, self.graph = model, graph
        self.around: dict[int, tuple[Any, Any]] = {}  # by op, what comes before and after it
        self.weights: dict[int, int] = {}  # by fp32 tensor, the integer one

    def rewrite(self, op: Any, layer: Quantized, scale: Tensor) -> None:
        code = self.model.operatorCodes[op.opcodeIndex].builtinCode
        op.inputs = list(op.inputs)
        if op.inputs[1] not in self.weights:
            self.weights[op.inputs[1]] = self._weights(op.inputs[1], layer, scale, code == _DEPTHWISE)
        op.inputs[1] = self.weights[op.inputs[1]]
        if layer.static and layer.ranges is not None:
            self._fix_scales(op, layer)
        elif code == _DENSE:
            op.builtinOptions.asymmetricQuantizeInputs = True

    def finish(self) -> None:
        """Puts the new ops in their places."""
        ops = []
        for op in self.graph.operators:
            before, after = self.around.get(id(op), (None, None))
            ops += [each for each in (before, op, after) if each is not None]
        self.graph.operators = ops

    def _weights(self, plain: int, layer: Quantized, scale: Tensor, depthwise: bool) -> int:
        matrix = forms(layer.matrix())[depthwise]
        shape = self.graph.tensors[plain].shape
        return self._tensor(
            plain, "", shape, layer.bits, scale.numpy(), 3 if depthwise else 0, pack_signed(matrix, layer.bits)
        )

    def _fix_scales(self, op: Any, layer: Quantized) -> None:
        (scale_in, zero_in), (scale_out, zero_out) = (grid(*bounds) for bounds in layer.ranges)
        tensors, x, y = self.graph.tensors, op.inputs[0], op.outputs[0]
        op.inputs[0] = self._tensor(x, "/rounded", tensors[x].shape, 8, [scale_in], zero=zero_in)
        op.outputs = [self._tensor(y, "/rounded", tensors[y].shape, 8, [scale_out], zero=zero_out)]
        if len(op.inputs) > 2 and op.inputs[2] >= 0:
            unit = layer.scale.double() * scale_in
            bias = torch.from_numpy(np.frombuffer(bytes(self._data(op.inputs[2])), np.float32).copy())
            levels = (bias / unit).round().clamp(-(2**31), 2**31 - 1).to(torch.int32)
            op.inputs[2] = self._tensor(op.inputs[2], "/int32", [len(bias)], 32, unit.float().numpy(), data=levels)
        before = flatbuffer.operator(self.model, "QUANTIZE", [x], op.inputs[0], schema.QuantizeOptionsT())
        after = flatbuffer.operator(self.model, "DEQUANTIZE", [op.outputs[0]], y, schema.DequantizeOptionsT())
        self.around[id(op)] = (before, after)

    def _data(self, tensor: int) -> Any:
        return self.model.buffers[self.graph.tensors[tensor].buffer].data

    def _tensor(
        self, like: int, suffix: str, shape: Any, bits: int, scale: Any, axis: int = 0, data: Any = None, zero: int = 0
    ) -> int:
        """A new tensor named after another; its index."""
        tensor, quantization = schema.TensorT(), schema.QuantizationParametersT()
        quantization.scale = np.asarray(scale, np.float32)
        quantization.zeroPoint = np.full(len(quantization.scale), zero, np.int64)
        quantization.quantizedDimension = axis
        tensor.name = bytes(self.graph.tensors[like].name) + suffix.encode()
        tensor.shape, tensor.hasRank, tensor.quantization = np.asarray(shape, np.int32), True, quantization
        tensor.type = _TYPES.get(bits, schema.TensorType.INT32)
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.contiguous().numpy().tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1


def _drop_unused(model: Any) -> None:
    """Empties the buffers of tensors that no op takes any more, and leaves the tensors out."""
    for graph in model.subgraphs:
        used = {index for op in graph.operators for index in (*op.inputs, *op.outputs)}
        used |= {*graph.inputs, *graph.outputs}
        kept = [index for index in range(len(graph.tensors)) if index in used]
        place = {old: new for new, old in enumerate(kept)} | {-1: -1}
        graph.tensors = [graph.tensors[index] for index in kept]
        for op in graph.operators:
            op.inputs, op.outputs = ([place[i] for i in indices] for indices in (op.inputs, op.outputs))
        graph.inputs, graph.outputs = ([place[i] for i in indices] for indices in (graph.inputs, graph.outputs))
        for signature in model.signatureDefs or []:
            for named in (*(signature.inputs or []), *(signature.outputs or [])):
                named.tensorIndex = place[named.tensorIndex]
    held = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    held |= {entry.buffer for entry in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index not in held:
            buffer.data = None


def _plain(layer: Quantized) -> nn.Module:
    rows, columns, bias = layer.shape[0], layer.shape[1], layer.bias is not None
    with torch.no_grad():
        if isinstance(layer, QuantizedLinear):
            plain: nn.Module = nn.Linear(columns, rows, bias)
        else:
            plain = nn.Conv2d(columns * layer.groups, rows, layer.shape[2:], bias=bias, **layer.geometry)
        plain.weight.copy_(layer.weight)
        if bias:
            plain.bias.copy_(layer.bias)
    return plain.eval()


def _digest(data: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(data)).digest()
