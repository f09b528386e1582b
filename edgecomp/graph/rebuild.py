"""Rebuilds a traced graph: every use of a constant weight becomes a call of a plain layer, named after its parameter.

Layers are `nn.Linear`, `nn.Conv2d` and `nn.Embedding`; convolutions over one or three dimensions and transposed ones
are written with `nn.Conv2d` and operators around it. Uses of one weight in the same way are one layer that is called
several times; other uses share the tensor. What cannot become a plain layer is left alone, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from . import cells, convolutions, products, recurrences
from .builder import Builder
from .constants import Constants, tidy
from .fold import fold_norms
from .net import CanonicalNet
from .regions import inline
from .trace import Traced

# What takes the place of a node; or the reason why it is left alone; None if there is nothing left to do.
Form = Callable[[Builder, fx.Node], "fx.Node | str | None"]
_FORMS: dict[Any, Form] = {**products.FORMS, **convolutions.FORMS, **recurrences.FORMS, **cells.FORMS}


def rebuild(traced: Traced) -> CanonicalNet:
    """The canonical net of a trace, whose graph is used up."""
    graph = traced.module.graph
    inline(traced.module)
    tidy(graph)
    constants = Constants(traced.module)
    used = constants.used()  # before what is folded into others goes
    fold_norms(constants)
    build = Builder(constants, used)
    for node in list(graph.nodes):
        form = _FORMS.get(node.target) if node.op == "call_function" else None
        if form is None or build.value(node) is not None:  # a product of constants is one
            continue
        build.node = node
        with graph.inserting_before(node):
            result = form(build, node)
        if isinstance(result, fx.Node):
            result.meta = node.meta
            node.replace_all_uses_with(result)
            graph.erase_node(node)
        elif result:
            build.leave(node, result)
    _plain_outputs(graph)
    graph.eliminate_dead_code()
    return build.finished(traced.batch)


def _plain_outputs(graph: fx.Graph) -> None:
    """One tensor, or a tuple of them."""
    output = next(iter(reversed(graph.nodes)))
    given = [value for value in output.args[0] if isinstance(value, fx.Node)]
    output.args = (given[0] if len(given) == 1 else tuple(given),)
    graph.set_codegen(fx.graph.CodeGen())
