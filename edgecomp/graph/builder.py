"""What rebuilding a graph works with: layers made once for all uses of a weight in the same way, and their names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from .constants import ROOT, Constants, attribute, identity, path_of
from .net import CanonicalNet, not_ours


class Builder:
    """The layers made so far, and the graph they are put into. Forms call its methods for the node at hand.

    Attributes:
        node: the one at hand.

    Args:
        used: parameters and buffers of the user's module that some operator takes, by name.
    """

    def __init__(self, constants: Constants, used: set[str]) -> None:
        self.constants, self.graph, self._used = constants, constants.graph, used
        self.node = next(iter(self.graph.nodes))
        self._layers: dict[Any, str] = {}
        self._made: dict[str, nn.Module] = {}
        self._parameters: dict[Any, nn.Parameter] = {}
        self._kept: list[Tensor] = []
        self._sources: dict[str, tuple[str, tuple[str, str, str]]] = {}
        self._derived: dict[Any, Tensor] = {}
        self._wanted: dict[str, str] = {}
        self._reasons: dict[str, str] = {}

    def value(self, node: object) -> Tensor | None:
        return self.constants.value(node)

    def op(self, target: Any, *args: Any) -> fx.Node:
        return self.graph.call_function(target, args)

    def call(self, module: nn.Module, weight: Tensor, bias: Tensor | None, place: fx.Node, *x: Any) -> fx.Node:
        """Calls a layer with this weight and bias, the same one where it has been called before.

        Args:
            module: the layer, or what has one as `weight` or `hh`; with tensors on the meta device, which give way.
            place: the node that holds the weight.
        """
        key = repr(module), identity(weight), None if bias is None else identity(bias)
        if key not in self._layers:
            inside = [name for name in ("weight", "hh") if isinstance(getattr(module, name, None), nn.Module)]
            layer = getattr(module, inside[0]) if inside else module
            layer.weight = self._parameter(weight)
            if not isinstance(layer, nn.Embedding):
                layer.bias = None if bias is None else self._parameter(bias)
            self._layers[key] = f"layer{len(self._made)}"
            self._made[self._layers[key]] = module.eval()
            self.constants.module.add_module(self._layers[key], module)
            self._wanted[self._layers[key]] = not_ours(self._name(place))
            self._sources[self._layers[key]] = ".".join(["", *inside]), self._source(place, bias)
        return self.graph.call_module(self._layers[key], x)

    def derived(self, tensor: Tensor, place: fx.Node) -> Tensor:
        """The same tensor each time that a form makes one of the same values from a constant."""
        source = self.value(place)
        known = self._derived.setdefault((identity(source), tuple(tensor.shape)), tensor)
        return known if torch.equal(known, tensor) else tensor

    def _parameter(self, tensor: Tensor) -> nn.Parameter:
        """The same one for the same tensor."""
        self._kept.append(tensor)  # what is told apart by its place in memory must stay there
        return self._parameters.setdefault(identity(tensor), nn.Parameter(tensor.detach().contiguous()))

    def _name(self, place: fx.Node) -> str:
        """What people call a layer: by its parameter; by the module that calls it where another layer has that name."""
        owner = self.constants.owner(place)
        paths = {path_of(user) for user in place.users} - {""}
        if len(paths) > 1 and path_of(self.node):
            return path_of(self.node)
        parametrized, inside, _ = owner.partition(".parametrizations.")
        if inside:
            return parametrized
        module, _, parameter = owner.rpartition(".")
        names = {"weight", "weight_g", "weight_v", "weight_orig"}
        return (module if parameter in names else owner.removesuffix("_weight")) or "layer"

    def _source(self, place: fx.Node, bias: Tensor | None) -> tuple[str, str, str]:
        """The names of the parameters that weight and bias come from, and of the shift of a norm folded into them."""
        shift = self.constants.shifts.get(place, "")
        nodes = [n for n in self.node.all_input_nodes if bias is not None and self.value(n) is bias and not shift]
        return self.constants.owner(place), self.constants.owner(nodes[0]) if nodes else "", shift

    def leave(self, node: fx.Node, reason: str) -> None:
        """Notes why the constants that an operator takes stay as they are."""
        for source in node.all_input_nodes:
            if self.value(source) is not None:
                self._reasons[self.constants.owner(source)] = reason

    def finished(self, batch: int | None) -> CanonicalNet:
        """The net with every layer and every other constant under the name it is to have."""
        plain = {n: not_ours(n.target.removeprefix(ROOT)) for n in self.graph.nodes if n.op == "get_attr"}
        called = {node.target for node in self.graph.nodes if node.op == "call_module"}
        names = _distinct({name: wanted for name, wanted in self._wanted.items() if name in called}, {*plain.values()})
        root = nn.Module()
        for name, module in self._made.items():
            if name in called:
                _put(root, names[name], module)
        for node, name in plain.items():
            _put(root, name, attribute(self.constants.module, node.target))
            node.target = name
        for node in self.graph.nodes:
            if node.op == "call_module":
                node.target = names[node.target]
        net = CanonicalNet(root, self.graph, batch, self._used).eval()
        net.sources = {names[n] + inside: origin for n, (inside, origin) in self._sources.items() if n in called}
        for owner, reason in ((not_ours(owner), reason) for owner, reason in self._reasons.items()):
            if owner in plain.values():
                net.get_submodule(owner.rpartition(".")[0]).reason = reason
        return net


def _distinct(wanted: dict[str, str], taken: set[str]) -> dict[str, str]:
    """Names near to those that are wanted, of which none is another, or lies within another."""
    chosen: dict[str, str] = {}
    for key, name in wanted.items():
        others = {*taken, *chosen.values(), *(other for k, other in wanted.items() if k not in chosen and k != key)}
        choices = [name, f"{name}.weight", *(f"{name}_{i}" for i in range(2, len(wanted) + 2))]
        free = [choice for choice in choices if choice not in others and not _entangled(choice, others)]
        chosen[key] = free[0] if free else key
    return chosen


def _entangled(name: str, others: set[str]) -> bool:
    return any(other.startswith(f"{name}.") or name.startswith(f"{other}.") for other in others)


def _put(root: nn.Module, name: str, value: object) -> None:
    """Sets an attribute of that dotted name, with modules in between as needed."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        root.register_buffer(last, value)
    else:
        setattr(root, last, value)
