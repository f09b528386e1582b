"""`--method auto` against every method and the usual chains at no larger file: the tables of docs/auto.md.

    python benchmarks/auto.py zfnet 10MB 5MB 2.2MB 1.1MB [--seeds 0 1 2] [--markdown FILE]

Every rival has a ladder of settings. At each budget it gets the largest of its files that is within the budget, as
predicted from exact bytes. Accuracy is that of the exported file over the whole test split, on the host, as are how
often its answers are the original's, and how far from them (Kullback–Leibler divergence); by how much a rival is behind
`auto` has a 95 % interval (paired bootstrap over the images). The drop on the calibration split is a second opinion:
codes are fitted to some of its inputs, but nothing has seen its labels. Of several seeds, which codes are fitted with,
the means are shown, and the range of top-1. What was measured is kept, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgecomp import measure
from edgecomp.export import original_file
from edgecomp.load import load
from edgecomp.pipeline import build
from edgecomp.plan import plan
from edgecomp.records import Model, PlanEntry, Request
from edgecomp.report import explain, markdown
from edgecomp.training.outputs import divergence
from edgecomp.training.scores import score
from edgecomp.util import progress, statistics
from edgecomp.util.cache import RUNNING, key_of, remembered
from edgecomp.util.files import write_text
from edgecomp.util.units import format_bytes, parse_bytes
from edgecomp.util.workspace import Workspace

_RANKS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def _each(key: str, values: tuple[Any, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{key}={value}",) for value in values)


_SEGMENTS = _each("s", (2, 3, 4, 5, 6, 8, 10, 12, 16, 24))
_ALL = (("kinds=dense,conv,embedding",),)
_CONVOLUTIONS = (("kmeans.kinds=dense,conv",),)
_WHATEVER_IT_LOSES = ("auto.drop=100",)
# By expression, ladders whose products are tried. Methods that prune are not among them: they train the net.
RIVALS: dict[str, tuple[tuple[tuple[str, ...], ...], ...]] = {
    "pq": (_SEGMENTS,),
    "pq, convolutions too": (_ALL, _each("codebooks", ("own", "shared")), _SEGMENTS),
    "rq": (_each("t", (2, 3)), _each("s", (4, 8, 16, 24))),
    "kmeans": (_each("k", (2, 4, 8, 16, 32, 64, 128, 256)),),  # palettize writes the same
    "binary": (_each("ternary", ("false", "true")),),
    "int8": (),
    "int4": (),
    "int4+int8": (),
    "svd": (_each("rank", _RANKS),),
    "svd:int8": (_each("rank", _RANKS),),
    "svd:pq": (_each("rank", _RANKS), _each("s", (2, 4, 8))),
    "pq+int8": (_SEGMENTS,),
    "pq+kmeans": (_CONVOLUTIONS, _SEGMENTS, _each("kmeans.k", (4, 16))),
    "svd:int8+int8": (_each("rank", _RANKS),),
    "svd:pq+kmeans": (_CONVOLUTIONS, _each("rank", _RANKS), _each("s", (2, 4)), _each("kmeans.k", (4, 16))),
    "scheme1": (_each("macs", _SHARES),),
    "scheme2": (_each("macs", _SHARES),),
    "scheme2:int8": (_each("macs", _SHARES),),
    "tucker": (_each("macs", _SHARES),),
    "cp": (_each("macs", _SHARES),),
    "tt": (_each("macs", _SHARES),),
    "coupled_tt": (_each("bytes", _SHARES),),
}


Row = tuple[str, tuple[str, ...], list[dict[str, Any]]]  # a method, its settings, and by seed what became of it


class Bench:
    """Builds, each done once."""

    def __init__(self, name: str, folder: Path, seeds: list[int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.folder, self.seeds = name, folder, seeds
        self.model: Model = load(Request(model=name))

    def built(self, expression: str, settings: tuple[str, ...], budget: int | None) -> list[dict[str, Any]]:
        """By seed: bytes of the exported file, and what it answers on the test split."""
        found = []
        for seed in self.seeds:
            key = key_of(self.model.sha256, expression, sorted(settings), budget, seed, code=(*RUNNING, "auto"))
            make = functools.partial(self._built, expression, settings, budget, seed)
            found.append(remembered(self.folder / "results", key, make))
        return found

    def _built(self, expression: str, settings: tuple[str, ...], budget: int | None, seed: int) -> dict[str, Any]:
        out = self.folder / f"{self.name}-{expression.replace(':', '-')}"
        engine = "local" if expression == "auto" else None  # candidates do not wait for each other
        request = Request(
            model=self.name,
            method=expression,
            settings=settings,
            budget_bytes=budget,
            seed=seed,
            on="none",
            out=out,
            engine=engine,
        )
        with progress.stage("build", f"{expression} {' '.join(settings)}, seed {seed}"):
            report = build(request)
            path = out / "model.pte"
            outputs = measure.test_outputs(self.model, report.runtime, path)
        made, original = json.loads((out / "plan.json").read_text()), self.original_outputs()
        return {
            "bytes": path.stat().st_size,
            "samples": len(outputs),
            "container": report.layers[-1].bytes,
            "accuracy": score(self.model.data, outputs),
            "right": np.packbits(outputs.argmax(1) == self.model.data.test.targets).tobytes().hex(),
            "agreement": measure.answers_agree(outputs, original),
            "divergence": divergence(outputs, original).item(),
            "calibration_drop": self._calibration_drop(report.runtime, path),
            "search": made.get("search"),
            "plan": made["entries"],
        }

    def original_outputs(self) -> Tensor:
        return measure.test_outputs(self.model, "executorch", original_file(self.model, "executorch"))

    def _calibration_drop(self, runtime: str, path: Path) -> float:
        """Points lost on the calibration split."""
        assert self.model.data is not None
        split, files = self.model.data.calibration, (original_file(self.model, runtime), path)
        outputs = [measure.outputs_on(self.model, runtime, file, split.inputs) for file in files]
        return measure.compare_answers(self.model.data, *outputs, "host", split).drop_points

    def predicted(self, expression: str, settings: tuple[str, ...]) -> int | None:
        """Bytes of all layers; None if nothing is taken."""
        request = Request(model=self.name, method=expression, settings=settings)
        with Workspace(self.folder / "plans") as work:
            made = plan(self.model, request, work)
        return sum(e.predicted_bytes for e in made.entries) if any(e.method for e in made.entries) else None

    def rivals(self, budget: int, names: list[str]) -> list[Row]:
        """Of each, the largest file within the budget."""
        rows = []
        for title in names:
            expression = title.partition(",")[0]
            ladder = [tuple(itertools.chain(*parts)) for parts in itertools.product(*RIVALS[title])]
            sizes = {settings: self.predicted(expression, settings) for settings in ladder}
            for settings in sorted((s for s in sizes if sizes[s]), key=lambda s: -sizes[s]):  # type: ignore[operator]
                if sizes[settings] > budget:  # type: ignore[operator]
                    continue
                found = self.built(expression, settings, None)
                if max(each["bytes"] for each in found) <= budget:
                    rows.append((expression, settings, found))
                    break
        return rows


def page(bench: Bench, wanted: list[str], names: list[str]) -> str:
    """The tables of one model at budgets like 10MB and 1/20."""
    assert bench.model.data is not None
    test = bench.model.data.test
    before = score(bench.model.data, bench.original_outputs())
    seeds = " ".join(map(str, bench.seeds))
    options = f" --seeds {seeds}" if len(bench.seeds) > 1 else ""
    lines = [
        f"## {bench.name}, seed {seeds}",
        "",
        f"    python benchmarks/auto.py {bench.name} {' '.join(wanted)}{options}",
        "",
        f"{before:.2f} % of {len(test):,} samples of {test.name} before.",
        "",
    ]
    size = original_file(bench.model, "executorch").stat().st_size
    for budget in (size // int(each[2:]) if each.startswith("1/") else parse_bytes(each) for each in wanted):
        auto = bench.built("auto", _WHATEVER_IT_LOSES, budget)
        rows: list[Row] = [("auto", (), auto), *bench.rivals(budget, names)]
        cells = [_cells(row, auto, before) for row in sorted(rows, key=lambda row: -_mean(row[2], "accuracy"))]
        lines += [f"### {format_bytes(budget)}", ""]
        titles = ["", "file", "top-1", "drop, points", "on calibration", "agreement", "KL, nats", "behind auto, points"]
        lines += [markdown.table(titles, cells), ""]
        entries = [PlanEntry(**entry) for entry in auto[0]["plan"]]
        titles = ["layer", "chosen", "bytes", "damage", "runner-up", "bytes", "damage", "plan with it"]
        lines += [markdown.table(titles, [_choice(*choice) for choice in explain.choices(entries)]), ""]
        looks = "; ".join(map(_look, auto[0]["search"]["looks"]))
        lines += [f"Plans looked at, on calibration samples: {looks}.", ""]
    return "\n".join(lines)


def _cells(row: Row, auto: list[dict[str, Any]], before: float) -> list[str]:
    expression, settings, found = row
    name = "**auto**" if found is auto else f"`{' '.join([expression, *settings])}`"
    accuracy, each = _mean(found, "accuracy"), [one["accuracy"] for one in found]
    spread = f" ({min(each):.2f}–{max(each):.2f})" if len(each) > 1 else ""
    return [
        name,
        format_bytes(max(one["bytes"] for one in found)),
        f"{accuracy:.2f} %{spread}",
        f"{before - accuracy:+.2f}",
        f"{_mean(found, 'calibration_drop'):+.2f}",
        f"{_mean(found, 'agreement'):.2f} %",
        f"{_mean(found, 'divergence'):.5f}",
        "" if found is auto else _behind(auto, found),
    ]


def _mean(found: list[dict[str, Any]], figure: str) -> float:
    return sum(one[figure] for one in found) / len(found)


def _behind(auto: list[dict[str, Any]], rival: list[dict[str, Any]]) -> str:
    """By how many points a rival is behind, and the interval."""
    ours, theirs = _rights(auto), _rights(rival)
    low, high = statistics.drop_of_scores(lambda i: 100 * float(ours[i].mean() - theirs[i].mean()), len(ours))
    return f"{_mean(auto, 'accuracy') - _mean(rival, 'accuracy'):+.2f} ({low:+.2f} to {high:+.2f})"


def _rights(found: list[dict[str, Any]]) -> np.ndarray:
    """(N,) how often every image was answered rightly, by seeds."""
    packed = [np.frombuffer(bytes.fromhex(one["right"]), np.uint8) for one in found]
    return np.mean([np.unpackbits(bits, count=found[0]["samples"]) for bits in packed], axis=0)


def _choice(layer: str, chosen: tuple[str, ...], other: tuple[str, ...]) -> list[str]:
    """Without instructions, which were not asked for."""
    setting, size, _, damage, plan_damage = other or ("",) * 5
    return [layer, *chosen[:2], chosen[3], setting, size, damage, plan_damage]


def _look(look: dict[str, Any]) -> str:
    mark = " (chosen)" if look["chosen"] else ""
    size = format_bytes(look["file_bytes"])
    return f"{size}, damage {look['predicted_damage']:.5f} predicted, {look['damage']:.5f} measured{mark}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("budgets", nargs="+", help="like 10MB, or 1/20 of the uncompressed file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rivals", default=",,".join(RIVALS), help="of the ladders above, separated by two commas")
    parser.add_argument("--folder", type=Path, default=Path("out/benchmark-auto"))
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    bench = Bench(arguments.model, arguments.folder, arguments.seeds)
    text = page(bench, arguments.budgets, arguments.rivals.split(",,"))
    write_text(arguments.markdown, text) if arguments.markdown else print(text)


if __name__ == "__main__":
    main()
