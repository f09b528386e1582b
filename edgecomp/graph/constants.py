"""Which nodes of a traced graph hold constants, what these are, and which parameter they came from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

ROOT = "module."  # where `Given` keeps the user's module
_CHECKS = {
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten.sym_constrain_range_for_size.default,
    torch.ops.aten.sym_constrain_range.default,
}

Identity = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def identity(tensor: Tensor) -> Identity:
    """Equal for tensors that are the same view of the same memory."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


class Constants:
    """The constants of a traced graph: parameters and buffers that nothing writes to, and what follows from them alone,
    such as the weight that a weight norm computes."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self._written = written(module.graph)
        self._values: dict[fx.Node, Tensor | None] = {}
        self._owners: dict[fx.Node, str] = {}
        self.shifts: dict[fx.Node, str] = {}

    def value(self, node: object) -> Tensor | None:
        """The tensor that a node always is; None if inputs, chance or memory have a say in it."""
        if not isinstance(node, fx.Node):
            return None
        if node not in self._values:
            self._values[node] = self._evaluated(node)
        return self._values[node]

    def used(self) -> set[str]:
        """The parameters and buffers that some operator takes, by their names in the user's module."""
        return {str(n.target).removeprefix(ROOT) for n in self.graph.nodes if n.op == "get_attr" and n.users}

    def add(self, tensor: Tensor, owner: str, shift: str = "") -> fx.Node:
        """A node for a new constant, made from the parameter of that name, at the graph's insertion point.

        Args:
            shift: the parameter by which a norm that has been folded into it shifts what comes out.
        """
        name = f"_constant{len(self._owners)}"
        self.module.register_buffer(name, tensor)
        node = self.graph.get_attr(name)
        self._values[node], self._owners[node], self.shifts[node] = tensor, owner, shift
        return node

    def _evaluated(self, node: fx.Node) -> Tensor | None:
        if node in self._written:
            return None
        if node.op == "get_attr":
            value = attribute(self.module, str(node.target))
            return value.detach() if isinstance(value, Tensor) else None
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or _varies(node):
            return None
        inputs = {source: self.value(source) for source in node.all_input_nodes}
        if not inputs or any(value is None for value in inputs.values()):
            return None
        with torch.no_grad():
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: inputs[source])
            value = node.target(*args, **kwargs)
        return value if isinstance(value, Tensor) else None

    def owner(self, node: fx.Node) -> str:
        """The name of the largest parameter that the constant comes from, as in the user's module; '' if none."""
        if node in self._owners:
            return self._owners[node]
        sizes = {str(source.target).removeprefix(ROOT): self._size(source) for source in _sources(node)}
        return max(sizes, key=lambda name: (sizes[name], name), default="")

    def _size(self, node: fx.Node) -> int:
        value = attribute(self.module, str(node.target))
        return value.numel() if isinstance(value, Tensor) else 0


def attribute(module: torch.nn.Module, name: str) -> object:
    """The attribute of that dotted name."""
    value: object = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def path_of(node: fx.Node) -> str:
    """The name, in the user's module, of the innermost module that calls the operator of a node; '' for the module
    itself."""
    stack = node.meta.get("nn_module_stack")
    path = list(stack.values())[-1][0] if stack else ""
    return "" if path in ("", "module") else path.removeprefix(ROOT)


def written(graph: fx.Graph) -> set[fx.Node]:
    """The inputs and attributes that some operator writes to, through whatever views."""
    inputs = set()
    for node in graph.nodes:
        for argument in _arguments(node, writes=True):
            while argument.op == "call_function" and (views := list(_arguments(argument, writes=False))):
                argument = views[0]
            inputs.add(argument)
    return inputs


def tidy(graph: fx.Graph) -> None:
    """Takes out checks of shapes and dtypes, the reshaping that only works for some memory layouts, and writes that
    reach the caller's tensors."""
    spoiled = written(graph)
    for node in list(graph.nodes):
        if node.target in _CHECKS and not node.users:
            graph.erase_node(node)
        elif node.target == torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
        elif node.op == "placeholder" and node in spoiled:
            with graph.inserting_after(node):
                copy = graph.call_function(torch.ops.aten.clone.default, (node,))
            node.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)


def _arguments(node: fx.Node, writes: bool) -> Iterator[fx.Node]:
    """The nodes that an operator writes to; or, where not `writes`, that its result may share memory with."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return
    for place, argument in enumerate(node.target._schema.arguments):
        given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        alias = argument.alias_info
        if isinstance(given, fx.Node) and alias is not None and (alias.is_write or not writes):
            yield given


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    if node.op == "get_attr":
        yield node
    for source in node.all_input_nodes:
        yield from _sources(source)


def _varies(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in node.target.tags or any(_arguments(node, writes=True))
