"""What the graph of a network tells: the order its layers run in, batch norms to fold, the layers of a .pt2 archive."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fusion

from .errors import BuildError

_WEIGHTED = {
    torch.ops.aten.linear.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
}


def trace(net: nn.Module, example_inputs: tuple[Tensor, ...], name: str) -> torch.export.ExportedProgram:
    """`torch.export` of the net in evaluation mode.

    Raises:
        BuildError: torch.export refuses the net; its own message is passed on.
    """
    try:
        return torch.export.export(net.eval(), example_inputs)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BuildError(
            f"{name}: torch.export cannot trace the model: {reason}",
            "The forward pass must be free of data-dependent Python control flow; try torch.export.export() on it.",
        ) from error


def execution_order(program: torch.export.ExportedProgram) -> list[str]:
    """Names of the modules that call operators, in the order of their first call."""
    names = (_module_name(node) for node in program.graph.nodes if node.op == "call_function")
    return list(dict.fromkeys(name for name in names if name))


def fold_norms(net: nn.Module, program: torch.export.ExportedProgram) -> nn.Module:
    """A copy of `net` in which every batch norm right behind a convolution or dense layer is folded into it.

    What is compressed then is what runs on the device; runtimes fold the rest the same way.
    """
    net = copy.deepcopy(net).eval()
    calls = [_module_name(node) for node in program.graph.nodes if node.target in _WEIGHTED]
    for node in program.graph.nodes:
        if node.target != torch.ops.aten.batch_norm.default:
            continue
        producer = node.args[0]
        layer_name, norm_name = _module_name(producer), _module_name(node)
        alone = len(producer.users) == 1 and calls.count(layer_name) == 1
        if producer.target not in _WEIGHTED or not alone or norm_name is None:
            continue
        layer, norm = net.get_submodule(layer_name), net.get_submodule(norm_name)
        if isinstance(layer, nn.Conv2d):
            net.set_submodule(layer_name, fusion.fuse_conv_bn_eval(layer, norm))
        elif isinstance(layer, nn.Linear):
            net.set_submodule(layer_name, fusion.fuse_linear_bn_eval(layer, norm))
        else:
            continue
        net.set_submodule(norm_name, nn.Identity())
    return net


def with_layers(program: torch.export.ExportedProgram) -> nn.Module:
    """The module of an exported program with its dense and convolution calls as layers again.

    An archive has lost its modules: `aten.linear(x, dense1.weight, dense1.bias)`. They get back their names, so
    that they can be compressed one by one like those of any other net.
    """
    module = program.module(check_guards=False)
    for node in list(module.graph.nodes):
        layer = _layer_of_call(module, node)
        if layer is None:
            continue
        name = node.args[1].target.rpartition(".")[0]
        module.set_submodule(name, layer)
        with module.graph.inserting_before(node):
            call = module.graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph)  # a fresh one: program.module() forbids eval()


def _module_name(node: fx.Node) -> str | None:
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else None


def _layer_of_call(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that computes what an aten call on constant weights computes; None for other nodes."""
    if node.target not in (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default):
        return None
    weight, bias = _parameter(module, node.args[1]), _parameter(module, _argument(node, 2))
    if weight is None:
        return None
    if node.target == torch.ops.aten.linear.default:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    else:
        stride, padding, dilation = (tuple(_argument(node, i, d)) for i, d in ((3, (1, 1)), (4, (0, 0)), (5, (1, 1))))
        groups, has_bias = _argument(node, 6, 1), bias is not None
        channels, kernel = (weight.shape[1] * groups, weight.shape[0]), weight.shape[2:]
        layer = nn.Conv2d(*channels, kernel, stride, padding, dilation, groups, has_bias)
    layer.weight = nn.Parameter(weight)
    layer.bias = None if bias is None else nn.Parameter(bias)
    return layer


def _argument(node: fx.Node, index: int, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else default


def _parameter(module: fx.GraphModule, node: object) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = module
    for part in node.target.split("."):
        value = getattr(value, part)
    return value.detach()
