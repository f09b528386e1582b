"""Zhuang, Tan, Zhuang, Liu, Guo, Wu, Huang, Zhu 2018: Discrimination-aware Channel Pruning for Deep Neural Networks.

Error, size and speed of a residual net and a VGG pruned by every method to the same multiply-adds with the same
training, on Fashion-MNIST instead of CIFAR-10 and ImageNet.
"""

from __future__ import annotations

import copy
import math
import shutil
import statistics
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import chain, discover
from ..layers.matrix import parameter_bytes
from ..load import load
from ..pruning import stage as prune
from ..pruning.tuning import OwnLoss, Tuning, steps_of
from ..records import Model, Pruning, Record, Request
from ..report import markdown
from ..training.outputs import predict
from ..util import progress
from ..util.cache import RUNNING, key_of, remembered
from ..util.files import cache_folder, write_text
from ..util.workspace import Workspace
from ._bench import Claim, axes, claim_table
from ._conv import Cost, measured

METHODS = ("dcp", "dcp_adapt", "random_dcp", "l1", "apoz", "thinet", "lasso", "slimming")
_LONGER = "l1, longer"
_RIVALS = ("random_dcp", "l1", "apoz", "thinet", "lasso", "slimming")
_MODELS = ("resnet20", "vgg")
_HALF = 0.5
# Fractions of the multiply-adds that are left, and the seeds.
_SEEDS = {0.5: (0, 1, 2), 0.7: (0,), 0.3: (0,)}
_EPOCHS = 1.0
_RATE = 0.02


class Point(Record):
    """One pruned net: top-1 error on the test split and agreement with the original's answers, percent; what is left of
    it; seconds it took. `keeps`: units of each group, by the name of its first layer."""

    error: float
    agreement: float
    parameters: int
    macs: int
    keeps: dict[str, int]
    seconds: float


@dataclass
class PruneBench:
    """Prunes a model and measures on its test split; what was measured is kept in the folder `results`."""

    model: Model
    results: Path
    epochs: float
    test_samples: int = 10_000
    cuts: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.model.data is not None
        self.test = self.model.data.test.take(slice(self.test_samples))
        self.targets = self.model.data.test.targets[: self.test_samples]
        with progress.stage("prepare", f"answers of {self.model.name}"):
            self.answers = predict(self.model.net, self.test).argmax(1)
        self.error = self._percent(self.answers != self.targets)

    def run(self, method: str, share: float, seed: int) -> Point:
        key = self._key("point", method, share, seed)
        return Point(**remembered(self.results, key, lambda: self._run(method, share, seed).model_dump()))

    def untrained(self, method: str, share: float, seed: int) -> float:
        """The error right after channels have been taken out, without the training that follows."""

        def measure() -> float:
            net, _ = self._cut(method, share, seed, 0)
            return self._percent(predict(net, self.test).argmax(1) != self.targets)

        return remembered(self.results, self._key("untrained", method, share, seed), measure)

    def trained_on(self, seed: int) -> float:
        """The error of the net itself after as much training."""
        return remembered(self.results, self._key("trained on", seed), lambda: self._trained_on(seed))

    def costs(self, points: list[Point]) -> dict[str, Cost]:
        """What the original and nets of these widths cost, by `widths`, measured in one run."""
        shapes = {widths(point): point for point in points}

        def measure() -> dict[str, Any]:
            shape = tuple(self.model.example_inputs[0].shape)
            nets = {"original": (self.model.net, shape)}
            nets |= {name: (self._shaped(point), shape) for name, point in shapes.items()}
            with progress.stage("time", f"{len(nets)} nets of {self.model.name}"):
                return {name: cost.model_dump() for name, cost in measured(nets).items()}

        by_name = remembered(self.results, self._key("costs", sorted(shapes)), measure)
        return {name: Cost(**cost) for name, cost in by_name.items()}

    def _key(self, *parts: object) -> str:
        samples = len(self.test[0])
        return key_of(self.model.sha256, samples, self.epochs, _RATE, *parts, code=(*RUNNING, "papers._conv"))

    def _run(self, method: str, share: float, seed: int) -> Point:
        start = time.monotonic()
        net, pruning = self._cut(method, share, seed, self.epochs)
        answers = predict(net, self.test).argmax(1)
        point = Point(
            error=self._percent(answers != self.targets),
            agreement=self._percent(answers == self.answers),
            parameters=sum(p.numel() for p in net.parameters()),
            macs=pruning.macs[1],
            keeps={group.layers[0]: group.keep for group in pruning.groups if not group.reason},
            seconds=time.monotonic() - start,
        )
        progress.note(f"{self.model.name} {method} {share:g} seed {seed}: error {self.error:.2f} → {point.error:.2f} %")
        return point

    def _cut(self, method: str, share: float, seed: int, epochs: float) -> tuple[nn.Module, Pruning]:
        """The net, pruned and trained for so long, and what was planned."""
        name, longer = ("l1", 2) if method == _LONGER else (method, 1)
        settings = (f"macs={share:g}", f"epochs={longer * epochs:g}", f"rate={_RATE:g}")
        if "choosing" in discover.method(name).Config.model_fields:
            settings = (*settings, f"choosing={self.epochs:g}")
        request = Request(model=self.model.name, method=name, settings=settings, seed=seed)
        folder = cache_folder("reproduce", f"zhuang2018-{self._key(method, share, seed, epochs)[:16]}")
        with Workspace(folder) as work:
            (one,) = chain.parse(name, settings)
            pruning = prune.plan_channels(self.model, one, request, work)
            net = prune.pruned(self.model, pruning, seed, work).net
        shutil.rmtree(folder)
        return net, pruning

    def _trained_on(self, seed: int) -> float:
        assert self.model.data is not None
        net = copy.deepcopy(self.model.trained)
        assert net is not None
        train = self.model.data.train
        loss = OwnLoss(self.model, net)
        Tuning(net, train, steps_of(self.epochs, train), _RATE, seed, loss).run("training the original on")
        return self._percent(predict(net, self.test).argmax(1) != self.targets)

    def _shaped(self, point: Point) -> nn.Module:
        return prune.cut_to(self.model, point.keeps)

    @staticmethod
    def _percent(answers: torch.Tensor) -> float:
        return 100 * answers.double().mean().item()


@dataclass(frozen=True)
class Row:
    """A method at one fraction of the multiply-adds: a point for every seed, and what their nets cost."""

    bench: PruneBench
    method: str
    share: float
    points: list[Point]
    before: Cost
    after: list[Cost]

    @property
    def gaps(self) -> list[float]:
        """What was lost, in points."""
        return [point.error - self.bench.error for point in self.points]

    @property
    def gap(self) -> float:
        return statistics.mean(self.gaps)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds."""
        return statistics.stdev(self.gaps) if len(self.gaps) > 1 else 0.0

    @property
    def standard_error(self) -> float:
        return self.spread / math.sqrt(len(self.gaps))

    @property
    def speedup(self) -> float:
        return self.before.p50_ms / statistics.mean(cost.p50_ms for cost in self.after)

    def no_worse(self, other: Row) -> bool:
        """But for the standard error of the difference."""
        return self.gap <= other.gap + math.hypot(self.standard_error, other.standard_error)


Table = dict[tuple[str, float, str], Row]


def widths(point: Point) -> str:
    return " ".join(f"{name}={keep}" for name, keep in point.keeps.items())


def run(folder: Path, quick: bool) -> list[Claim]:
    """Measures, writes `zhuang2018.md` and its plots into `folder`, and returns the claims.

    Args:
        quick: the embedded small net, one seed, hardly any training, fewer samples.
    """
    names, seeds = (("fashion",), {_HALF: (0,)}) if quick else (_MODELS, _SEEDS)
    budget = (0.02, 1000) if quick else (_EPOCHS, 10_000)
    benches = {
        name: PruneBench(load(Request(model=name)), cache_folder("reproduce", f"zhuang2018-{name}"), *budget)
        for name in names
    }
    table = _measure(benches, seeds)
    claims = [claim for bench in benches.values() for claim in _claims(bench, table)]
    for name, bench in benches.items():
        _plot(folder / f"zhuang2018-{name}.svg", bench, table)
    write_text(folder / "zhuang2018.md", _page(benches, seeds, quick, table, claims))
    return claims


def _measure(benches: dict[str, PruneBench], seeds: dict[float, tuple[int, ...]]) -> Table:
    """All points, those of one seed after the other, then their costs."""
    points: dict[tuple[str, float, str], list[Point]] = {}
    for share, wanted in seeds.items():
        for seed in wanted:
            for name, bench in benches.items():
                for method in (*METHODS, _LONGER):
                    points.setdefault((name, share, method), []).append(bench.run(method, share, seed))
    costs = {}
    for name, bench in benches.items():
        costs[name] = bench.costs([point for key, runs in points.items() if key[0] == name for point in runs])
    return {
        (name, share, method): Row(
            benches[name],
            method,
            share,
            runs,
            costs[name]["original"],
            [costs[name][widths(point)] for point in runs],
        )
        for (name, share, method), runs in points.items()
    }


def _claims(bench: PruneBench, table: Table) -> list[Claim]:
    name = bench.model.name
    rows = {method: table[name, _HALF, method] for method in METHODS}
    dcp, adapt = rows["dcp"], rows["dcp_adapt"]

    def gap(row: Row) -> str:
        return f"{row.method} {row.gap:+.2f} ± {row.spread:.2f}"

    claims = [
        Claim(
            claim=f"{name}: dcp is no worse than {rival} at half the multiply-adds",
            holds=dcp.no_worse(rows[rival]),
            figures=f"{gap(dcp)}, {gap(rows[rival])}",
        )
        for rival in _RIVALS
    ]
    claims += [
        Claim(
            claim=f"{name}: dcp_adapt is no worse than dcp",
            holds=adapt.no_worse(dcp),
            figures=f"{gap(adapt)}, {gap(dcp)}",
        ),
        Claim(claim=f"{name}: dcp loses at most 0.3 points", holds=dcp.gap <= 0.3, figures=gap(dcp)),
        Claim(
            claim=f"{name}: half the multiply-adds take 1.5× less time",
            holds=dcp.speedup >= 1.5,
            figures=f"{dcp.before.p50_ms:.3f} ms → {dcp.after[0].p50_ms:.3f} ms, {dcp.speedup:.2f}×",
        ),
    ]
    return claims


def _plot(path: Path, bench: PruneBench, table: Table) -> None:
    name = bench.model.name
    with axes(path, f"{name}, pruned", "multiply-adds left (%)", "points lost", beside=True) as plane:
        for place, method in enumerate(METHODS):
            rows = sorted((row for key, row in table.items() if key[0] == name and key[2] == method), key=_share)
            shares = [100 * row.share + (place - 3.5) * 0.4 for row in rows]
            style = {"marker": "o", "markersize": 4, "capsize": 3, "linestyle": "-" if "dcp" in method else ":"}
            plane.errorbar(shares, [r.gap for r in rows], [r.spread for r in rows], label=method, **style)
        plane.axhline(0, color="grey", linewidth=0.5)


def _share(row: Row) -> float:
    return row.share


def _table(bench: PruneBench, table: Table, share: float) -> str:
    titles = [
        "",
        "untrained",
        "error",
        "points lost",
        "agreement",
        "parameters",
        "multiply-adds",
        "file",
        "time",
        "ARM64 instructions",
    ]
    titles += ["pruned in"]
    rows = []
    for method in (*METHODS, _LONGER):
        row = table[bench.model.name, share, method]

        def mean(values: list[float]) -> float:
            return statistics.mean(values)

        parameters, macs = mean([p.parameters for p in row.points]), mean([p.macs for p in row.points])
        rows.append(
            [
                method,
                f"{bench.untrained(method, share, 0):.2f} %" if len(row.points) > 1 and method in METHODS else "",
                f"{mean([p.error for p in row.points]):.2f} %",
                f"{row.gap:+.2f} ± {row.spread:.2f}",
                f"{mean([p.agreement for p in row.points]):.2f} %",
                f"{bench.model.parameters / parameters:.2f}× fewer",
                f"{macs / 1e6:.2f} M",
                f"{mean([c.bytes for c in row.after]) / 1e6:.2f} MB",
                f"{row.speedup:.2f}× less",
                f"{row.before.instructions / mean([c.instructions for c in row.after]):.2f}× fewer",
                f"{mean([p.seconds for p in row.points]):.0f} s",
            ]
        )
    return markdown.table(titles, rows)


def _note(bench: PruneBench, seeds: dict[float, tuple[int, ...]], table: Table) -> str:
    assert bench.model.data is not None
    data, row = bench.model.data, table[bench.model.name, _HALF, "dcp"]
    trained_on = [bench.trained_on(seed) for seed in seeds[_HALF]]
    after = f"{statistics.mean(trained_on):.2f} %"
    sentences = (
        f"Before: error {bench.error:.2f} % of {len(bench.test):,} samples of {data.test.name}, "
        f"{parameter_bytes(bench.model.net, recurse=True) / 1e6:.2f} MB of weights, {row.before.p50_ms:.3f} ms, "
        f"{row.before.instructions / 1e6:.2f} M ARM64 instructions an inference. Trained on as long as the pruned nets "
        f"are, without pruning: error {after}.",
    )
    return textwrap.fill(" ".join(sentences), 118)


def _worth(benches: dict[str, PruneBench], table: Table) -> list[str]:
    """What is lost before training and after it, which says how much of a worse choice training makes up for."""

    def lost(name: str, method: str) -> str:
        before = benches[name].untrained(method, _HALF, 0) - benches[name].error
        return f"{method} {before:+.2f} → {table[name, _HALF, method].gap:+.2f}"

    def longer(name: str) -> str:
        return f"{name} {table[name, _HALF, _LONGER].gap:+.2f}, dcp {table[name, _HALF, 'dcp'].gap:+.2f}"

    shown = "; ".join(f"{name}: " + ", ".join(lost(name, m) for m in METHODS) for name in benches)
    return [
        "Points lost right after half of the multiply-adds have been taken out, before any training (seed 0), and "
        f"after it (mean of all seeds) – {shown}.",
        "Where the first differ and the second do not, the training has made up for the choice, as Liu et al. (2019, "
        "Rethinking the Value of Network Pruning) found for longer training. What dcp trains with its own losses "
        f"before it chooses can be spent on training after pruning instead: points lost by `{_LONGER}` – "
        f"{'; '.join(map(longer, benches))}. That stages, joint loss and greedy choice are the paper's, "
        "tests/test_pruning.py shows against its formulas.",
    ]


def _page(
    benches: dict[str, PruneBench], seeds: dict[float, tuple[int, ...]], quick: bool, table: Table, claims: list[Claim]
) -> str:
    bench = next(iter(benches.values()))
    assert bench.model.data is not None
    data = bench.model.data
    how = (
        f"Every net is trained on {data.train.name} after channels have been taken out (epochs: {bench.epochs:g}); "
        "those methods that train to choose (dcp, dcp_adapt, random_dcp, slimming) have as much before, as published. "
        f"`{_LONGER}` has as much as they in all. Untrained: the error before that training, of seed 0. Channels are "
        f"chosen by samples of {data.calibration.name}, by dcp on the training split. ± is the standard deviation over "
        f"seeds ({', '.join(str(seed) for seed in seeds[_HALF])} at half the multiply-adds, else seed 0 alone); a "
        "method is no worse than another if its mean is, but for the standard error of the difference. Channels that "
        "are added to others stay. Accuracy is computed by torch. Time: median on the host, x86-64, one thread, "
        "ExecuTorch with XNNPACK, fp32, all nets of a model in turns in one run. Instructions: of the same files on "
        "the emulator (qemu-arm64)."
    )
    parts = [
        "# Zhuang et al. 2018, measured here",
        f"    edgecomp reproduce zhuang2018{' --quick' if quick else ''}",
        textwrap.fill(how, 118),
        "## Claims",
        claim_table(claims, "figures: points of accuracy lost, time of an inference"),
    ]
    if not quick:
        parts += [
            "## What a choice of channels is worth",
            *(textwrap.fill(text, 118) for text in _worth(benches, table)),
        ]
    for name, one in benches.items():
        parts += [f"## {name}", _note(one, seeds, table), f"![points lost](zhuang2018-{name}.svg)"]
        for share in sorted(seeds, reverse=True):
            parts += [f"### {100 * share:g} % of the multiply-adds left", _table(one, table, share)]
    return "\n\n".join(parts) + "\n"
