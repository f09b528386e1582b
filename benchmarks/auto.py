"""`--method auto` against every method and the usual chains at no larger file: the tables of docs/auto.md.

    python benchmarks/auto.py zfnet 10MB 5MB 2.2MB 1.1MB [--markdown FILE]

Every rival has a ladder of settings. At each budget it gets the largest of its files that is within the budget, as
predicted from exact bytes. Accuracy is that of the exported file over the whole test split, on the host; by how much a
rival is behind `auto` has a 95 % interval (Newcombe's for paired proportions). What was measured is kept, so that an
interrupted run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgecomp import explain, intervals, markdown, measure, progress
from edgecomp.export import original_file
from edgecomp.files import write_text
from edgecomp.load import load
from edgecomp.pipeline import build
from edgecomp.plan import plan
from edgecomp.records import Model, PlanEntry, Request
from edgecomp.units import format_bytes, parse_bytes
from edgecomp.workspace import Workspace, stage_key

_RANKS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
_MACS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def _each(key: str, values: tuple[Any, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{key}={value}",) for value in values)


_SEGMENTS = _each("s", (2, 3, 4, 5, 6, 8, 10, 12, 16, 24))
_ALL = (("kinds=dense,conv,embedding",),)
_CONVOLUTIONS = (("kmeans.kinds=dense,conv",),)
_WHATEVER_IT_LOSES = ("auto.drop=100",)
# By expression, ladders whose products are tried.
RIVALS: dict[str, tuple[tuple[tuple[str, ...], ...], ...]] = {
    "pq": (_SEGMENTS,),
    "pq, convolutions too": (_ALL, _each("codebooks", ("own", "shared")), _SEGMENTS),
    "rq": (_each("t", (2, 3)), _each("s", (4, 8, 16, 24))),
    "kmeans": (_each("k", (2, 4, 8, 16, 64, 256)),),
    "binary": (_each("ternary", ("false", "true")),),
    "int8": (),
    "int4+int8": (),
    "svd": (_each("rank", _RANKS),),
    "svd:int8": (_each("rank", _RANKS),),
    "svd:pq": (_each("rank", _RANKS), _each("s", (2, 4, 8))),
    "pq+int8": (_SEGMENTS,),
    "pq+kmeans": (_CONVOLUTIONS, _SEGMENTS, _each("kmeans.k", (4, 16))),
    "svd:int8+int8": (_each("rank", _RANKS),),
    "svd:pq+kmeans": (_CONVOLUTIONS, _each("rank", _RANKS), _each("s", (2, 4)), _each("kmeans.k", (4, 16))),
    "scheme2": (_each("macs", _MACS),),
    "scheme2:int8": (_each("macs", _MACS),),
    "tucker": (_each("macs", _MACS),),
    "cp": (_each("macs", _MACS),),
    "tt": (_each("macs", _MACS),),
}


class Bench:
    """Builds, each done once."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.folder = name, folder
        self.model: Model = load(Request(model=name))
        self.kept = folder / "results.json"

    def built(self, expression: str, settings: tuple[str, ...], budget: int | None) -> dict[str, Any]:
        """Bytes and top-1 on the test split of the exported file."""
        key = stage_key("benchmark auto", self.model.sha256, expression, sorted(settings), budget)
        known = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        if key not in known:
            known[key] = self._built(expression, settings, budget)
            write_text(self.kept, json.dumps(known, indent=1))
        return known[key]

    def _built(self, expression: str, settings: tuple[str, ...], budget: int | None) -> dict[str, Any]:
        out = self.folder / f"{self.name}-{expression.replace(':', '-')}"
        engine = "local" if expression == "auto" else None  # candidates do not wait for each other
        request = Request(
            model=self.name,
            method=expression,
            settings=settings,
            budget_bytes=budget,
            on="none",
            out=out,
            engine=engine,
        )
        with progress.stage("build", f"{expression} {' '.join(settings)}"):
            report = build(request)
            path = out / "model.pte"
            outputs = measure.test_outputs(self.model, report.runtime, path)
        made = json.loads((out / "plan.json").read_text())
        return {
            "bytes": path.stat().st_size,
            "container": report.layers[-1].bytes,
            "accuracy": measure.score(self.model.data, outputs),
            "right": np.packbits(outputs.argmax(1) == self.model.data.test.targets).tobytes().hex(),
            "agreement": measure.answers_agree(outputs, self.original_outputs()),
            "search": made.get("search"),
            "plan": made["entries"],
        }

    def original_outputs(self) -> Tensor:
        return measure.test_outputs(self.model, "executorch", original_file(self.model, "executorch"))

    def predicted(self, expression: str, settings: tuple[str, ...]) -> int | None:
        """Bytes of all layers; None if nothing is taken."""
        request = Request(model=self.name, method=expression, settings=settings)
        with Workspace(self.folder / "plans") as work:
            made = plan(self.model, request, work)
        return sum(e.predicted_bytes for e in made.entries) if any(e.method for e in made.entries) else None

    def rivals(self, budget: int, names: list[str]) -> list[tuple[str, tuple[str, ...], dict[str, Any]]]:
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
                if found["bytes"] <= budget:
                    rows.append((expression, settings, found))
                    break
        return rows


def page(bench: Bench, budgets: list[int], names: list[str]) -> str:
    """The tables of one model."""
    assert bench.model.data is not None
    test = bench.model.data.test
    before = measure.score(bench.model.data, bench.original_outputs())
    lines = [f"## {bench.name}", "", f"{before:.2f} % of {len(test):,} samples of {test.name} before.", ""]
    for budget in budgets:
        found = bench.built("auto", _WHATEVER_IT_LOSES, budget)
        rows = [("**auto**", (), found), *bench.rivals(budget, names)]
        cells = []
        for expression, settings, row in sorted(rows, key=lambda row: -row[2]["accuracy"]):
            name = f"`{' '.join([expression, *settings])}`" if settings or expression[0] != "*" else expression
            figures = f"{row['accuracy']:.2f} %", f"{before - row['accuracy']:+.2f}", f"{row['agreement']:.2f} %"
            behind = "" if row is found else _behind(found, row, len(test))
            cells.append([name, format_bytes(row["bytes"]), *figures, behind])
        lines += [f"### {format_bytes(budget)}", ""]
        lines += [markdown.table(["", "file", "top-1", "drop, points", "agreement", "behind auto, points"], cells), ""]
        entries = [PlanEntry(**entry) for entry in found["plan"]]
        titles = ["layer", "chosen", "bytes", "damage", "runner-up", "bytes", "damage", "plan with it"]
        lines += [markdown.table(titles, [_choice(*choice) for choice in explain.choices(entries)]), ""]
        lines += [
            "Plans looked at, on calibration samples: " + "; ".join(map(_look, found["search"]["looks"])) + ".",
            "",
        ]
    return "\n".join(lines)


def _behind(found: dict[str, Any], rival: dict[str, Any], samples: int) -> str:
    """By how many points a rival is behind, and the interval."""
    packed = [np.frombuffer(bytes.fromhex(row["right"]), np.uint8) for row in (found, rival)]
    low, high = intervals.drop_of_rights(*(np.unpackbits(bits, count=samples) > 0 for bits in packed))
    return f"{found['accuracy'] - rival['accuracy']:+.2f} ({low:+.2f} to {high:+.2f})"


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
    parser.add_argument("--rivals", default=",,".join(RIVALS), help="of the ladders above, separated by two commas")
    parser.add_argument("--folder", type=Path, default=Path("out/benchmark-auto"))
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    bench = Bench(arguments.model, arguments.folder)
    size = original_file(bench.model, "executorch").stat().st_size
    budgets = [size // int(b[2:]) if b.startswith("1/") else parse_bytes(b) for b in arguments.budgets]
    text = page(bench, budgets, arguments.rivals.split(",,"))
    write_text(arguments.markdown, text) if arguments.markdown else print(text)


if __name__ == "__main__":
    main()
