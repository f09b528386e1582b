"""Writes a `.tflite` again with its layers as they are now. What is no layer, or has not changed, stays as it was.

A coded layer becomes a custom operator, see `runtimes/litert.py`. Its codes take the place of its weights, in the same
tensor and buffer; what the file's operator did besides (activation, uneven padding) becomes operators of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from . import tflite
from .file_net import FileNet, Site
from .files import atomic_file
from .layers.codebook import CodebookConv2d, Coded
from .layers.matrix import weight_matrix
from .tflite import schema
from .tflite_model import FUSED, main_graph

_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
}


def write(net: FileNet, path: Path) -> None:
    """Writes the file with the net's layers; the file as it was if none has changed."""
    model = tflite.parse(net.file)
    writer = _Writer(model)
    changed = [writer.put(name, net.get_submodule(name), site) for name, site in net.sites.items()]
    if any(changed):
        writer.finish()
        tflite.write(model, path)
    else:
        with atomic_file(path) as partial:
            partial.write_bytes(net.file)


class _Writer:
    """Changes the main graph of a model."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.subgraphs[main_graph(model)]
        self._empty = next(i for i, buffer in enumerate(model.buffers) if buffer.data is None or not len(buffer.data))
        self._replaced: dict[int, list[Any]] = {}

    def put(self, name: str, layer: nn.Module, site: Site) -> bool:
        """Gives a layer of the file the weights of `layer`. False if these are what it has."""
        op = self.graph.operators[site.operator]
        bias = self._bias(name, op, layer)
        if isinstance(layer, Coded):
            self._replaced[site.operator] = self._coded(name, op, layer, site, bias)
            return True
        same_bias = bias == (op.inputs[2] if len(op.inputs) > 2 else -1)
        data = _bytes(weight_matrix(layer))
        buffer = self.model.buffers[self.graph.tensors[op.inputs[1]].buffer]
        if same_bias and data.tobytes() == bytes(buffer.data):
            return False
        buffer.data = data
        op.inputs = [*op.inputs[:2], bias]
        return True

    def finish(self) -> None:
        """Puts the operators in their places; until then indices are those of the file."""
        operators = enumerate(self.graph.operators)
        self.graph.operators = [new for index, op in operators for new in self._replaced.get(index, [op])]

    def _coded(self, name: str, op: Any, layer: Coded, site: Site, bias: int) -> list[Any]:
        """The operators that take the place of one."""
        x, weight, y = op.inputs[0], self.graph.tensors[op.inputs[1]], op.outputs[0]
        before, after = [], []
        if site.padding is not None:
            x = self._padded(name, x, site.padding, before)
        if site.folds:
            x = self._folded(name, x, layer.format.columns, before)
        fused = getattr(op.builtinOptions, "fusedActivationFunction", schema.ActivationFunctionType.NONE)
        activation = FUSED[tflite.name_of(schema.ActivationFunctionType, fused)]
        if activation is not None:
            like = self.graph.tensors[y]
            inner = self._tensor(f"{name}/before_{activation.lower()}", like.shape, like.shapeSignature)
            after = [self._operator(activation, [inner], y)]
            y = inner
        weight.type, weight.shape, weight.shapeSignature = schema.TensorType.INT8, [layer.format.codes_bytes], None
        weight.quantization = None
        self.model.buffers[weight.buffer].data = _bytes(layer.codes)
        inputs = [x, op.inputs[1], self._constant(f"{name}/codebook", layer.codebook)]
        if layer.scale is not None:
            inputs.append(self._constant(f"{name}/scale", layer.scale))
        if bias == -1 and layer.scale is None:  # the number of rows must be seen in some shape
            bias = self._constant(f"{name}/bias", np.zeros(layer.format.rows, np.float32))
        if bias != -1:
            inputs.append(bias)
        f = layer.format
        settings = [f.rows, f.axis, f.tile, layer.scale is not None, bias != -1]
        sizes = []
        if isinstance(layer, CodebookConv2d):
            settings += [n for key in ("kernel", "stride", "padding", "dilation") for n in layer.geometry[key]]
            sizes = [np.zeros(n, np.int8) for n in self.graph.tensors[y].shape[1:3]]
        inputs.append(self._constant(f"{name}/settings", np.array(settings, np.int32)))
        inputs += [self._constant(f"{name}/{which}", n) for which, n in zip(("height", "width"), sizes, strict=False)]
        custom = "edgecomp_codebook_conv2d" if sizes else "edgecomp_codebook_linear"
        return [*before, self._operator("CUSTOM", inputs, y, custom=custom), *after]

    def _bias(self, name: str, op: Any, layer: nn.Module) -> int:
        """The tensor of a layer's bias: that of the file unless it has changed, -1 if there is none."""
        old = op.inputs[2] if len(op.inputs) > 2 else -1
        if layer.bias is None:
            return -1
        data = _bytes(layer.bias)
        if old != -1 and bytes(self.model.buffers[self.graph.tensors[old].buffer].data) == data.tobytes():
            return int(old)
        return self._constant(f"{name}/bias", layer.bias)

    def _padded(self, name: str, x: int, padding: tuple[int, int, int, int], operators: list[Any]) -> int:
        """Adds an operator that pads images; the tensor of what it gives."""
        top, bottom, left, right = padding
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        tensor = self.graph.tensors[x]
        signature = tensor.shapeSignature
        open_shape = None if signature is None or not len(signature) else signature + amounts.sum(1)
        y = self._tensor(f"{name}/padded", tensor.shape + amounts.sum(1), open_shape)
        inputs = [x, self._constant(f"{name}/padding", amounts)]
        operators.append(self._operator("PAD", inputs, y, schema.PadOptionsT()))
        return y

    def _folded(self, name: str, x: int, columns: int, operators: list[Any]) -> int:
        """Adds an operator that makes rows of any shape; the tensor of what it gives."""
        tensor = self.graph.tensors[x]
        signature = tensor.shapeSignature
        open_shape = None if signature is None or not len(signature) else [-1, columns]
        y = self._tensor(f"{name}/rows", [int(np.prod(tensor.shape)) // columns, columns], open_shape)
        inputs = [x, self._constant(f"{name}/shape_of_rows", np.array([-1, columns], np.int32))]
        options = schema.ReshapeOptionsT()
        options.newShape = [-1, columns]
        operators.append(self._operator("RESHAPE", inputs, y, options))
        return y

    # --- the tree -----------------------------------------------------------------------------------------

    def _constant(self, name: str, values: Tensor | np.ndarray) -> int:
        array = values.detach().numpy() if isinstance(values, Tensor) else values
        buffer = schema.BufferT()
        buffer.data = _bytes(array)
        self.model.buffers.append(buffer)
        index = self._tensor(name, array.shape)
        self.graph.tensors[index].type = _TYPES[array.dtype]
        self.graph.tensors[index].buffer = len(self.model.buffers) - 1
        return index

    def _tensor(self, name: str, shape: Any, signature: Any = None) -> int:
        """Adds an fp32 tensor that is computed."""
        tensor = schema.TensorT()
        tensor.name, tensor.hasRank = name, True
        tensor.shape, tensor.shapeSignature = np.array(shape, np.int32), signature
        tensor.type, tensor.buffer = schema.TensorType.FLOAT32, self._empty
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _operator(self, kind: str, inputs: list[int], output: int, options: Any = None, custom: str = "") -> Any:
        op = schema.OperatorT()
        op.opcodeIndex = self._code(kind, custom)
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        if custom:
            op.customOptions = [0]
        return op

    def _code(self, kind: str, custom: str) -> int:
        """The index of an operator code, added if it is not there in version 1."""
        builtin = getattr(schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            known = max(code.builtinCode, code.deprecatedBuiltinCode), tflite.text(code.customCode), code.version
            if known == (builtin, custom, 1):
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, 1
        code.deprecatedBuiltinCode = min(builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
        code.customCode = custom or None
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


def _bytes(values: Tensor | np.ndarray) -> np.ndarray:
    """The bytes of a tensor, (n,) uint8."""
    array = values.detach().contiguous().numpy() if isinstance(values, Tensor) else np.ascontiguousarray(values)
    return array.reshape(-1).view(np.uint8)
