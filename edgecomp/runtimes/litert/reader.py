"""A `.tflite` as a model: which of its weights can be coded where they are, and why the others cannot.

Dense layers are FULLY_CONNECTED, convolutions CONV_2D with constant weights that no one else uses: fp32, or fp16 that a
DEQUANTIZE makes fp32. Their matrices are stored as ours are: (rows, columns), columns over (height, width, channel).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import BuildError, UsageError
from ...records import Model
from ...util.files import sha256_file
from . import flatbuffer
from .file_net import FileInput, FileNet, Kept, Site, StoredConv2d, StoredLinear
from .flatbuffer import schema

_LISTED_BYTES = 1024  # smaller constants of other operators are not worth a line of the report
_LARGEST = 1 << 28  # elements of a tensor that is still believed
_DTYPES = {
    **{"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16},
    **{"INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_},
}
# Activations that an operator may have within: their names as operators of their own.
FUSED = {"NONE": None, "RELU": "RELU", "RELU_N1_TO_1": "RELU_N1_TO_1", "RELU6": "RELU6", "TANH": "TANH"}
# What a converter puts behind a layer's own name, or in place of one.
_OPERATION = re.compile(
    r"(MatMul|Conv2D|BiasAdd|Relu6?|Add|ReadVariableOp|[Kk]ernel|weights?|convolution|Const|Read)(_?\d+)?"
)
FIX_SIZES = "convert it with a fixed size: the input of a Keras model as keras.Input((224, 224, 3), batch_size=1)"
_NAMELESS = re.compile(r"((arith|tfl|std|mhlo|stablehlo)\.\w+)?\d*")


def load_file(path: Path) -> Model:
    """The model in a .tflite.

    Raises:
        UsageError: there is no such file.
        BuildError: it is damaged, or its inputs or outputs are of a sort that nothing could be measured with.
    """
    if not path.is_file():
        raise UsageError(f"model file {path} does not exist")
    data = path.read_bytes()
    reader = _Reader(flatbuffer.verified(data, str(path)), str(path))
    net = FileNet(str(path), data, reader.inputs(), reader.float_outputs())
    for name, layer, site in reader.layers():
        net.add(name, layer, site)
    return Model(path.stem, str(path), net.eval(), reader.examples(), None, sha256_file(path))


class NotCoded(Exception):
    """Why a layer of the file is left alone."""


class _Reader:
    """Reads the main graph of a file: that of its first signature, or its first."""

    def __init__(self, model: Any, source: str) -> None:
        self.model, self.source = model, source
        self.signature = model.signatureDefs[0] if model.signatureDefs else None
        self.graph = model.subgraphs[main_graph(model)]
        # By their indices; those without inputs or outputs are of no interest.
        every = enumerate(self.graph.operators or ())
        self.operators = {i: op for i, op in every if op.inputs is not None and op.outputs is not None}
        self._uses = Counter(int(index) for op in self.operators.values() for index in op.inputs)
        self._uses.update(int(index) for index in self.graph.outputs)
        self._buffers = Counter(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)
        self._makers = {int(index): op for op in self.operators.values() for index in op.outputs}
        self._kept: dict[int, nn.Parameter] = {}

    def layers(self) -> list[tuple[str, nn.Module, Site | None]]:
        """Layers to code, in the order of execution, and what is left alone; names may come twice."""
        layers: list[tuple[str, nn.Module, Site | None]] = []
        for index, op in self.operators.items():
            kind = self._operation(op)
            if kind == "DEQUANTIZE":
                continue  # what it makes is what those are that take it
            read = {"FULLY_CONNECTED": self._dense, "CONV_2D": self._convolution}.get(kind)
            try:
                if read is not None:
                    layers.append((self._name(op, 1), *read(index, op)))
                    continue
                reason = f"{kind} is not coded in a .tflite; FULLY_CONNECTED and CONV_2D are"
            except NotCoded as refused:
                reason = str(refused)
            layers += self._left_alone(
                op, range(1, 2) if read else range(len(op.inputs)), 0 if read else _LISTED_BYTES, reason
            )
        return layers

    # --- layers -------------------------------------------------------------------------------------------

    def _dense(self, index: int, op: Any) -> tuple[nn.Module, Site]:
        options = _options(op, schema.FullyConnectedOptionsT)
        if options.weightsFormat:
            raise NotCoded("its weights are stored in a shuffled order")
        weight, bias = self._weights(op, 2, options)
        rows, columns = weight.shape
        given, made = self._shapes(op)
        direct = given[-1:] == (columns,) and made == (*given[:-1], rows)
        if not direct and (
            options.keepNumDims or math.prod(given) % columns or made != (math.prod(given) // columns, rows)
        ):
            raise _misfit(given, weight, made)
        layer = StoredLinear(columns, rows, bias is not None, device="meta")
        return _filled(layer, weight, bias), self._site(index, op, (1, columns), folds=not direct)

    def _convolution(self, index: int, op: Any) -> tuple[nn.Module, Site]:
        options = _options(op, schema.Conv2DOptionsT)
        weight, bias = self._weights(op, 4, options)
        rows, *kernel, channels = weight.shape
        given, made = self._shapes(op)
        stride, dilation = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
        if len(given) != 4 or not _fixed(self._tensor(op, 0)):
            raise NotCoded(f"the file leaves the size of its images open; {FIX_SIZES}")
        if given[3] != channels:
            raise NotCoded(f"a convolution in {given[3] / channels:g} groups has no single matrix")
        if min(*stride, *dilation) < 1:
            raise NotCoded(f"stride {stride} and dilation {dilation} in the file make no sense")
        reach = [(kernel[i] - 1) * dilation[i] + 1 for i in range(2)]
        same = options.padding == schema.Padding.SAME
        pads = [_same(given[1 + i], reach[i], stride[i]) if same else (0, 0) for i in range(2)]
        padded = [given[1 + i] + sum(pads[i]) for i in range(2)]
        if made != (given[0], *((padded[i] - reach[i]) // stride[i] + 1 for i in range(2)), rows):
            raise _misfit(given, weight, made)
        if all(before == after for before, after in pads):
            padding, site = (pads[0][0], pads[1][0]), self._site(index, op, (1, channels, *given[1:3]))
        else:  # our kernel pads both sides alike
            padding, site = (0, 0), self._site(index, op, (1, channels, *padded), padding=(*pads[0], *pads[1]))
        layer = StoredConv2d(channels, rows, kernel, stride, padding, dilation, bias=bias is not None, device="meta")
        return _filled(layer, weight.permute(0, 3, 1, 2), bias), site

    def _site(self, index: int, op: Any, shape: tuple[int, ...], **more: Any) -> Site:
        return Site(index, int(op.inputs[0]), self._stored(op, 1), self._stored(op, 2), shape, **more)

    def _weights(self, op: Any, rank: int, options: Any) -> tuple[Tensor, Tensor | None]:
        """Weights and bias of a layer that can be coded, as they are stored."""
        weight, bias = self._tensor(op, 1), self._tensor(op, 2)
        if weight is None or self._constant(weight) is None:
            maker = self._makers.get(int(op.inputs[1])) if weight else None
            raise NotCoded(
                f"its weights are not in the file: {self._operation(maker) if maker else 'an input'} gives them"
            )
        for i, (tensor, what) in enumerate(((self._tensor(op, 0), "inputs"), (weight, "weights"), (bias, "bias"))):
            halved = tensor is not None and self._stored(op, i) != op.inputs[i]
            kind = "FLOAT32" if tensor is None else flatbuffer.name_of(schema.TensorType, tensor.type)
            if kind != ("FLOAT16" if halved else "FLOAT32"):
                raise NotCoded(f"its {what} are {kind}; FLOAT32 layers are coded, and FLOAT16 ones with a DEQUANTIZE")
        users = self._uses[int(op.inputs[1])], self._uses[self._stored(op, 1)], self._buffers[weight.buffer]
        if max(users) > 1:
            raise NotCoded("its weights are shared with other operators")
        if weight.sparsity is not None:
            raise NotCoded("its weights are stored sparse")
        activation = flatbuffer.name_of(schema.ActivationFunctionType, options.fusedActivationFunction)
        if activation not in FUSED:
            raise NotCoded(f"its activation {activation} cannot be split off")
        values = self._array(weight)
        if values is None or values.ndim != rank or not values.size:
            raise NotCoded(f"its weights do not have the shape {shape_of(weight)} that the file says")
        offsets = None if bias is None else self._array(bias)
        if bias is not None and (offsets is None or offsets.shape != values.shape[:1]):
            raise NotCoded(f"its bias is not {len(values)} constants")
        return torch.from_numpy(values), None if offsets is None else torch.from_numpy(offsets)

    def _shapes(self, op: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those of the images or rows that come in and go out."""
        given, made = shape_of(self._tensor(op, 0)), shape_of(self.graph.tensors[op.outputs[0]])
        for shape in (given, made):
            if not shape or min(shape) < 1 or math.prod(shape) > _LARGEST:
                raise NotCoded(f"the shape {shape} in the file makes no sense")
        return given, made

    # --- what is left alone -------------------------------------------------------------------------------

    def _left_alone(self, op: Any, indices: range, least: int, reason: str) -> list[tuple[str, nn.Module, None]]:
        """The constants among an operator's inputs, one parameter for all that share it; those that are none, empty."""
        constants: list[tuple[str, nn.Module, None]] = []
        for index in indices:
            data = self._constant(self._tensor(op, index))
            if (0 if data is None else len(data)) >= least:
                constants.append((self._name(op, index), Kept(self._parameter(self._tensor(op, index)), reason), None))
        return constants

    def _parameter(self, tensor: Any) -> nn.Parameter:
        data = self._constant(tensor)
        if data is None:
            return nn.Parameter(torch.zeros(0))
        if tensor.buffer not in self._kept:
            values = self._array(tensor)
            stored = torch.from_numpy(np.array(data) if values is None else values).reshape(-1)
            self._kept[tensor.buffer] = nn.Parameter(stored, requires_grad=False)
        return self._kept[tensor.buffer]

    # --- inputs and outputs -------------------------------------------------------------------------------

    def examples(self) -> tuple[Tensor, ...]:
        """Random inputs, with seed 0: normal numbers, and zeros and ones where integers are wanted."""
        chance = np.random.default_rng(0)
        examples = []
        for tensor in (self.graph.tensors[given.tensor] for given in self.inputs()):
            name, shape = flatbuffer.name_of(schema.TensorType, tensor.type), shape_of(tensor)
            if name not in _DTYPES or math.prod(shape) > _LARGEST or min(shape, default=1) < 1:
                raise BuildError(
                    f"{self.source}: input {flatbuffer.text(tensor.name)} is {name} {shape}, "
                    "which cannot be measured with"
                )
            values = chance.standard_normal(shape) if name.startswith("FLOAT") else chance.integers(0, 2, shape)
            examples.append(torch.from_numpy(np.asarray(values, _DTYPES[name])))
        return tuple(examples)

    def inputs(self) -> tuple[FileInput, ...]:
        """In the order of the graph, the runtime's too; by name in the signature, else by their tensors' names."""
        mapped = () if self.signature is None else self.signature.inputs or ()
        names = {int(entry.tensorIndex): flatbuffer.text(entry.name) for entry in mapped}
        indices = [int(index) for index in self.graph.inputs]
        tensors = [self.graph.tensors[index] for index in indices]
        return tuple(
            FileInput(names.get(index) or flatbuffer.text(tensor.name), index, not _fixed(tensor))
            for index, tensor in zip(indices, tensors, strict=True)
        )

    def float_outputs(self) -> int:
        """How many fp32 values there are in the outputs up to the first one of another type."""
        mapped = [] if self.signature is None else self.signature.outputs or []
        if not {int(entry.tensorIndex) for entry in mapped} <= {int(index) for index in self.graph.outputs}:
            raise BuildError(f"{self.source} is damaged: its signature has outputs that its graph does not give")
        count = 0
        for tensor in (self.graph.tensors[index] for index in self.graph.outputs):
            if tensor.type != schema.TensorType.FLOAT32:
                break
            count += math.prod(shape_of(tensor))
        if not 0 < count <= _LARGEST:
            raise BuildError(
                f"{self.source}: its first output is not FLOAT32, and a coded file is proven by what it gives there",
                "Convert the model without what comes behind its last layer (an ArgMax, a quantization).",
            )
        return count

    # --- the tree -----------------------------------------------------------------------------------------

    def _operation(self, op: Any) -> str:
        """The operation's name; of a custom one its own."""
        return flatbuffer.operation(self.model.operatorCodes[op.opcodeIndex])

    def _name(self, op: Any, index: int) -> str:
        """A layer's name after its weights or outputs: `block1/conv` of `net/block1/conv/Conv2D;net/block1/conv/k`."""
        tensors = [self._tensor(op, index), *(self.graph.tensors[i] for i in op.outputs)]
        for part in (
            part for tensor in tensors if tensor is not None for part in flatbuffer.text(tensor.name).split(";")
        ):
            path = [_own(name) for name in part.split("/") if not _NAMELESS.fullmatch(name)]
            while len(path) > 1 and _OPERATION.fullmatch(path[-1]):
                path.pop()
            if len(path) > 1 or (path and not _OPERATION.fullmatch(path[0])):
                return re.sub(r"[^\w/-]", "_", "/".join(path[1:] or path))
        return self._operation(op).lower()

    def _stored(self, op: Any, index: int) -> int:
        """The tensor that an input of an operator is, or the constant that a DEQUANTIZE makes it of; -1 if left out."""
        tensor = int(op.inputs[index]) if index < len(op.inputs) else -1
        maker = self._makers.get(tensor)
        if maker is None or self._operation(maker) != "DEQUANTIZE" or len(maker.inputs) != 1:
            return tensor
        source = int(maker.inputs[0])
        return source if self._constant(self.graph.tensors[source]) is not None else tensor

    def _tensor(self, op: Any, index: int) -> Any:
        """The same, the tensor itself; None if it is left out."""
        stored = self._stored(op, index)
        return None if stored == -1 else self.graph.tensors[stored]

    def _constant(self, tensor: Any) -> Any:
        """Its bytes, None if it is computed."""
        data = None if tensor is None else self.model.buffers[tensor.buffer].data
        return data if data is not None and len(data) else None

    def _array(self, tensor: Any) -> np.ndarray | None:
        """A copy of a constant as the file says it is; None if its bytes are not so many."""
        data, dtype = self._constant(tensor), _DTYPES.get(flatbuffer.name_of(schema.TensorType, tensor.type))
        if data is None or dtype is None or len(data) != np.dtype(dtype).itemsize * math.prod(shape_of(tensor)):
            return None
        return np.frombuffer(bytes(data), dtype).reshape(shape_of(tensor)).copy()


def main_graph(model: Any) -> int:
    """Index of the graph that runs: that of the first signature, or the first."""
    return model.signatureDefs[0].subgraphIndex if model.signatureDefs else 0


def _own(name: str) -> str:
    """What a layer was called within its parent: `conv1` of `torch.nn.modules.conv.Conv2d_conv1`."""
    _, dot, last = name.rpartition(".")
    return (last.partition("_")[2] if dot else "") or last


def _options(op: Any, kind: type) -> Any:
    if op.builtinOptions is not None and not isinstance(op.builtinOptions, kind):
        raise NotCoded("its options are those of another operator")
    return op.builtinOptions or kind()


def _misfit(given: tuple[int, ...], weight: Tensor, made: tuple[int, ...]) -> NotCoded:
    return NotCoded(f"inputs {given}, weights {tuple(weight.shape)} and outputs {made} do not fit together")


def shape_of(tensor: Any) -> tuple[int, ...]:
    """(1, 224, 224, 3); a size that is left open is 1."""
    return () if tensor is None or tensor.shape is None else tuple(int(size) for size in tensor.shape)


def _fixed(tensor: Any) -> bool:
    """Whether no size but the first, which may be that of the batch, is left open."""
    signature = tensor.shapeSignature
    return signature is None or all(size >= 0 for size in signature[1:])


def _same(size: int, reach: int, stride: int) -> tuple[int, int]:
    """Zeros before and after that give an output for every `stride` inputs."""
    total = max(0, (-(-size // stride) - 1) * stride + reach - size)
    return total // 2, total - total // 2


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.contiguous())
    layer.bias = None if bias is None else nn.Parameter(bias)
    return layer
