"""What the papers' experiments share: compressed nets and their accuracy, each measured once and kept."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import chain
from ..compress import replace_weights
from ..fitting import calibration
from ..fitting.calibration import CALIBRATION_SAMPLES, Inputs
from ..layers.hooks import capture
from ..layers.matrix import kind_of, parameter_bytes
from ..records import Model, Record
from ..report import markdown
from ..training.metrics import average_precisions
from ..training.outputs import predict
from ..util import progress
from ..util.cache import FITTING, key_of, remembered

_CODE = (*FITTING, "papers._bench")


class Claim(Record):
    """A paper's claim, whether it holds here, the figures that say so, and if not, why not."""

    claim: str
    holds: bool
    figures: str
    why: str = ""


class Result(Record):
    """One compressed net. bytes: of all parameters; dense_ratio: of the dense layers alone; error: top-1, percent;
    agreement: of its answers with the original's, percent; retrieval: mean average precision, percent."""

    expression: str
    settings: tuple[str, ...]
    bytes: int
    ratio: float
    dense_ratio: float
    error: float
    agreement: float
    retrieval: float

    def error_of_difference(self, other: Result, samples: int) -> float:
        """The standard error of the difference of two top-1 errors, in points. Only images the two nets answer
        differently count, at most those that one of them answers differently from the original."""
        different = (200 - self.agreement - other.agreement) / 100 * samples
        return 100 * different**0.5 / samples


@dataclass
class DenseBench:
    """Compresses the dense layers of a net whose `features` come first, and measures on the test split.

    The inputs of all layers are gathered once, from the original net. What was measured is kept in `results`,
    a folder.
    """

    model: Model
    results: Path
    test_samples: int = 10_000
    calibration_samples: int = CALIBRATION_SAMPLES

    def __post_init__(self) -> None:
        assert self.model.data is not None and self.model.given is not None
        net, data = self.model.given.module, self.model.data  # the user's own: the canonical net has no parts to run
        self.names = [name for name, m in net.named_modules() if kind_of(m) == "dense"]
        self.total_bytes = sum(t.numel() * t.element_size() for t in [*net.parameters(), *net.buffers()])
        self.tail = copy.deepcopy(net)
        self.tail.features = nn.Identity()
        with progress.stage("prepare", "inputs of the dense layers"):
            self.test = predict(net.get_submodule("features"), data.test.take(slice(self.test_samples)))
            self.calibration = predict(
                net.get_submodule("features"), data.calibration.take(slice(self.calibration_samples))
            )
            self.inputs: dict[str, Inputs] = {}
            for name in self.names:
                layer = self.tail.get_submodule(name)
                self.inputs[name] = calibration.gather(self.tail, layer, self.calibration)
        self.answers: Tensor | None = None
        error, _, retrieval = self._measure(self.tail)
        self.original = error, retrieval

    def run(self, expression: str, *settings: str, layers: list[str] | None = None) -> Result:
        """The net with its dense layers (or those named) compressed; a layer that would not shrink is left alone."""
        samples = len(self.test), len(self.calibration)
        key = key_of(self.model.sha256, samples, expression, sorted(settings), layers, code=_CODE)
        return Result(
            **remembered(self.results, key, lambda: self._run(expression, settings, layers or self.names).model_dump())
        )

    def _run(self, expression: str, settings: tuple[str, ...], layers: list[str]) -> Result:
        (method,) = chain.parse(expression, settings)
        plain = any(getattr(config, "fit", "feedback") == "plain" for config in method.configs)
        net = copy.deepcopy(self.tail)
        before = after = 0
        for name in layers:
            layer = net.get_submodule(name)
            size = parameter_bytes(layer)
            predicted = size if method.refuse(layer) else method.predict(layer).bytes
            before, after = before + size, after + min(size, predicted)
            if predicted < size:
                replace_weights(layer, method, None if plain else self.inputs[name], 0)
        size = self.total_bytes - before + after
        error, agreement, retrieval = self._measure(net)
        text = f"{expression} {' '.join(settings)}: {self.total_bytes / size:.1f}×, error {error:.2f} %"
        progress.note(text)
        return Result(
            expression=expression,
            settings=settings,
            bytes=size,
            ratio=self.total_bytes / size,
            dense_ratio=before / after,
            error=error,
            agreement=agreement,
            retrieval=retrieval,
        )

    def _measure(self, net: nn.Module) -> tuple[float, float, float]:
        """In percent: top-1 error, agreement with the first net measured, and the mean average precision of retrieval
        by the last hidden layer."""
        hidden: list[Tensor] = []
        last = {"last": net.get_submodule(self.names[-1])}
        with capture(last, lambda _, x: hidden.append(x[0]), before=True):
            answers = predict(net, self.test).argmax(1)
        assert self.model.data is not None
        targets = self.model.data.test.targets[: len(self.test)]
        error = 100 * (answers != targets).double().mean().item()
        self.answers = answers if self.answers is None else self.answers
        agreement = 100 * (answers == self.answers).double().mean().item()
        return error, agreement, 100 * average_precisions(torch.cat(hidden), targets).mean().item()


def claim_table(claims: list[Claim], figures: str) -> str:
    """The claims, whether each holds, and the figures that say so."""
    rows = [
        [c.claim, "holds" if c.holds else "**does not hold**", f"{c.figures}. {c.why}".removesuffix(". ")]
        for c in claims
    ]
    return markdown.table(["claim", "", figures], rows)


def plot(path: Path, title: str, series: dict[str, list[Result]]) -> None:
    """How many answers differ from the original's, against the ratio, as SVG."""
    points = {name: [(r.ratio, max(100 - r.agreement, 0.01)) for r in results] for name, results in series.items()}
    with axes(path, title, "compression of all parameters (times)", "answers unlike the original's (%)") as plane:
        draw(plane, points, "fitted", "plain")
        plane.set(xscale="log", yscale="log")
        plane.set_xticks([4, 8, 16, 32, 64, 128], ["4×", "8×", "16×", "32×", "64×", "128×"])
        plane.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        plane.minorticks_off()


@contextlib.contextmanager
def axes(path: Path, title: str, xlabel: str, ylabel: str, beside: bool = False) -> Iterator[Any]:
    """Matplotlib's axes, written as SVG in the end; the same points give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "edgecomp"
    from matplotlib import pyplot

    figure, plane = pyplot.subplots(figsize=(7.5, 4.5))
    yield plane
    plane.set(title=title, xlabel=xlabel, ylabel=ylabel)
    place = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if beside else {}
    plane.legend(frameon=False, fontsize=8, **place)
    plane.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def draw(plane: Any, series: dict[str, list[tuple[float, float]]], solid: str, dashed: str) -> None:
    """A line through the points of each series. One whose last word is `dashed` is so, in the colour of the series that
    has `solid` there, or is called the same but for the last word."""
    colours: dict[str, str] = {}
    for name, points in series.items():
        stem = name.removesuffix(f" {dashed}").removesuffix(f" {solid}")
        colour = colours.setdefault(stem, f"C{len(colours)}")
        style = "--" if name.endswith(f" {dashed}") else "-"
        plane.plot(
            *zip(*sorted(points), strict=True), marker="o", markersize=4, label=name, color=colour, linestyle=style
        )
