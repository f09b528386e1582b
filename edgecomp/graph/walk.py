"""Samples on their way through a canonical net, from one layer to the next: no part of it is computed twice.

Layers are compressed in the order of execution, each fitted to what reaches it through those before. So the net need
not be run from its start for every layer: what lies between two of them is computed when the second one's turn comes.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..layers.layout import laid_out
from .batches import Tensors, comfortable, records
from .net import CanonicalNet

_MEMORY = 2 << 30  # bytes of activations kept; what is beyond is computed again


class Walk:
    """The state of a pass: for every batch of samples the values that are still needed, at the layer it has reached.

    Attributes:
        net: its layers may change their weights once the walk has been at them, and before it goes on.
        samples: (N, …) each. batch_size: so many go at a time.
    """

    def __init__(self, net: CanonicalNet, samples: Tensors) -> None:
        self.net, self.samples = net, samples
        self.batch_size = net.batch or min(len(samples[0]), comfortable(net, samples))
        (function,) = ast.parse(net.code).body
        assert isinstance(function, ast.FunctionDef)
        self._names = [argument.arg for argument in function.args.args[1:]]
        self._steps = [_Step(statement) for statement in function.body[:-1]]  # without the return
        self._batches = [tuple(map(laid_out, x)) for x in self._split()]
        self._kept: dict[int, tuple[int, dict[str, Any] | None, int]] = {}  # place, values, their bytes
        self._bytes = 0

    def calls_of(self, name: str) -> Iterator[list[Tensors]]:
        """The arguments of all calls of a layer, or of a module around it; batch by batch."""
        places = [i for i, step in enumerate(self._steps) if step.calls == name]
        for number, batch in enumerate(self._batches):
            place, values, size = self._kept.pop(number, (0, None, 0))
            self._bytes -= size
            if values is None or place > places[0]:
                place, values = 0, dict(zip(self._names, batch, strict=True))
            self._run(values, place, places[0])
            calls = [self._arguments(values, places[0])]
            if places[1:]:  # what is computed between the calls changes with the layer
                ahead = copy.deepcopy(values)
                for start, stop in pairwise(places):
                    self._run(ahead, start, stop)
                    calls.append(self._arguments(ahead, stop))
            yield calls
            size = _bytes_of(values)
            if self._bytes + size <= _MEMORY:
                self._kept[number] = places[0], values, size
                self._bytes += size

    def _split(self) -> list[Tensors]:
        if self.net.batch is not None:
            return records(self.samples, self.net.batch)
        return list(zip(*(x.split(self.batch_size) for x in self.samples), strict=True))

    def _run(self, values: dict[str, Any], start: int, stop: int) -> None:
        space = {**self.net.namespace(), "self": self.net}
        with torch.no_grad():
            for step in self._steps[start:stop]:
                exec(step.code, space, values)

    def _arguments(self, values: dict[str, Any], place: int) -> Tensors:
        return tuple(values[name] for name in self._steps[place].arguments)


class _Step:
    """A statement of the net's code.

    Attributes:
        calls: the module that it calls, by name; '' for other statements. arguments: the variables it is called with.
    """

    def __init__(self, statement: ast.stmt) -> None:
        module = ast.Module([statement], [])
        self.code = compile(ast.unparse(module), "<canonical net>", "exec")
        self.calls, self.arguments = "", ()
        value = statement.value if isinstance(statement, ast.Assign) else None
        if isinstance(value, ast.Call) and (name := _module_name(value.func)):
            self.calls, self.arguments = name, tuple(map(ast.unparse, value.args))


def _module_name(function: ast.expr) -> str:
    """`self.features.0` of `getattr(self.features, '0')` and the like; '' for what is not the net's."""
    if isinstance(function, ast.Call) and isinstance(function.func, ast.Name) and function.func.id == "getattr":
        owner, last = function.args
        assert isinstance(last, ast.Constant)
        return _joined(owner, str(last.value))
    if isinstance(function, ast.Attribute):
        return _joined(function.value, function.attr)
    return ""


def _joined(owner: ast.expr, last: str) -> str:
    if isinstance(owner, ast.Name):
        return last if owner.id == "self" else ""
    prefix = _module_name(owner)
    return f"{prefix}.{last}" if prefix else ""


def _bytes_of(values: dict[str, Any]) -> int:
    return sum(value.numel() * value.element_size() for value in values.values() if isinstance(value, Tensor))
