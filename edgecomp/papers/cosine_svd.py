"""Cosine-similarity SVD: speeding up and compressing CNNs by low-rank decomposition without fine-tuning.

Dense layers and 1×1 convolutions become two thin layers, spatial ones d×1 and 1×d. Every layer gets the smallest rank
whose weights keep a cosine of τ with the original's; a strategy step leaves alone what is not worth it. τ is chosen on
calibration samples, here for every net of the zoo; Bayesian optimisation of the ranks is what it is compared with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .. import chain
from ..errors import BuildError
from ..load import load
from ..records import Record, Request
from ..report import markdown
from ..util import progress
from ..util.files import cache_folder, write_text
from ._bench import Claim, axes, claim_table, draw
from ._ranks import UNCHANGED, Cut, RankBench, Strategy

_EXPRESSION = "scheme2+svd"
_SETTINGS = ("svd.kinds=dense,conv", "svd.least_rank=1", "fit=plain", "reconstruction=filter")
_COSINES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)
_QUICK_COSINES = (0.7, 0.8, 0.9, 0.95)
_EVERY = "every layer"
_STRATEGIES = {
    _EVERY: Strategy(None),
    "worth=1": Strategy(1.0),
    "worth=0.5": Strategy(0.5),
    "worth=0.25": Strategy(0.25),
    "worth=1, large layers": Strategy(1.0, 0.1),
}
_TRIALS, _QUICK_TRIALS = 30, 8  # of Bayesian optimisation
_LOSS = 1.0  # points, on the calibration samples
_PENALTY = 10.0  # percent of the weights, for every point beyond

# What explains that a claim does not hold, where it does not.
_WHY = {
    "the ranks are found in 84 % of the time of Bayesian optimisation": "The sweep measures every τ, and the search "
    "soon comes upon a net as small.",
    "(beyond the paper) and Bayesian optimisation finds no smaller net": "One τ for all layers cannot trade the "
    "accuracy of one layer for the size of another, and the steps of τ are coarse.",
    "(beyond the paper) at the same ranks parts fitted to calibration inputs lose less": "Too little is lost at these "
    "ranks to tell.",
}


class Search(Record):
    """Bayesian optimisation: its trials, and the seconds of each, the sampler's own included."""

    trials: list[Cut]
    seconds: list[float]

    @property
    def best(self) -> Cut:
        """The fewest weights; the net as it is, if no trial was accurate enough."""
        allowed = [cut for cut in self.trials if cut.loss <= _LOSS and cut.weights > 0]
        return max(allowed, key=lambda cut: cut.weights, default=UNCHANGED)

    def reached(self, weights: float) -> int | None:
        """The number of trials until that percentage of weights was removed within the loss."""
        hits = (i for i, cut in enumerate(self.trials, 1) if cut.loss <= _LOSS and cut.weights >= weights)
        return next(hits, None)


@dataclass(frozen=True)
class _Net:
    """A net of the zoo and what was measured of it: sweeps over τ, by strategy, and the search."""

    name: str
    bench: RankBench
    sweeps: dict[str, dict[float, Cut]]
    search: Search

    def cosine(self, strategy: str) -> float:
        """The smallest τ that loses little enough; 1 stands for the net as it is."""
        return min((t for t, cut in self.sweeps[strategy].items() if cut.loss <= _LOSS), default=1.0)

    def chosen(self, strategy: str) -> Cut:
        return self.sweeps[strategy].get(self.cosine(strategy), UNCHANGED)

    @property
    def strategy(self) -> str:
        """The one with which most weights go."""
        return max((s for s in self.sweeps if s != _EVERY), key=lambda strategy: self.chosen(strategy).weights)

    @property
    def best(self) -> Cut:
        return self.chosen(self.strategy)

    def sweep_seconds(self, *strategies: str) -> float:
        """To find ranks by cosine: the decompositions, and every different net of the sweeps."""
        cuts = {str(cut.ranks): cut.seconds for strategy in strategies for cut in self.sweeps[strategy].values()}
        return self.bench.decomposition_seconds() + sum(cuts.values())

    def search_seconds(self, trials: int | None) -> float:
        """To find them by Bayesian optimisation: the decompositions, and so many trials, or all."""
        return self.bench.decomposition_seconds() + sum(self.search.seconds[:trials])

    @property
    def trials_needed(self) -> int | None:
        """Until a trial is accurate enough and has as few weights as the best net; None if none is."""
        return self.search.reached(self.best.weights)


def run(folder: Path, quick: bool) -> list[Claim]:
    """Measures, writes `cosine_svd.md` and its plot into `folder`, and returns the claims.

    Args:
        quick: the embedded default alone, and fewer steps.
    """
    optuna = _optuna()
    nets = [_measured(name, quick, optuna) for name in (("fashion",) if quick else ("fashion", "charnet", "zfnet"))]
    claims = [claim for net in nets for claim in _claims(net)]
    _plot(folder / "cosine_svd.svg", nets)
    write_text(folder / "cosine_svd.md", _page(nets, quick, claims))
    return claims


def _optuna() -> ModuleType:
    """
    Raises:
        BuildError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise BuildError(
            f"cosine_svd compares with Bayesian optimisation by optuna: {error}", "pip install 'edgecomp[reproduce]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _measured(name: str, quick: bool, optuna: ModuleType) -> _Net:
    chains = chain.parse(_EXPRESSION, _SETTINGS)
    results = cache_folder("reproduce", "cosine_svd")
    bench = RankBench(load(Request(model=name)), results, chains, samples=2000 if quick else 3000)
    cosines = _QUICK_COSINES if quick else _COSINES
    sweeps: dict[str, dict[float, Cut]] = {}
    with progress.stage("sweep", f"{name}, τ from {cosines[0]} to {cosines[-1]}"):
        for title, strategy in _STRATEGIES.items():
            sweeps[title] = {cosine: bench.cut(bench.ranks(cosine, strategy)) for cosine in cosines}
    trials = _QUICK_TRIALS if quick else _TRIALS
    with progress.stage("search", f"{name}, Bayesian optimisation of the ranks"):
        search = Search(**bench.remembered(lambda: _search(bench, trials, optuna).model_dump(), "search", trials))
    return _Net(name, bench, sweeps, search)


def _search(bench: RankBench, trials: int, optuna: ModuleType) -> Search:
    """The fewest weights, by one rank a layer; the largest of its range stands for leaving the layer alone."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    ranges = {layer.name: layer.useful_rank for layer in bench.layers if layer.useful_rank}
    cuts, seconds = [], []
    for _ in range(trials):
        start = time.process_time()
        trial = study.ask()
        asked = {name: trial.suggest_int(name, 1, most + 1) for name, most in ranges.items()}
        own = time.process_time() - start
        cut = bench.cut({name: rank for name, rank in asked.items() if rank <= ranges[name]})
        start = time.process_time()
        study.tell(trial, 100 - cut.weights + _PENALTY * max(0.0, cut.loss - _LOSS))
        cuts.append(cut)
        seconds.append(own + cut.seconds + time.process_time() - start)
    return Search(trials=cuts, seconds=seconds)


def _claims(net: _Net) -> list[Claim]:
    bench, best, every, searched = net.bench, net.best, net.chosen(_EVERY), net.search.best
    drop, fitted, searched_drop = (
        bench.drop(best.ranks),
        bench.drop(best.ranks, fitted=True),
        bench.drop(searched.ranks),
    )
    seconds, until = net.sweep_seconds(net.strategy), net.search_seconds(net.trials_needed)
    reached = f"{net.trials_needed}" if net.trials_needed else f"none of {len(net.search.trials)}"
    choice = f"τ={net.cosine(net.strategy):g}, {net.strategy}"
    against = (
        f"{best.weights:.1f} % of weights and {best.macs:.1f} % of multiply-adds, every layer decomposed: "
        f"{every.weights:.1f} and {every.macs:.1f} %"
    )
    rows = [
        (
            "over 50 % of the weights go at less than 1 point",
            best.weights > 50 and drop < 1,
            f"{choice}: {best.weights:.1f} %, {drop:+.2f}",
        ),
        (
            "about 20 % of the multiply-adds go at less than 1 point",
            best.macs >= 20 and drop < 1,
            f"{choice}: {best.macs:.1f} %, {drop:+.2f}",
        ),
        (
            "τ can be chosen without the test data",
            drop <= _LOSS,
            f"{best.loss:+.2f} on the calibration samples, {drop:+.2f} on the test split",
        ),
        (
            "the ranks are found in 84 % of the time of Bayesian optimisation",
            seconds <= 0.84 * until,
            f"{seconds:.1f} s of {until:.1f} s, {100 * seconds / until:.0f} %; as few weights after {reached} trials",
        ),
        (
            "(beyond the paper) and Bayesian optimisation finds no smaller net",
            searched.weights <= best.weights,
            f"{searched.weights:.1f} % of weights, {searched_drop:+.2f}, against {best.weights:.1f} %, {drop:+.2f}",
        ),
        ("with the strategy step more weights go", best.weights > every.weights, against),
        ("with the strategy step more multiply-adds go", best.macs > every.macs, against),
        (
            "(beyond the paper) at the same ranks parts fitted to calibration inputs lose less",
            fitted < drop,
            f"{fitted:+.2f} against {drop:+.2f}",
        ),
    ]
    return [
        Claim(claim=f"{net.name}: {claim}", holds=holds, figures=figures, why="" if holds else _WHY.get(claim, ""))
        for claim, holds, figures in rows
    ]


def _plot(path: Path, nets: list[_Net]) -> None:
    """Loss against weights removed, as SVG: the sweeps with the strategy chosen and without one, and what the search
    found."""
    sweeps = {
        f"{net.name}, layers: {kind}": net.sweeps[s]
        for net in nets
        for kind, s in (("chosen", net.strategy), ("all", _EVERY))
    }
    series = {name: [(cut.weights, cut.loss) for cut in sweep.values()] for name, sweep in sweeps.items()}
    with axes(path, "one point a τ", "weights removed (%)", "accuracy lost on calibration samples (points)") as plane:
        draw(plane, series, "chosen", "all")
        for i, net in enumerate(nets):
            searched = net.search.best
            plane.plot(
                searched.weights, searched.loss, f"C{i}*", markersize=11, label=f"{net.name}, Bayesian optimisation"
            )
        plane.axhline(_LOSS, color="grey", linewidth=0.5, linestyle=":")
        plane.set_yscale("symlog", linthresh=1)
        plane.set_ylim(-0.5, 110)
        plane.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        plane.minorticks_off()


def _page(nets: list[_Net], quick: bool, claims: list[Claim]) -> str:
    large = 100 * max(strategy.share for strategy in _STRATEGIES.values())
    return f"""# Cosine-similarity SVD, measured here

    edgecomp reproduce cosine_svd{" --quick" if quick else ""}

"Speeding-up and compression convolutional neural networks by low-rank decomposition without fine-tuning", on the nets
of the zoo instead of AlexNet, VGG and ResNet-50. No layer is trained or fitted; τ is the only choice. Spatial
convolutions become d×1 and 1×d (`scheme2`, `reconstruction=filter`), dense layers and 1×1 convolutions two thin
layers (`svd`, `fit=plain`), with the smallest rank at which cos(vec W, vec Ŵ) ≥ τ (`--set cosine=τ`).

The strategy step says which layers are decomposed. `worth`: those that keep at most this fraction of their
multiply-adds (`--set worth=…`). `large layers`: of these only those with at least {large:.0f} % of the net's weights
(`--layers …`). `{_EVERY}`: all, even where that takes more. What rule the paper goes by is not known here; that of the
large layers was added because `worth` alone, on zfnet, finds hardly a weight to remove.

For every strategy τ is the smallest that loses at most {_LOSS:g} point on {nets[0].bench.samples:,} calibration samples
(`loss`), of {", ".join(f"{t:g}" for t in nets[0].sweeps[_EVERY])};
1 stands for the net as it is. The strategy chosen is the one with the fewest weights left. `test` is the drop on the
{nets[0].bench.test_samples:,} test samples, only reported. Weights and multiply-adds are those of the whole net.

Bayesian optimisation: optuna's TPE, seed 0, {len(nets[0].search.trials)} trials; one rank a layer, or leaving it
alone. It minimises the weights left in percent, plus {_PENALTY:g} for every point beyond {_LOSS:g}.

## Claims

{claim_table(claims, "figures: removed of the whole net, points of accuracy")}

## What was chosen

![accuracy lost against weights removed](cosine_svd.svg)

{_chosen_table(nets)}

## Time to find the ranks

The paper's 84 % is read so: one sweep over τ, with the strategy chosen, against Bayesian optimisation until a net that
loses at most {_LOSS:g} point has as few weights, or to its last trial. Both decompose every layer once and measure on
the same samples. Seconds are of processor time in the run that made this page; only their ratio means something.

{_time_table(nets)}

## Ranks

{_rank_table(nets)}

{"".join(_sweep_section(net) for net in nets).rstrip()}
"""


def _chosen_table(nets: list[_Net]) -> str:
    rows = []
    for net in nets:
        rows.append([f"**{net.name}**, {net.bench.accuracy('test'):.2f} % before", *[""] * 5])
        for strategy in net.sweeps:
            cut, mark = net.chosen(strategy), " (chosen)" if strategy == net.strategy else ""
            rows.append([strategy + mark, f"{net.cosine(strategy):g}", *_figures(cut), _drop(net, cut)])
        fitted = f"{net.bench.drop(net.best.ranks, fitted=True):+.2f}"
        rows.append(["the same ranks, fitted to inputs", "", *_figures(net.best)[:2], "", fitted])
        rows.append(["Bayesian optimisation", "", *_figures(net.search.best), _drop(net, net.search.best)])
    return markdown.table(["", "τ", "weights removed", "multiply-adds removed", "loss", "test"], rows)


def _figures(cut: Cut) -> list[str]:
    return [f"{cut.weights:.1f} %", f"{cut.macs:.1f} %", f"{cut.loss:+.2f}"]


def _drop(net: _Net, cut: Cut) -> str:
    return f"{net.bench.drop(cut.ranks):+.2f}"


def _time_table(nets: list[_Net]) -> str:
    rows = []
    for net in nets:
        sweep, sweeps = net.sweep_seconds(net.strategy), net.sweep_seconds(*net.sweeps)
        until, whole = net.search_seconds(net.trials_needed), net.search_seconds(None)
        shown = [f"{seconds:.1f} s" for seconds in (net.bench.decomposition_seconds(), sweep, sweeps, until, whole)]
        ratios = [f"{100 * part / total:.0f} %" for part, total in ((sweep, until), (sweep, whole), (sweeps, whole))]
        rows.append([net.name, *shown, str(net.trials_needed or "never"), *ratios])
    titles = ["", "decompositions", "one sweep", "all sweeps", "search until as small", "all trials"]
    return markdown.table([*titles, "as small at trial", "sweep / until", "sweep / trials", "sweeps / trials"], rows)


def _rank_table(nets: list[_Net]) -> str:
    rows = []
    for net in nets:
        for layer in net.bench.layers:
            cut = (net.best.ranks, net.chosen(_EVERY).ranks, net.search.best.ranks)
            ranks = [str(ranks.get(layer.name, "alone")) for ranks in cut]
            rows.append([f"{net.name} {layer.name}", layer.shape, layer.chain.name, str(layer.largest_rank), *ranks])
    return markdown.table(["", "weights", "form", "full", "chosen", "every layer", "Bayesian optimisation"], rows)


def _sweep_section(net: _Net) -> str:
    rows = [[f"{cosine:g}", *_figures(cut), str(len(cut.ranks))] for cosine, cut in net.sweeps[net.strategy].items()]
    table = markdown.table(["τ", "weights removed", "multiply-adds removed", "loss", "layers decomposed"], rows)
    return f"## {net.name}: τ with {net.strategy}\n\n{table}\n\n{_command(net)}"


def _command(net: _Net) -> str:
    """What builds the net chosen."""
    if not net.best.ranks:
        return ""
    settings = " ".join(f"--set {text}" for text in (*_SETTINGS, f"cosine={net.cosine(net.strategy):g}"))
    layers = " ".join(f"--layers {name}" for name in net.best.ranks)
    return f"    edgecomp build {net.name} --method {_EXPRESSION} {settings} {layers}\n\n"
