"""What could become of each layer: every method and chain with a few settings, and leaving it alone.

Bytes are exact. What a candidate does to the outputs is found out by `trials`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import nn

from .. import chain, discover
from ..chain import Chain
from ..fitting import lowrank
from ..records import Record

# What codes the parts that a factorization makes.
_CODINGS = {
    "pq": ("pq.s=2", "pq.s=4", "pq.s=8", "pq.s=4 pq.codebooks=shared"),
    "kmeans": ("kmeans.k=2", "kmeans.k=4", "kmeans.k=16"),
    "int8": ("",),
    "int4": ("",),
    "int2": ("",),
}
_RANKS = (0.75, 0.87, 1.15, 1.33)  # times that of a pick


@dataclass(frozen=True)
class Group:
    """Layers that must be treated alike, what they take as they are, and why nothing else can become of them, if so."""

    layers: tuple[str, ...]
    kind: str
    bytes: int
    reason: str = ""


class Candidate(Record):
    """One thing that could become of a group of layers. bytes: of its weights. container: what the file takes beside
    them, beyond what it takes for the layers as they are. macs: multiply-adds of one inference."""

    layers: tuple[str, ...]
    method: str | None
    settings: dict[str, Any] = Field(default_factory=dict)
    remark: str = ""
    bytes: int
    container: int = 0
    macs: int

    @property
    def size(self) -> int:
        """What the file is larger for."""
        return self.bytes + self.container

    @property
    def name(self) -> str:
        return self.method or "leave"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the chain; none where the layers are left alone."""
        return chain.split(self.method)[0] if self.method else ()

    @property
    def chained(self) -> bool:
        """It codes the parts that a factorization makes."""
        return len(self.methods) > 1

    @property
    def factorizes(self) -> bool:
        """Its first method makes parts of a layer."""
        return bool(self.methods) and hasattr(discover.method(self.methods[0]), "structure")


def candidates(net: nn.Module, group: Group, names: tuple[str, ...], runtime: str) -> list[Candidate]:
    """All that could become of a group, without such as take no fewer bytes; leaving it alone comes first.

    Args:
        names: chains to choose from; empty for all.
    """
    layer = net.get_submodule(group.layers[0])
    own = lowrank.total_macs(layer, [layer]) if group.kind in ("dense", "conv") else 0
    unique = {("", ""): Candidate(layers=group.layers, method=None, bytes=group.bytes, macs=own)}
    for method in () if group.reason else chains(names, runtime):
        if method.couples or method.prunes:  # of more than one layer
            continue
        method = method.settled(layer)
        if not method.refuse(layer):
            made = _candidate(layer, group, method)
            if made.bytes < group.bytes:
                unique[made.name, str(made.settings)] = made
    return list(unique.values())


def _candidate(layer: nn.Module, group: Group, method: Chain) -> Candidate:
    cost = method.predict(layer)
    return Candidate(
        layers=group.layers,
        method=method.name,
        settings=method.settings,
        remark=method.remark(layer),
        bytes=cost.bytes,
        macs=cost.macs * lowrank.outputs_of(layer),
    )


def chains(names: tuple[str, ...], runtime: str) -> Iterator[Chain]:
    """The methods and chains of these names, each with all the settings to try; empty for all there are."""
    for name in names or every_name():
        first, *codings = chain.names_in(name)
        own = _settings(first, bool(names))
        coded = _CODINGS.get(codings[0], ("",)) if codings else ("",)
        for mine, its in itertools.product(own, coded):
            texts = [f"{first}.{text}" for text in mine.split()] + its.split()
            yield from chain.parse(name, tuple(texts), runtime)


def every_name() -> list[str]:
    """All methods that treat layers one by one, and all factorizations with their parts coded."""
    layered = [name for name in discover.method_names() if not discover.prunes(name)]
    single = [name for name in layered if _settings(name, False)]
    parted = [name for name in single if hasattr(discover.method(name), "structure") and not _couples(name)]
    return single + [chain.join(name, coding) for name in parted for coding in _CODINGS]


def _settings(name: str, asked: bool) -> tuple[str, ...]:
    """A method that lists none, for another has the same, is tried with its defaults where it was asked for."""
    return getattr(discover.method(name), "CANDIDATES", ("",)) or (("",) if asked else ())


def _couples(name: str) -> bool:
    return getattr(discover.method(name), "SHARES_FACTORS", False)


def least_size(choices: list[list[Candidate]]) -> int:
    """That of all layers if each got its smallest candidate."""
    return sum(min(candidate.size for candidate in group) for group in choices)


def neighbours(net: nn.Module, group: Group, pick: Candidate, runtime: str) -> list[Candidate]:
    """The pick's method with other ranks and segment lengths, beside its own."""
    if pick.method is None:
        return []
    layer = net.get_submodule(group.layers[0])
    smaller = []
    for settings in _beside(pick.settings):
        method = chain.restore(pick.method, settings, runtime)
        if not method.refuse(layer):
            made = _candidate(layer, group, method)
            smaller += [made] if made.bytes < group.bytes else []
    return smaller


def _beside(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in settings.items():
        field = key.rpartition(".")[2]
        if field == "rank":
            nearby = {max(1, round(factor * value)) for factor in _RANKS} - {value}
        elif field == "s" and value > 1:
            nearby = {value - 1, value + 1} - {1}
        else:
            continue
        for other in sorted(nearby):
            yield {**settings, key: other}
