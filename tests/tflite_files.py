"""Small .tflite files as TensorFlow's converter writes them, put together by hand, for it is not installed."""

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp import pipeline
from edgecomp.records import Request
from edgecomp.runtimes.litert import flatbuffer


class Builder:
    """A graph, operator by operator. Every image or row tensor is (1, …), with the first size left open."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]
        self.graph.name, self.graph.tensors, self.graph.operators = "main", [], []
        self.graph.inputs, self.graph.outputs = [], []
        self._chance = np.random.default_rng(0)

    def tensor(self, name: str, shape: tuple[int, ...], kind: str = "FLOAT32") -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, np.array(shape, np.int32), getattr(schema.TensorType, kind)
        tensor.shapeSignature = np.array([-1, *shape[1:]], np.int32)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, values: np.ndarray) -> int:
        index = self.tensor(name, values.shape, str(values.dtype).upper())
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[index].buffer = len(self.model.buffers) - 1
        self.graph.tensors[index].shapeSignature = None
        return index

    def weights(self, name: str, *shape: int) -> int:
        values = self._chance.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        return self.constant(name, values.astype(np.float32))

    def operator(self, kind: str, inputs: list[int], output: int, options: str = "", **values: object) -> int:
        """Returns `output`; `options` is the schema's name of the operator's options."""
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = {"FULLY_CONNECTED": 4, "CONV_2D": 6}.get(kind, 1)
        self.model.operatorCodes.append(code)
        op.opcodeIndex, op.inputs, op.outputs = len(self.model.operatorCodes) - 1, inputs, [output]
        if options:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            op.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in values.items():
                setattr(op.builtinOptions, key, value)
        self.graph.operators.append(op)
        return output

    def dense(self, name: str, x: int, weight: int, bias: int, rows: int, **values: object) -> int:
        y = self.tensor(f"net/{name}/Relu;net/{name}/BiasAdd", (1, rows))
        return self.operator("FULLY_CONNECTED", [x, weight, bias], y, "FullyConnectedOptions", **values)

    def convolution(self, name: str, x: int, channels: int, kernel: int, size: int, **values: object) -> int:
        """A square one with `channels` outputs of `size`; `groups` and the options are in `values`."""
        groups = values.pop("groups", 1)
        inputs = int(self.graph.tensors[x].shape[3]) // groups
        weight = self.weights(f"net/{name}/Conv2D", channels, kernel, kernel, inputs)
        bias = self.weights(f"net/{name}/BiasAdd/ReadVariableOp", channels)
        y = self.tensor(f"net/{name}/Relu;net/{name}/BiasAdd", (1, size, size, channels))
        stride = values.pop("stride", 1)
        values = {"strideH": stride, "strideW": stride, **values}
        return self.operator("CONV_2D", [x, weight, bias], y, "Conv2DOptions", **values)

    def write(self, path: Path, inputs: list[tuple[str, int]], outputs: list[tuple[str, int]]) -> Path:
        """`inputs` and `outputs` are those of the signature; the graph has them the other way round."""
        self.graph.inputs = [index for _, index in reversed(inputs)]
        self.graph.outputs = [index for _, index in reversed(outputs)]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = ([_mapped(*pair) for pair in pairs] for pairs in (inputs, outputs))
        metadata = schema.MetadataT()
        metadata.name, metadata.buffer = "min_runtime_version", len(self.model.buffers)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(b"1.14.0".ljust(16, b"\0"), np.uint8)
        self.model.buffers.append(buffer)
        self.model.signatureDefs, self.model.metadata = [signature], [metadata]
        self.model.description = "MLIR Converted."
        flatbuffer.write(self.model, path)
        return path


def _mapped(name: str, tensor: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry


SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
RELU, RELU6, CLIP = (getattr(schema.ActivationFunctionType, name) for name in ("RELU", "RELU6", "RELU_N1_TO_1"))


def keras_like(path: Path) -> Path:
    """A file with every layer that can be coded, and every reason why one cannot."""
    b = Builder()
    images, extra = b.tensor("serving_default_images:0", (1, 16, 16, 3)), b.tensor("serving_default_extra:0", (1, 64))
    x = b.convolution("stem", images, 16, 3, 8, stride=2, padding=SAME, fusedActivationFunction=RELU6)  # pads 0 and 1
    x = b.convolution("block1/conv", x, 32, 3, 8, padding=SAME, fusedActivationFunction=RELU, dilationHFactor=2)
    x = b.convolution("block1/grouped", x, 32, 3, 6, padding=VALID, fusedActivationFunction=RELU, groups=2)
    depthwise = [x, b.weights("net/depthwise/depthwise", 1, 3, 3, 32), b.weights("net/depthwise/BiasAdd", 32)]
    x = b.tensor("net/depthwise/Relu", (1, 4, 4, 32))
    values = {"strideH": 1, "strideW": 1, "depthMultiplier": 1, "padding": VALID}
    b.operator("DEPTHWISE_CONV_2D", depthwise, x, "DepthwiseConv2DOptions", **values)
    weight, bias = b.weights("net/dense/MatMul", 64, 512), b.weights("net/dense/BiasAdd", 64)
    x = b.dense("dense", x, weight, bias, 64, fusedActivationFunction=CLIP)  # of images as they are
    total = b.tensor("net/add/add", (1, 64))
    x = b.operator("ADD", [x, extra], total, "AddOptions")
    shared = b.weights("arith.constant3", 64, 64)
    x = b.dense("twice", x, shared, bias, 64, fusedActivationFunction=RELU)
    x = b.dense("twice_more", x, shared, bias, 64)
    values = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float16) / 8
    half = b.constant("net/halved/MatMul", values)
    weight = b.operator("DEQUANTIZE", [half], b.tensor("net/halved/MatMul1", (64, 64)))
    b.graph.tensors[weight].shapeSignature = None
    x = b.dense("halved", x, weight, bias, 64)
    weight = b.weights("tfl.pseudo_qconst2", 20, 64)
    x = b.dense("head", x, weight, -1, 20)
    inputs = [("extra", extra), ("images", images)]
    return b.write(path, inputs, [("features", total), ("output_0", x)])


def build(path, method="pq", *settings, **request):
    """The report of a build of every layer, and the folder it is in."""
    out = path.parent / "out"
    settings = ("kinds=dense,conv", *settings)
    request = {"on": "none", "layers": ("*",), **request}
    return pipeline.build(Request(model=str(path), method=method, settings=settings, out=out, **request)), out
