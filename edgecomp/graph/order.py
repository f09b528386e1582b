"""What the graph of a network tells: the order its layers run in, batch norms to fold, the layers of a .pt2 archive."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fusion

_WEIGHTED = {
    torch.ops.aten.linear.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
}
_aten = torch.ops.aten
# What keeps channels apart, in inference; the pooling ones only over the space of images.
_ELEMENTWISE = {
    *(_aten.relu.default, _aten.relu_.default, _aten.gelu.default, _aten.silu.default, _aten.silu_.default),
    *(_aten.sigmoid.default, _aten.tanh.default, _aten.elu.default, _aten.leaky_relu.default, _aten.hardtanh.default),
    *(_aten.relu6.default, _aten.hardswish.default, _aten.hardsigmoid.default, _aten.dropout.default),
}
_POOLING = {_aten.max_pool2d.default, _aten.avg_pool2d.default, _aten.adaptive_avg_pool2d.default}
_FLATTENING = {_aten.flatten.using_ints, _aten.view.default, _aten.reshape.default}


def note_image_sizes(net: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
    """Runs the examples and leaves with every convolution the (height, width) of its inputs, as `image_size`: what it
    costs depends on it."""

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer.image_size = tuple(inputs[0].shape[-2:])

    handles = [m.register_forward_pre_hook(note) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net(*example_inputs)
    for handle in handles:
        handle.remove()


def layer_order(net: nn.Module) -> list[str]:
    """Names of the modules that own parameters: first those that are called, in the order of their first call."""
    names = [name for name, module in net.named_modules() if any(True for _ in module.parameters(recurse=False))]
    calls = list(getattr(net, "calls", {}))

    def place(name: str) -> int:
        return next((i for i, called in enumerate(calls) if f"{name}.".startswith(f"{called}.")), len(calls))

    return sorted(names, key=place)


def execution_order(program: torch.export.ExportedProgram) -> list[str]:
    """Names of the modules that call operators, in the order of their first call."""
    names = (_module_name(node) for node in program.graph.nodes if node.op == "call_function")
    return list(dict.fromkeys(name for name in names if name))


def upstream(program: torch.export.ExportedProgram) -> dict[str, set[str]]:
    """By module that calls operators, the others that what it is called with first depends on."""
    reached: dict[fx.Node, set[str]] = {}
    found: dict[str, set[str]] = {}
    for node in program.graph.nodes:
        before = set().union(*(reached[source] for source in node.all_input_nodes))
        name = _module_name(node) if node.op == "call_function" else None
        if name:
            found.setdefault(name, before - {name})
        reached[node] = before | ({name} if name else set())
    return found


def channel_producers(program: torch.export.ExportedProgram) -> dict[str, str]:
    """Layers all of whose input channels are the output channels of one layer that feeds nothing else: by name, its
    name. Another order of these channels, in both, changes nothing the network computes."""
    weighted = [node for node in program.graph.nodes if node.target in _WEIGHTED]
    calls = [_module_name(node) for node in weighted]
    plain = {
        node
        for node, name in zip(weighted, calls, strict=True)
        if name and calls.count(name) == 1 and _groups(node) == 1 and all(len(p.users) == 1 for p in _weights(node))
    }
    found = {node: _channel_source(node) for node in plain}
    return {_module_name(node): _module_name(source) for node, source in found.items() if source in plain}


def _channel_source(node: fx.Node) -> fx.Node | None:
    """The layer whose output reaches `node` alone and with its channels apart; None if there is no such layer."""
    flat, source = False, node.args[0]
    while isinstance(source, fx.Node) and len(source.users) == 1:
        before = source.args[0] if source.args else None
        if source.target in _FLATTENING:
            old, new = before.meta["val"].shape, source.meta["val"].shape
            if flat or len(old) != 4 or len(new) != 2 or old[0] != new[0]:
                return None
            flat = True
        elif source.target in _WEIGHTED:
            image = source.target != _aten.linear.default
            return source if image == (flat or node.target != _aten.linear.default) else None
        elif source.target not in _ELEMENTWISE | _POOLING:
            return None
        source = before
    return None


def _groups(node: fx.Node) -> int:
    return 1 if node.target == _aten.linear.default else _argument(node, 6, 1)


def _weights(node: fx.Node) -> list[fx.Node]:
    return [argument for argument in node.args[1:3] if isinstance(argument, fx.Node)]


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
