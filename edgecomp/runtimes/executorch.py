"""ExecuTorch: .pte files. XNNPACK runs the plain layers, our kernels the codebook layers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..devices.tensors import Signature, TensorSpec
from ..errors import BuildError
from ..layers.fusing import fuse_relus
from ..layers.matrix import kind_of, one_channel_per_group
from ..layers.quantized import Arithmetic, Quantized, exportable
from ..layers.recurrent import inside_recurrences
from ..util.files import atomic_file
from . import Constant
from ._composites import looked_up_once

SUFFIX = ".pte"


def version() -> str:
    return importlib.metadata.version("executorch")


def export(net: nn.Module, example_inputs: tuple[Tensor, ...], path: Path) -> None:
    """Writes `net` as a .pte: XNNPACK takes what it can, codebook layers stay calls of our custom ops.

    Raises:
        BuildError: ExecuTorch is not installed, or cannot express the net.
    """
    with _quiet():
        try:
            from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
        except ImportError as error:
            raise BuildError(f"ExecuTorch cannot be imported: {error}", "pip install 'edgecomp[executorch]'") from error
        try:
            apart = inside_recurrences(net)
            with exportable(net, apart), looked_up_once():
                program = torch.export.export(net.eval(), example_inputs)
            fuse_relus(program)
            # What is rounded at run time must come from outside of the graph: a maximum before it within fails there.
            plain = (module for module in net.modules() if module not in apart)
            rounds = any(isinstance(module, Quantized) and not module.static for module in plain)
            partitioners = [XnnpackPartitioner()]
            if rounds:
                first = XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True)
                # Else what is not its own is decomposed before the second one sees it: pooling would be slow.
                first.ops_to_not_decompose = partitioners[0].ops_to_not_decompose
                partitioners.insert(0, first)
            with _needed_patterns(program), looked_up_once():
                edge = to_edge_transform_and_lower(
                    program,
                    partitioner=partitioners,
                    compile_config=EdgeCompileConfig(_check_ir_validity=False),  # our ops are not in the core ATen set
                )
            written = edge.to_executorch()
        except Exception as error:
            raise BuildError(f"ExecuTorch cannot export the model: {type(error).__name__}: {error}") from error
    with atomic_file(path) as partial, open(partial, "wb") as file:
        written.write_to_file(file)


def prefers_static(layer: nn.Module) -> bool:
    """Its convolutions take fewer instructions so and no more time (docs/runtimes.md); of one channel, only so."""
    return kind_of(layer) == "conv"


def refuse(layer: nn.Module, arithmetic: Arithmetic) -> str:
    """Found by trying, 1.5.1: convolutions of 4-bit weights do not load, and static products over an odd number of them
    come out wrong."""
    if not arithmetic.static and one_channel_per_group(layer):
        return "one input channel per group: ExecuTorch has a kernel for --set activations=static alone"
    if arithmetic.bits < 4:
        return f"ExecuTorch has no kernel for {arithmetic.bits}-bit weights; pq and binary store as few"
    if arithmetic.bits == 4 and kind_of(layer) != "dense":
        return "ExecuTorch multiplies 4-bit weights in dense layers alone; +int8 gives the others 8 bits"
    if arithmetic.bits == 4 and arithmetic.static and layer.weight.shape[1] % 2:
        return "ExecuTorch needs an even number of inputs here; --set activations=dynamic"
    return ""


def stored(layer: Quantized) -> list[Tensor]:
    """XNNPACK wants 4 bits as value + 8, the even columns in low nibbles, and every row in whole bytes."""
    matrix = layer.matrix()
    if layer.bits == 8:
        return [matrix, matrix.T]  # kernels for one input channel per group want it transposed
    even = nn.functional.pad(matrix, (0, matrix.shape[1] % 2)).to(torch.uint8) + 8
    return [even[:, ::2] | even[:, 1::2] << 4]


def constants(path: Path) -> list[Constant]:
    """Constants of our ops (with dtype) and of the XNNPACK graphs (packed as the backend wants them)."""
    from executorch.exir.schema import Tensor as TensorValue
    from executorch.exir.tensor import get_scalar_type

    file = _parsed(path)
    program = file.program
    stored = []
    for plan in program.execution_plan:
        for value in plan.values:
            tensor = value.val
            if isinstance(tensor, TensorValue) and tensor.data_buffer_idx > 0 and tensor.allocation_info is None:
                size = math.prod(tensor.sizes) * get_scalar_type(tensor.scalar_type).itemsize
                data = bytes(program.constant_buffer[tensor.data_buffer_idx].storage)
                stored.append(Constant(tensor.scalar_type.name.lower(), data[:size]))  # the rest is padding
    named = file.named_data
    stored += [Constant(None, bytes(buffer)) for buffer in (named.buffers if named else [])]
    return stored


def _parsed(path: Path) -> Any:
    """The parts of a .pte; its reader verifies nothing, and fails in many ways on a damaged one."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        return deserialize_pte_binary(path.read_bytes())
    except Exception as error:
        raise BuildError(f"{path} is damaged: {type(error).__name__}: {error}", "Build it again.") from error


def signature(path: Path, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Signature:
    """The file takes and gives what the net does."""
    return Signature(tuple(map(TensorSpec.of, inputs)), tuple(map(TensorSpec.of, outputs)))


def operators(path: Path) -> set[str]:
    """Names of the operators outside of delegates, like `aten::add.out`, and of the delegates."""
    plans = _parsed(path).program.execution_plan
    names = {f"{op.name}.{op.overload}" for plan in plans for op in plan.operators}
    return names | {delegate.id for plan in plans for delegate in plan.delegates}


@contextlib.contextmanager
def _needed_patterns(program: torch.export.ExportedProgram) -> Iterator[None]:
    """XNNPACK exports six small nets, for ten seconds, as patterns of attention and of bilinear upsampling. There is
    nothing to look for in a program without a softmax, or without an index."""
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    called = " ".join({str(node.target) for node in program.graph.nodes if node.op == "call_function"})
    has_attention = "softmax" in called or "scaled_dot_product" in called
    has_upsampling = "index" in called or "upsample" in called
    kept = sdpa.get_graphs, bilinear_2d.get_graphs_dict
    if not has_attention:
        sdpa.get_graphs = list
    if not has_upsampling:
        bilinear_2d.get_graphs_dict = dict
    try:
        yield
    finally:
        sdpa.get_graphs, bilinear_2d.get_graphs_dict = kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs and warns about its own innards; a user can do nothing about any of it."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
