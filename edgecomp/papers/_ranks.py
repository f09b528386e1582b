"""Nets cut to ranks: every layer is decomposed once, every set of ranks measured once and kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..chain import Chain
from ..compress import replace_weights
from ..discover import method
from ..fitting import calibration, lowrank
from ..fitting.calibration import CALIBRATION_SAMPLES
from ..layers import Factored
from ..layers.matrix import kind_of, unsupported
from ..records import Model, Record, Split
from ..training.outputs import predict
from ..util import progress
from ..util.cache import FITTING, key_of, remembered

_CODE = (*FITTING, "papers._ranks")
Ranks = dict[str, int]  # by layer; a layer that is not there is left alone


class Strategy(NamedTuple):
    """Which layers are worth decomposing: those that would keep at most the fraction `worth` of their multiply-adds
    (None: even more than they have now) and hold at least the fraction `share` of the net's weights."""

    worth: float | None
    share: float = 0.0


class Cut(Record):
    """A net cut to ranks. weights, macs: removed from the whole net, percent; loss: of accuracy on the calibration
    samples, points; seconds: to make the net and measure that loss."""

    ranks: Ranks
    weights: float
    macs: float
    loss: float
    seconds: float


UNCHANGED = Cut(ranks={}, weights=0, macs=0, loss=0, seconds=0)


class _Decomposition(NamedTuple):
    """W = left·right, the strongest directions first, and the squares of the singular values."""

    energies: Tensor
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Layer:
    """A layer that can be cut, and the one method that its kind calls for."""

    name: str
    module: nn.Module
    chain: Chain

    @property
    def shape(self) -> str:
        return "×".join(map(str, self.module.weight.shape))

    @property
    def largest_rank(self) -> int:
        return method(self.chain.name).largest_rank(self.module)

    @property
    def useful_rank(self) -> int:
        """The largest that saves both multiply-adds and weights; each grows by as much with every rank."""
        one = self._parts(1)
        macs = (lowrank.total_macs(self.module, [self.module]) - 1) // lowrank.total_macs(self.module, one)
        return min(macs, (self.module.weight.numel() - 1) // sum(part.weight.numel() for part in one))

    def worth_it(self, rank: int, worth: float) -> bool:
        """Whether it is of use, and keeps at most this fraction of the multiply-adds."""
        (config,) = self.chain.configs
        config = config.settled(rank).model_copy(update={"worth": worth})
        return rank <= self.useful_rank and not lowrank.not_worth(self.module, self._parts(rank), config)

    def decomposed(self) -> _Decomposition:
        matrix = method(self.chain.name).unfolded(self.module).detach()
        wide = matrix.shape[0] <= matrix.shape[1]  # the smaller Gram matrix is quicker
        energies, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
        energies, vectors = energies.flip(0).clamp(min=0), vectors.flip(1)
        left, right = (vectors, vectors.T @ matrix) if wide else (matrix @ vectors, vectors.T)
        return _Decomposition(energies, left, right)

    def cut(self, decomposition: _Decomposition, rank: int) -> Factored:
        _, left, right = decomposition
        return method(self.chain.name).from_factors(self.module, left[:, :rank], right[:rank])

    def fitted(self, rank: int) -> Chain:
        """The method at that rank, fitted to calibration inputs."""
        (config,) = self.chain.configs
        own = {"fit": "inputs", "reconstruction": "data"}
        update = {key: value for key, value in own.items() if hasattr(config, key)}
        return replace(self.chain, configs=(config.settled(rank).model_copy(update=update),))

    def _parts(self, rank: int) -> Factored:
        with torch.device("meta"):
            return method(self.chain.name).parts(self.module, rank)


class RankBench:
    """Cuts the layers of a model, and measures what is left.

    Args:
        results: the folder that keeps what has been measured.
        chains: the first that has a form for a kind of layer is what layers of this kind are given.
        samples: of the calibration split, by which ranks are chosen.
    """

    def __init__(self, model: Model, results: Path, chains: list[Chain], samples: int) -> None:
        assert model.data is not None
        self.model, self._results, self.samples = model, results, samples
        self._key = (model.sha256, chains, samples)
        self._test, split = model.data.test, model.data.calibration
        self._chosen_by = split.first(samples)
        self.layers = [
            Layer(name, module, forms[0])
            for name, module in model.net.named_modules()
            if (forms := [c for c in chains if _has_form(c, module)])
        ]

    @property
    def test_samples(self) -> int:
        return len(self._test)

    def ranks(self, cosine: float, strategy: Strategy) -> Ranks:
        """The smallest with at least that cosine, of the layers that are then worth it."""

        def choose() -> Ranks:
            chosen = {}
            for layer in self.layers:
                rank = lowrank.rank_that_keeps(self._decompositions[layer.name].energies, "cosine", cosine)
                rank = min(rank, layer.largest_rank)
                large = layer.module.weight.numel() >= strategy.share * self.model.parameters
                if large and (strategy.worth is None or layer.worth_it(rank, strategy.worth)):
                    chosen[layer.name] = rank
            return chosen

        return self.remembered(choose, "ranks", cosine, strategy)

    def cut(self, ranks: Ranks) -> Cut:
        """The net with these ranks; nothing is measured of the net as it is."""
        if not ranks:
            return UNCHANGED
        return Cut(**self.remembered(lambda: self._cut(ranks).model_dump(), "cut", sorted(ranks.items())))

    def drop(self, ranks: Ranks, fitted: bool = False) -> float:
        """Points of accuracy lost on the test split. fitted: with the parts fitted to calibration inputs."""

        def measure() -> float:
            net = self._fitted_net(ranks) if fitted else self._net(ranks)
            drop = round(self.accuracy("test") - _accuracy(net, self._test), 6)
            progress.note(f"{'fitted to inputs' if fitted else 'as cut'}: {drop:+.2f} points on the test split")
            return drop

        return self.remembered(measure, "drop", sorted(ranks.items()), fitted) if ranks else 0.0

    def accuracy(self, split: str) -> float:
        """Of the net as it is, in percent, on `test` or on the samples ranks are chosen by."""
        samples = self._test if split == "test" else self._chosen_by
        return self.remembered(lambda: _accuracy(self.model.net, samples), "accuracy", split)

    def decomposition_seconds(self) -> float:
        """To decompose all layers, once."""
        return self.remembered(lambda: self._timed_decompositions[1], "decomposition")

    def remembered(self, measure: Callable[[], Any], *what: object) -> Any:
        return remembered(self._results, key_of(*self._key, *what, code=_CODE), measure)

    @property
    def _decompositions(self) -> dict[str, _Decomposition]:
        return self._timed_decompositions[0]

    @cached_property
    def _timed_decompositions(self) -> tuple[dict[str, _Decomposition], float]:
        with progress.stage("decompose", ", ".join(layer.name for layer in self.layers)):
            start = time.process_time()
            return {layer.name: layer.decomposed() for layer in self.layers}, time.process_time() - start

    def _cut(self, ranks: Ranks) -> Cut:
        before, parts = self.accuracy("calibration"), self._decompositions  # neither belongs to this cut's time
        start = time.process_time()
        net = self._net(ranks)
        loss = round(before - _accuracy(net, self._chosen_by), 6)
        seconds = time.process_time() - start
        weights = _removed(_weights(self.model.net), _weights(net))
        work = {l.name: lowrank.total_macs(l.module, [l.module]) for l in self.layers}
        left = {
            l.name: lowrank.total_macs(l.module, l.cut(parts[l.name], ranks[l.name])) for l in self._cut_layers(ranks)
        }
        macs = _removed(sum(work.values()), sum({**work, **left}.values()))
        progress.note(f"{weights:.1f} % of weights and {macs:.1f} % of multiply-adds removed: {loss:+.2f} points")
        return Cut(ranks=ranks, weights=weights, macs=macs, loss=loss, seconds=seconds)

    def _cut_layers(self, ranks: Ranks) -> list[Layer]:
        return [layer for layer in self.layers if layer.name in ranks]

    def _net(self, ranks: Ranks) -> nn.Module:
        """A copy in which the parts stand where the layers would."""
        parts = {id(l.module): l.cut(self._decompositions[l.name], ranks[l.name]) for l in self._cut_layers(ranks)}
        return copy.deepcopy(self.model.net, parts)

    def _fitted_net(self, ranks: Ranks) -> nn.Module:
        """With decoded weights, each layer fitted to what those before it now give."""
        net = copy.deepcopy(self.model.net)
        samples = self._chosen_by.take(slice(CALIBRATION_SAMPLES))
        for layer in self._cut_layers(ranks):
            module = net.get_submodule(layer.name)
            replace_weights(module, layer.fitted(ranks[layer.name]), calibration.gather(net, module, samples), 0)
        return net


def _has_form(candidate: Chain, module: nn.Module) -> bool:
    """Spatial convolutions are for the methods that take nothing else."""
    if kind_of(module) not in candidate.kinds or unsupported(module):
        return False
    spatial = not lowrank.spatial_refusal(module)
    return spatial == ("dense" not in candidate.kinds)


def _accuracy(net: nn.Module, samples: Split) -> float:
    answers = predict(net, samples.inputs).argmax(1)
    return 100 * (answers == samples.targets).double().mean().item()


def _weights(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _removed(before: int, after: int) -> float:
    return 100 * (1 - after / before)
