"""Parts of a forward pass under `torch.no_grad()` or autocast, which a trace keeps as graphs of their own, become part
of the graph around them. What autocast would round is computed in fp32."""

from __future__ import annotations

import operator

import torch
from torch import fx

from .constants import attribute

# Where the part is among the arguments; behind it come its inputs.
_PLACES = {torch.ops.higher_order.wrap_with_set_grad_enabled: 1, torch.ops.higher_order.wrap_with_autocast: 4}


def inline(module: fx.GraphModule) -> None:
    """Puts all such parts, and those within them, into the graph of `module`."""
    while parts := [node for node in module.graph.nodes if node.target in _PLACES]:
        for node in parts:
            _inline(module, node)
    module.graph.eliminate_dead_code()


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    place = _PLACES[node.target]
    held, inputs = node.args[place], node.args[place + 1 :]
    part = attribute(module, held.target)
    known = dict(zip((n for n in part.graph.nodes if n.op == "placeholder"), inputs, strict=True))
    for inner in part.graph.nodes:
        if inner.op == "get_attr":  # a part within the part
            name = f"_part_{len(module._modules)}"
            module.add_module(name, attribute(part, inner.target))
            with module.graph.inserting_before(node):
                known[inner] = module.graph.get_attr(name)
    with module.graph.inserting_before(node):
        outputs = module.graph.graph_copy(part.graph, known)
    for user in list(node.users):
        assert user.target is operator.getitem, "a part gives a tuple"
        user.replace_all_uses_with(outputs[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(node)
