"""Methods combined: `a:b` codes with b the parts that a made, `a+b` gives b the layers that a left alone.

`--method svd:pq+kmeans` is two chains, svd:pq and kmeans; a layer gets the first chain that takes it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from torch import nn

from . import discover
from .errors import UsageError, unknown
from .fitting import lowrank
from .fitting.calibration import Inputs
from .layers import Factored
from .layers.matrix import KINDS, kind_of, weight_matrix
from .records import Cost


@dataclass(frozen=True)
class Chain:
    """A method, or several of which each takes what the one before it made; `runtime` is where they will run."""

    names: tuple[str, ...]
    configs: tuple[Any, ...]
    kinds: tuple[str, ...]
    runtime: str = ""

    @property
    def name(self) -> str:
        return join(*self.names)

    @property
    def first(self) -> str:
        """The method that takes the layer itself."""
        return self.names[0]

    @property
    def settings(self) -> dict[str, Any]:
        """All settings; `method.key` where there are several methods."""
        if len(self.names) == 1:
            return self.configs[0].model_dump()
        return {
            f"{name}.{key}": value
            for name, config in zip(self.names, self.configs, strict=True)
            for key, value in config.model_dump().items()
        }

    @property
    def prunes(self) -> bool:
        """It takes channels out of the net, and leaves the layers to the chains behind it."""
        return discover.prunes(self.first)

    @property
    def codes(self) -> bool:
        """What it makes of a layer is a codebook layer."""
        return len(self.names) == 1 and getattr(self._method, "CODES", False)

    @property
    def fitted(self) -> bool:
        """Whether second moments of a layer's inputs decide what becomes of its weights."""
        return bool(self.rest) or getattr(self._method, "MOMENTS", True)

    def settled(self, layer: nn.Module) -> Chain:
        """The same with a rank in the place of its criterion, where the first method has ranks, and with the rounding
        of inputs decided."""
        settle = getattr(self._method, "settle", None)
        first = settle(layer, self.configs[0]) if settle else self._config(layer)
        return replace(self, configs=(first, *self.configs[1:]))

    def without_data(self) -> Chain:
        """The same for a model that has no calibration data to fix scales by."""

        def dynamic(config: Any) -> Any:
            auto = getattr(config, "activations", "") == "auto"
            return config.model_copy(update={"activations": "dynamic"}) if auto else config

        return replace(self, configs=tuple(map(dynamic, self.configs)))

    def structure(self, layer: nn.Module) -> Factored:
        """The parts that the first method makes of a layer, without weights."""
        return self._method.structure(layer, self.configs[0])

    def refuse(self, layer: nn.Module) -> str:
        """Why the chain cannot take a layer; empty if it can."""
        config = self._config(layer)
        reason = self._method.refuse(layer, config)
        if not reason and self.runtime and hasattr(self._method, "arithmetic") and kind_of(layer) != "embedding":
            reason = discover.runtime(self.runtime).refuse(layer, self._method.arithmetic(config))
        if reason or not self.rest:
            return reason
        reasons = [self.rest.refuse(part) for part in self.structure(layer)]
        return reasons[0] if all(reasons) else ""

    def refuse_twins(self, layer: nn.Module, others: list[nn.Module]) -> str:
        """Why the chain cannot take `layer` together with others that share its weight; empty if it can."""
        if others and (self.rest or hasattr(self._method, "structure")):
            return f"{self.name} makes factors, and {len(others) + 1} layers share this weight in different ways"
        reasons = [self.refuse(other) for other in others if kind_of(other) != kind_of(layer)]
        return next(filter(None, reasons), "")

    def predict(self, layer: nn.Module) -> Cost:
        if not self.rest:
            return self._method.predict(layer, self._config(layer))
        costs = [
            lowrank.cost(part, [part]) if self.rest.refuse(part) else self.rest.predict(part)
            for part in self.structure(layer)
        ]
        return Cost(bytes=sum(cost.bytes for cost in costs), macs=sum(cost.macs for cost in costs))

    def remark(self, layer: nn.Module) -> str:
        """Which parts that the first method made the second one leaves as they are, and why; empty if none."""
        if not self.rest:
            return ""
        reasons = [self.rest.refuse(part) for part in self.structure(layer)]
        plain = {reason: [str(i) for i, r in enumerate(reasons, 1) if r == reason] for reason in reasons if reason}
        return "; ".join(f"parts {', '.join(parts)} of {len(reasons)} stay plain: {r}" for r, parts in plain.items())

    def compress(self, layer: nn.Module, inputs: Inputs | None, seed: int) -> nn.Module:
        method, config, rest = self._method, self._config(layer), self.rest
        if not rest:
            return method.compress(layer, config, inputs, seed)

        def code(part: nn.Module, inputs: Inputs | None) -> nn.Module:
            return part if rest.refuse(part) else rest.compress(part, inputs, seed)

        if hasattr(method, "compress_coded"):
            return method.compress_coded(layer, config, inputs, seed, code)

        def make() -> Factored:
            return method.compress(layer, config, inputs, seed)

        made = make() if inputs is None else inputs.cached(f"{self.first} {config} {seed}", make, weight_matrix(layer))
        return Factored(*(code(copy.deepcopy(part), None) for part in made))

    @property
    def couples(self) -> bool:
        """Layers of equal shape are to share parts: `together` then says what each of them gets."""
        return getattr(self._method, "SHARES_FACTORS", False)

    def together(self, layers: list[nn.Module]) -> SharedFactors:
        return SharedFactors(self._method, self._method.settle_together(layers, self.configs[0]), layers)

    def _config(self, layer: nn.Module) -> Any:
        """The first method's, with `activations=auto` as the runtime would have it for this layer."""
        config = self.configs[0]
        if getattr(config, "activations", "") != "auto" or not self.runtime:
            return config
        runtime = discover.runtime(self.runtime)
        static, dynamic = (config.model_copy(update={"activations": name}) for name in ("static", "dynamic"))
        best, other = (static, dynamic) if runtime.prefers_static(layer) else (dynamic, static)
        return other if runtime.refuse(layer, self._method.arithmetic(best)) else best

    @property
    def _method(self) -> ModuleType:
        return discover.method(self.first)

    @property
    def rest(self) -> Chain | None:
        """What codes the parts that the first method makes; None if nothing does."""
        rest = replace(self, names=self.names[1:], configs=self.configs[1:], kinds=KINDS)
        return rest if rest.names else None


class SharedFactors:
    """A method for layers that share parts, which it makes for all of them when the first one comes up."""

    def __init__(self, method: ModuleType, config: Any, layers: list[nn.Module]) -> None:
        self.config, self._method, self._layers = config, method, layers
        self._parts: dict[int, Factored] = {}

    def refuse(self) -> str:
        """Why the layers had better not be coupled; empty if they can be."""
        return self._method.refuse_together(self._layers, self.config)

    def predict(self) -> Cost:
        return self._method.predict_together(self._layers, self.config)

    def compress(self, layer: nn.Module, inputs: Inputs | None, seed: int) -> nn.Module:
        """What takes the place of one of the layers."""
        if not self._parts:
            made = self._method.compress_together(self._layers, self.config, seed)
            self._parts = {id(layer): parts for layer, parts in zip(self._layers, made, strict=True)}
        return self._method.fit_outputs(self._parts[id(layer)], layer, self.config, inputs)


def split(expression: str) -> list[tuple[str, ...]]:
    """The names of the methods, chain by chain: 'svd:pq+kmeans' → [('svd', 'pq'), ('kmeans',)]."""
    return [tuple(chain.split(":")) for chain in expression.split("+")]


def join(*names: str) -> str:
    """The chain of these methods, as `split` reads it."""
    return ":".join(names)


def names_in(expression: str) -> list[str]:
    """All methods of an expression, in their order."""
    return [name for chain in split(expression) for name in chain]


def settings_of(part: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One method's own, out of the settings of a chain of several."""
    return {key.removeprefix(f"{part}."): v for key, v in settings.items() if key.startswith(f"{part}.")}


def parse(expression: str, settings: tuple[str, ...] = (), runtime: str = "") -> list[Chain]:
    """The chains of a `--method`, with `--set KEY=VALUE` filled in.

    `kinds=…` says which layers every chain takes, `METHOD.kinds=…` those of the chain that begins with it. A key
    without a method is for every method that knows it. Chains refuse what `runtime`, if given, has no kernels for.

    Raises:
        UsageError: an unknown method, setting or kind, or methods that cannot be combined so.
    """
    chains, names = split(expression), names_in(expression)
    texts: dict[str, dict[str, str]] = {name: {} for name in names}
    kinds: dict[str, str] = {}
    fields = {name: ("kinds", *discover.method(name).Config.model_fields) for name in names}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"cannot read --set {text!r}", "Write it as KEY=VALUE, for example --set k=16.")
        owner, dot, field = key.rpartition(".")
        if dot and owner not in names:
            raise unknown("method in --set", owner, names)
        owners = [name for name in ([owner] if dot else names) if field in fields[name]]
        if not owners:
            known = fields[owner] if dot else sorted({field for name in names for field in fields[name]})
            raise unknown(f"setting of {owner or expression}", field, known)
        for name in owners:
            (kinds if field == "kinds" else texts[name])[name if field == "kinds" else field] = value
    candidates = [replace(_chain(chain, texts, kinds), runtime=runtime) for chain in chains]
    for place, candidate in enumerate(candidates):
        if candidate.prunes and place:
            others = [join(*chain) for chain in chains if chain != candidate.names]
            raise UsageError(
                f"{expression}: {candidate.name} takes channels out of the whole net, and layers come after that",
                f"Did you mean {'+'.join([candidate.name, *others])}?",
            )
    return candidates


def restore(name: str, settings: dict[str, Any], runtime: str = "") -> Chain:
    """The chain of a plan's entry."""
    (names,) = split(name)
    if len(names) == 1:
        return Chain(names, (discover.method(name).Config(**settings),), KINDS, runtime)
    configs = tuple(discover.method(part).Config(**settings_of(part, settings)) for part in names)
    return Chain(names, configs, KINDS, runtime)


def _chain(names: tuple[str, ...], texts: dict[str, dict[str, str]], kinds: dict[str, str]) -> Chain:
    pruning = [name for name in names if discover.prunes(name)]
    if pruning and len(names) > 1:
        others = [name for name in names if name not in pruning]
        raise UsageError(
            f"{join(*names)}: {pruning[0]} makes no parts of a layer, it takes channels out of the whole net",
            f"Did you mean {'+'.join([pruning[0], join(*others)])}, which gives the layers that are left to "
            f"{join(*others)}?",
        )
    for name in names[:-1]:
        if not hasattr(discover.method(name), "structure"):
            raise UsageError(
                f"{join(*names)}: {name} leaves no parts for {names[-1]} to code",
                f"Did you mean {'+'.join(names)}, which gives {names[-1]} the layers that {name} leaves alone?",
            )
    for name in names[:-1]:
        if getattr(discover.method(name), "SHARES_FACTORS", False):
            raise UsageError(
                f"{join(*names)}: {name} makes parts that layers share, and codes are fitted to one layer",
                f"Did you mean {'+'.join(names)}, which gives {names[-1]} the layers that {name} leaves alone?",
            )
    if len(names) > 1 and hasattr(discover.method(names[-1]), "structure"):
        raise UsageError(
            f"{join(*names)}: {names[-1]} makes parts of a layer, and {names[-2]} has made parts of it already",
            f"Did you mean {'+'.join(names)}, which gives {names[-1]} the layers that {names[-2]} leaves alone?",
        )
    wanted = tuple(kinds[names[0]].split(",")) if names[0] in kinds else discover.method(names[0]).KINDS
    for kind in wanted:
        if kind not in KINDS:
            raise unknown("kind of layer", kind, KINDS)
    return Chain(names, tuple(discover.configure(name, texts[name]) for name in names), wanted)
