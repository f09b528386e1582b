"""The canonical net as a module: plain layers under their names, and the code of the graph that calls them."""

from __future__ import annotations

import hashlib
import importlib
import re
from typing import Any

import torch
from torch import Tensor, fx, nn

from .batches import joined, records
from .given import Outputs, as_tuple

_aten = torch.ops.aten
_OURS = {"batch", "code", "calls", "rectified", "used", "digest"}  # attributes of a canonical net
_RELUS = {_aten.relu.default, _aten.relu_.default, _aten.relu6.default, _aten.relu6_.default}


class CanonicalNet(nn.Module):
    """What the user's module computes: tensors in a row in, one tensor or a tuple of them out.

    Unlike a GraphModule it can be pickled and copied whatever its operators are.

    Attributes:
        code: of the graph, in Python.
        batch: the only number of samples that the graph takes; None if it takes any. More samples are then given to it
            so many at a time, and what comes out is put together.
        calls: how often each layer is called, by name.
        rectified: names of layers whose outputs all go to a ReLU and nowhere else.
        sources: by name of a layer, the parameters of the user's module that its weight and bias come from, and that
            which shifts what comes out of a norm folded into it; '' for none.
        used: parameters and buffers of the user's module that some operator takes, by name.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, batch: int | None, used: set[str]) -> None:
        super().__init__()
        held = fx.GraphModule(root, graph)  # with what the graph names, and nothing else
        for owned in ("_modules", "_parameters", "_buffers"):
            getattr(self, owned).update(getattr(held, owned))
        code = graph.python_code("self")
        self.batch, self.code = batch, code.src
        words = set(re.findall(r"\w+", code.src))
        self._names = {name: _place_of(value) for name, value in code.globals.items() if name in words}
        calls = [node for node in graph.nodes if node.op == "call_module"]
        names = [str(node.target) for node in calls]
        self.calls, self.used = {name: names.count(name) for name in names}, used
        self.rectified = {*names} - {str(node.target) for node in calls if not _only_rectified(node)}
        self.sources: dict[str, tuple[str, str, str]] = {}
        self._compile()

    def digest(self) -> str:
        """SHA-256 over the program, and names, shapes and bytes of all tensors."""
        digest = hashlib.sha256(f"{self.batch} {self.code}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def forward(self, *inputs: Tensor) -> Tensor | Outputs:
        if self.batch is None or not inputs[0].dim() or len(inputs[0]) == self.batch:
            return self._run(self, *inputs)
        parts = [as_tuple(self._run(self, *record)) for record in records(inputs, self.batch)]
        outputs = tuple(joined(output, self.batch, len(inputs[0])) for output in zip(*parts, strict=True))
        return outputs if len(outputs) > 1 else outputs[0]

    def namespace(self) -> dict[str, Any]:
        """What the code names beside `self`."""
        return {name: _at(*place) for name, place in self._names.items()}

    def _compile(self) -> None:
        space = self.namespace()
        exec(compile(self.code, "<canonical net>", "exec"), space)  # code that the graph wrote
        self._run = space["forward"]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compile()


def not_ours(name: str) -> str:
    """A dotted name of the user's, changed where a canonical net has an attribute that is called so."""
    first, dot, rest = name.partition(".")
    return f"{first}_{dot}{rest}" if first in _OURS else name


def _only_rectified(node: fx.Node) -> bool:
    users = list(node.users)
    clamped = len(users) == 1 and users[0].target == torch.ops.aten.hardtanh.default and users[0].args[1:2] == (0.0,)
    return clamped or (len(users) == 1 and users[0].target in _RELUS)


def _place_of(value: Any) -> tuple[str, str]:
    """Where something that generated code names can be imported from."""
    if isinstance(value, type(torch)):
        return value.__name__, ""
    if isinstance(value, float):
        return "math", str(abs(value))  # inf and nan
    return value.__module__, value.__qualname__


def _at(module: str, name: str) -> Any:
    value: Any = importlib.import_module(module)
    for part in filter(None, name.split(".")):
        value = getattr(value, part)
    return value
