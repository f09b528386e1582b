"""A ReLU behind a codebook layer becomes part of its op: the kernel has the outputs at hand, and they are written once.

Both runtimes look for it in the graph that `torch.export` has made, where modules, functions and methods are one thing.
"""

from __future__ import annotations

import torch
from torch import fx

from . import ops  # defines torch.ops.edgecomp

_CODED = ("codebook_linear.default", "codebook_conv2d.default")  # also what a runtime makes of them
_RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
_PLACE = f"Tensor x, {ops.MATRIX}".split(", ").index("bool relu")


def relu_behind(node: fx.Node) -> fx.Node | None:
    """The ReLU that is the only one to take what a codebook layer gives; None for other nodes, or if there is none."""
    users = list(node.users)
    alone = len(users) == 1 and users[0].target in _RELUS
    return users[0] if alone and getattr(node.target, "__name__", "") in _CODED else None


def fuse_relus(program: torch.export.ExportedProgram) -> None:
    """Puts such ReLUs into the calls of our ops, and out of the graph."""
    graph = program.graph
    for node in list(graph.nodes):
        relu = relu_behind(node)
        if relu is None:
            continue
        node.update_arg(_PLACE, True)
        relu.replace_all_uses_with(node)
        program.graph_signature.replace_all_uses(relu.name, node.name)
        graph.erase_node(relu)
    program.graph_module.recompile()
