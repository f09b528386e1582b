"""What the graph of a network tells: the order its layers run in, what they depend on, whose channels they take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

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
    dependencies: dict[str, set[str]] = {}
    for node in program.graph.nodes:
        before = set().union(*(reached[source] for source in node.all_input_nodes))
        name = _module_name(node) if node.op == "call_function" else None
        if name:
            dependencies.setdefault(name, before - {name})
        reached[node] = before | ({name} if name else set())
    return dependencies


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
    sources = {node: _channel_source(node) for node in plain}
    return {_module_name(node): _module_name(source) for node, source in sources.items() if source in plain}


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


def _module_name(node: fx.Node) -> str | None:
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0] if stack else None


def _argument(node: fx.Node, index: int, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else default
