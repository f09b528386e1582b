"""Writes a `.tflite` again with its layers as they are now. What is no layer, or has not changed, stays as it was.

A coded layer becomes a custom operator, see `runtimes/litert.py`. Its codes take the place of its weights, in the same
tensor and buffer; a ReLU goes into it, and what the file's operator did besides (another activation, uneven padding)
becomes operators of their own.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...layers.codebook import CodebookConv2d, Coded
from ...layers.matrix import weight_matrix
from ...util.files import atomic_file
from . import flatbuffer
from .file_net import FileNet, Site
from .flatbuffer import schema
from .reader import FUSED, main_graph

_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
}


def write(net: FileNet, path: Path) -> None:
    """Writes the file with the net's layers; the file as it was if none has changed."""
    model = flatbuffer.parse(net.file)
    writer = _Writer(model)
    changed = [writer.put(name, net.get_submodule(name), site) for name, site in net.sites.items()]
    if any(changed):
        writer.finish()
        flatbuffer.write(model, path)
    else:
        with atomic_file(path) as partial:
            partial.write_bytes(net.file)


class _Writer:
    """Changes the main graph of a model."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.subgraphs[main_graph(model)]
        self._empty = next(i for i, buffer in enumerate(model.buffers) if buffer.data is None or not len(buffer.data))
        self._replaced: dict[int, list[Any]] = {}
        self._used_before = self._used()

    def put(self, name: str, layer: nn.Module, site: Site) -> bool:
        """Gives a layer of the file the weights of `layer`. False if these are what it has."""
        op = self.graph.operators[site.operator]
        if isinstance(layer, Coded):
            self._replaced[site.operator] = self._coded(name, op, layer, site)
            return True
        weight = self.graph.tensors[site.weight]
        data = _bytes(weight_matrix(layer).to(layer.weight.dtype))
        if self._is(site.weight, data) and (layer.bias is None or self._is(site.bias, _bytes(layer.bias))):
            return False
        weight.type, self.model.buffers[weight.buffer].data = _TYPES[layer.weight.detach().numpy().dtype], data
        op.inputs = np.array([op.inputs[0], site.weight, self._bias(name, layer, site)], np.int32)
        return True

    def finish(self) -> None:
        """Puts the operators in their places, and drops what no one needs any more: a DEQUANTIZE and its constant."""
        operators = [new for i, op in enumerate(self.graph.operators) for new in self._replaced.get(i, [op])]
        self.graph.operators = operators
        idle = self._used_before - self._used()
        self.graph.operators = [op for op in operators if not (self._dequantizes(op) and idle.intersection(op.outputs))]
        shared = Counter(tensor.buffer for graph in self.model.subgraphs for tensor in graph.tensors)
        for index in self._used_before - self._used():
            buffer = self.graph.tensors[index].buffer
            if shared[buffer] == 1:
                self.model.buffers[buffer].data = None

    def _used(self) -> set[int]:
        """The tensors that operators take or the graph gives."""
        taken = (op.inputs for op in self.graph.operators if op.inputs is not None)
        return {int(index) for indices in (*taken, self.graph.outputs) for index in indices} - {-1}

    def _dequantizes(self, op: Any) -> bool:
        return flatbuffer.operation(self.model.operatorCodes[op.opcodeIndex]) == "DEQUANTIZE"

    def _coded(self, name: str, op: Any, layer: Coded, site: Site) -> list[Any]:
        """The operators that take the place of one."""
        x, y = op.inputs[0], op.outputs[0]
        before, after = [], []
        if site.padding is not None:
            x = self._padded(name, x, site.padding, before)
        if site.folds:
            x = self._folded(name, x, layer.format.columns, before)
        fused = getattr(op.builtinOptions, "fusedActivationFunction", schema.ActivationFunctionType.NONE)
        activation = FUSED[flatbuffer.name_of(schema.ActivationFunctionType, fused)]
        relu = activation == "RELU"
        if activation is not None and not relu:
            like = self.graph.tensors[y]
            inner = self._tensor(f"{name}/before_{activation.lower()}", like.shape, like.shapeSignature)
            after = [flatbuffer.operator(self.model, activation, [inner], y)]
            y = inner
        custom = "edgecomp_codebook_conv2d" if isinstance(layer, CodebookConv2d) else "edgecomp_codebook_linear"
        inputs = [x, *self._constants(name, layer, site, self.graph.tensors[y].shape, relu)]
        return [*before, flatbuffer.operator(self.model, "CUSTOM", inputs, y, custom=custom), *after]

    def _constants(self, name: str, layer: Coded, site: Site, made: Any, relu: bool) -> list[int]:
        """The inputs of a custom operator behind x; its outputs are of the shape `made`, with a ReLU or without."""
        codes = self.graph.tensors[site.weight]
        codes.type, codes.shape, codes.shapeSignature = schema.TensorType.INT8, [layer.format.codes_bytes], None
        codes.quantization = None
        self.model.buffers[codes.buffer].data = _bytes(layer.codes)
        inputs = [site.weight, self._constant(f"{name}/codebook", layer.codebook)]
        if layer.scale is not None:
            inputs.append(self._constant(f"{name}/scale", layer.scale))
        f, bias = layer.format, self._bias(name, layer, site)
        if bias == -1 and layer.scale is None:  # the number of rows must be seen in some shape
            bias = self._constant(f"{name}/bias", np.zeros(f.rows, np.float32))
        if bias != -1:
            inputs.append(bias)
        geometry, sizes, lookup = [], {}, (layer.effective_tables.bits, layer.effective_tables.group, relu)
        if isinstance(layer, CodebookConv2d):
            geometry = [n for key in ("kernel", "stride", "padding", "dilation") for n in layer.geometry[key]]
            sizes = dict(zip(("height", "width"), made[1:3], strict=True))
        settings = flatbuffer.op_settings(
            (f.rows, f.axis, f.tile), layer.scale is not None, bias != -1, lookup, geometry
        )
        inputs.append(self._constant(f"{name}/settings", settings))
        return inputs + [self._constant(f"{name}/{which}", np.zeros(n, np.int8)) for which, n in sizes.items()]

    def _bias(self, name: str, layer: nn.Module, site: Site) -> int:
        """The tensor of a layer's bias: that of the file unless it has changed, -1 if there is none."""
        if layer.bias is None:
            return -1
        return site.bias if self._is(site.bias, _bytes(layer.bias)) else self._constant(f"{name}/bias", layer.bias)

    def _is(self, tensor: int, data: np.ndarray) -> bool:
        """Whether a constant of the file, if there is one, has just these bytes."""
        return tensor != -1 and np.array_equal(self.model.buffers[self.graph.tensors[tensor].buffer].data, data)

    def _padded(self, name: str, x: int, padding: tuple[int, int, int, int], operators: list[Any]) -> int:
        """Adds an operator that pads images; the tensor of what it gives."""
        top, bottom, left, right = padding
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        tensor = self.graph.tensors[x]
        signature = tensor.shapeSignature
        open_shape = None if signature is None or not len(signature) else signature + amounts.sum(1)
        y = self._tensor(f"{name}/padded", tensor.shape + amounts.sum(1), open_shape)
        inputs = [x, self._constant(f"{name}/padding", amounts)]
        operators.append(flatbuffer.operator(self.model, "PAD", inputs, y, schema.PadOptionsT()))
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
        operators.append(flatbuffer.operator(self.model, "RESHAPE", inputs, y, options))
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


def _bytes(values: Tensor | np.ndarray) -> np.ndarray:
    """The bytes of a tensor, (n,) uint8."""
    array = values.detach().contiguous().numpy() if isinstance(values, Tensor) else np.ascontiguousarray(values)
    return array.reshape(-1).view(np.uint8)
