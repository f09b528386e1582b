"""LiteRT: .tflite files. XNNPACK runs the plain layers, our kernels the codebook layers, which are custom ops.

A custom op has the inputs x, codes (int8, whatever they are), codebook, row scales, bias, and `settings` (int32): what
its kernel must know beyond the shapes, see `targets/litert/op.h`. A convolution takes and gives NHWC, and has two more
inputs, as long as its output is high and wide: LiteRT asks for the shape of outputs before it shows an op anything but
shapes. A recurrence has the inputs xp, h0, c0 if it is an LSTM's, what is stored of its factors, and settings.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...devices.tensors import Signature
from ...errors import BuildError
from ...layers import ops
from ...layers.builtin import Builtin
from ...layers.codebook import Coded
from ...layers.fusing import relu_behind
from ...layers.matrix import kind_of, one_channel_per_group
from ...layers.packing import pack_signed
from ...layers.quantized import Arithmetic, Quantized
from ...layers.recurrent import inside_recurrences
from ...layers.transposed import Cropped
from ...util.files import temporary_folder
from .. import Constant
from .._composites import looked_up_once
from .file_net import FileNet

SUFFIX = ".tflite"
_WIDEN = "edgecomp_widen"  # a cast that the converter does not see through, and so does not do in the file


def version() -> str:
    return importlib.metadata.version("ai-edge-litert")


def export(net: nn.Module, example_inputs: tuple[Tensor, ...], path: Path) -> None:
    """Writes `net` as a .tflite: builtin ops, and custom ops for codebook layers. One of a file is written into that.

    Raises:
        BuildError: LiteRT is not installed, or cannot express the net.
    """
    if isinstance(net, FileNet):
        from . import rewriter

        return rewriter.write(net, path)
    with _quiet():
        try:
            import litert_torch

            from . import flatbuffer, masks
            from .integers import plain_layers, store_integers

            _teach_converter()
        except ImportError as error:
            raise BuildError(f"LiteRT cannot be imported: {error}", "pip install 'edgecomp[litert]'") from error
        try:
            convertible = _convertible(net)
            integers = plain_layers(convertible)
            with temporary_folder() as temporary:
                converted = Path(temporary, "converted")
                with looked_up_once():
                    litert_torch.convert(convertible, example_inputs).export(str(converted))
                model = flatbuffer.read(converted)
        except Exception as error:
            raise BuildError(f"LiteRT cannot export the model: {type(error).__name__}: {error}") from error
    store_integers(model, integers)
    if masks.infinite(net):
        masks.restore(model)
    flatbuffer.make_builtin(model, _WIDEN, flatbuffer.schema.BuiltinOperator.CAST)
    flatbuffer.write(model, path)


def prefers_static(layer: nn.Module) -> bool:
    """Fixed scales gain nothing: what comes in and goes out has to be rounded by ops of its own."""
    return False


def refuse(layer: nn.Module, arithmetic: Arithmetic) -> str:
    """Found by trying, 2.3.0: 2-bit convolutions give no numbers, and what XNNPACK leaves to LiteRT's own kernels is
    slow, and with fixed scales rounded twice."""
    bits, static, dense = *arithmetic, kind_of(layer) == "dense"
    if one_channel_per_group(layer) and (bits < 8 or not static):
        return "one input channel per group: LiteRT has a kernel for int8 weights and --set activations=static alone"
    if bits < 4 and not dense:
        return f"LiteRT multiplies {bits}-bit weights in dense layers alone; +int4 gives the others 4 bits"
    if bits < 8 and static and (not dense or layer.weight.shape[1] % 2):
        return f"LiteRT has no kernel for {bits}-bit weights and fixed scales here; --set activations=dynamic"
    return ""


def stored(layer: Quantized) -> list[Tensor]:
    """As in the checkpoint, whatever the bits."""
    from .integers import forms

    return [pack_signed(form, layer.bits) for form in forms(layer.matrix())]


def constants(path: Path) -> list[Constant]:
    """Constants of the file, with the dtype of the tensor that they are."""
    from . import flatbuffer

    model = flatbuffer.read(path)
    stored = []
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None:
                dtype = flatbuffer.name_of(flatbuffer.schema.TensorType, tensor.type).lower()
                stored.append(Constant(dtype, bytes(data)))
    return stored


def signature(path: Path, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Signature:
    """As the file has it: the converter makes 64-bit integers 32-bit ones."""
    from . import flatbuffer

    return flatbuffer.signature(path)


def operators(path: Path) -> set[str]:
    """Names of the operators of the file, as the schema has them; those of custom ones are their own."""
    from . import flatbuffer

    return {flatbuffer.operation(code) for code in flatbuffer.read(path).operatorCodes}


def _convertible(net: nn.Module) -> nn.Module:
    """The same with codes as int8: the converter knows no unsigned constants, and with codebooks kept as they are."""
    net = copy.deepcopy(net).eval()
    apart = inside_recurrences(net)
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.ConvTranspose2d) and any(layer.padding):
            net.set_submodule(name, Cropped(layer))
    for layer in net.modules():
        if isinstance(layer, Coded) or (isinstance(layer, Quantized) and layer in apart):
            layer.codes = layer.codes.view(torch.int8)
        elif isinstance(layer, Builtin):
            layer.widen = torch.ops.edgecomp_litert.widen
    return net


@functools.cache
def _teach_converter() -> None:
    """Tells litert_torch how our operators are written."""
    from litert_converter.mlir import ir
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import layout_check, layout_rewrite
    from litert_torch.backend.lowerings import lookup as lowering_of
    from litert_torch.backend.lowerings import lower, utils

    from . import flatbuffer

    def zeros(count: int, dtype: type = np.int8) -> Any:
        return utils.numpy_array_constant(np.zeros(count, dtype))

    def custom(context: Any, name: str, operands: list[Any]) -> Any:
        op = ir.Operation.create(
            "tfl.custom",
            results=utils.node_meta_to_ir_types(context.node),
            operands=operands,
            attributes={
                "custom_code": ir.StringAttr.get(name),
                "custom_option": ir.Attribute.parse('#tfl<const_bytes : "0x00">'),
            },
        )
        return op.results[0]

    def matrix(codes: Any, codebook: Any, scale: Any, bias: Any) -> list[Any]:
        return [codes, codebook, *(given for given in (scale, bias) if given is not None)]

    def settings(matrix: tuple[int, int, int], scale: Any, bias: Any, *more: Any) -> Any:
        return utils.numpy_array_constant(flatbuffer.op_settings(matrix, scale is not None, bias is not None, *more))

    def some_bias(scale: Any, bias: Any, rows: int) -> Any:
        """The number of rows must be seen in some shape."""
        return zeros(rows, np.float32) if scale is None and bias is None else bias

    @lower(torch.ops.edgecomp.codebook_linear)
    def linear(context, x, codes, codebook, scale, bias, rows, axis, tile, bits, group, relu):  # type: ignore[no-untyped-def]
        bias = some_bias(scale, bias, rows)
        given = settings((rows, axis, tile), scale, bias, (bits, group, relu or relu_behind(context.node) is not None))
        return custom(context, "edgecomp_codebook_linear", [x, *matrix(codes, codebook, scale, bias), given])

    @lower(torch.ops.edgecomp.codebook_embedding)
    def embedding(context, index, codes, codebook, scale, rows, columns, axis, tile):  # type: ignore[no-untyped-def]
        given = settings((rows, axis, tile), scale, None, (32, 64, False))
        operands = [index, *matrix(codes, codebook, scale, None), given, zeros(columns)]
        return custom(context, "edgecomp_codebook_embedding", operands)

    @lower(torch.ops.edgecomp.recurrence)
    def recurrence(context, xp, h0, c0, constants, settings):  # type: ignore[no-untyped-def]
        states = [xp, h0] if c0 is None else [xp, h0, c0]
        given = utils.numpy_array_constant(np.array(settings, np.int32))
        return custom(context, "edgecomp_recurrence", [*states, *constants, given])

    @lower(torch.ops.edgecomp_litert.codebook_conv2d)
    def conv2d(  # type: ignore[no-untyped-def]
        context, x, codes, codebook, scale, bias, rows, axis, tile, bits, group, relu, *geometry
    ):
        bias, lookup = some_bias(scale, bias, rows), (bits, group, relu or relu_behind(context.node) is not None)
        _, height, width, _ = context.node.meta["val"].shape
        given = settings((rows, axis, tile), scale, bias, lookup, [i for pair in geometry for i in pair])
        operands = [x, *matrix(codes, codebook, scale, bias), given, zeros(height), zeros(width)]
        return custom(context, "edgecomp_codebook_conv2d", operands)

    relu_alone = lowering_of(torch.ops.aten.relu)

    @lower(torch.ops.aten.relu)
    def relu(context, x):  # type: ignore[no-untyped-def]
        fused = relu_behind(context.node.args[0]) is context.node
        return x if fused else relu_alone(context, x)

    @lower(torch.ops.edgecomp_litert.widen)
    def widen(context, x):  # type: ignore[no-untyped-def]
        return custom(context, _WIDEN, [x])

    @layout_rewrite.rewriters.register(torch.ops.edgecomp.codebook_conv2d)
    def take_channels_last(node: torch.fx.Node) -> None:
        node.target = torch.ops.edgecomp_litert.codebook_conv2d.default

    @layout_check.layout_sensitive_inputs_getters.register(torch.ops.edgecomp.codebook_conv2d)
    def images(node: torch.fx.Node) -> list[torch.fx.Node]:
        return [node.args[0]]

    @layout_check.nhwcable_node_checkers.register(torch.ops.edgecomp.codebook_conv2d)
    def always(node: torch.fx.Node) -> layout_check.NHWCable:
        return layout_check.NHWCable(True, must_be=True)


_library = torch.library.Library("edgecomp_litert", "DEF")
_library.define(f"codebook_conv2d(Tensor x, {ops.MATRIX}, {ops.CONVOLUTION}) -> Tensor")
_library.define("widen(Tensor x) -> Tensor")
_library.impl("widen", lambda x: x.float(), "CompositeExplicitAutograd")


@torch.library.register_fake("edgecomp_litert::widen")
def _fake_widen(x: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float32)


@torch.library.register_fake("edgecomp_litert::codebook_conv2d")
def _channels_last(x: Tensor, *arguments: Any) -> Tensor:
    return torch.ops.edgecomp.codebook_conv2d(x.permute(0, 3, 1, 2), *arguments).permute(0, 2, 3, 1).contiguous()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter talks about its own innards on every channel, from C++ too; a user can do nothing about it."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    saved = [os.dup(1), os.dup(2)]
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            open(os.devnull, "w") as nowhere,
        ):
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        logging.disable(level)
