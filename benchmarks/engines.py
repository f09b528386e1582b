"""What the engines cost: Ray against local processes, the same tasks on the same cores, in turns.

    python benchmarks/engines.py [--rounds 3] [--markdown FILE]

Times in seconds, medians. Every task has one thread, and both engines have as many tasks at a time as there are cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from edgecomp import engines
from edgecomp.methods import pq
from edgecomp.records import Request, SweepRequest
from edgecomp.report import markdown
from edgecomp.sweep import sweep
from edgecomp.util import progress

SMALL = 200  # tasks that do nothing
LAYERS = 12  # tasks that fit a layer
SHARED = 50_000_000  # numbers, 200 MB


def nothing(task: int, *shared: object) -> int:
    return task


def first_number(task: int, shared: torch.Tensor) -> float:
    return shared[task].item()


def fitted(seed: int, layer: nn.Linear) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return pq.compress(layer, pq.Config(), None, seed).state_dict()


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measured(name: str) -> dict[str, float]:
    """One round of one engine, from nothing."""
    cores, begun = len(os.sched_getaffinity(0)), time.perf_counter()
    torch.manual_seed(0)
    layer, numbers = nn.Linear(1024, 4096), torch.rand(SHARED)
    with engines.opened(name, workers=cores) as engine:
        engine.run(nothing, range(cores))
        found = {f"start, until {cores} tasks are done": time.perf_counter() - begun}
        found["a task that does nothing"] = seconds(lambda: engine.run(nothing, range(SMALL))) / SMALL

        def share() -> None:
            engine.run(first_number, range(cores), engine.share(numbers))

        found["200 MB shared and read by all workers"] = seconds(share)
        handle = engine.share(layer)
        found[f"{LAYERS} layers of 1024×4096 coded by pq"] = seconds(lambda: engine.run(fitted, range(LAYERS), handle))
        with tempfile.TemporaryDirectory() as folder:
            base = Request(model="fashion", on="host", out=Path(folder, "sweep"))
            points = SweepRequest(base, ("pq", "kmeans"), (1_200_000, 800_000))
            found["sweep of the default model, 4 points"] = seconds(lambda: sweep(points, engine))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    arguments = parser.parse_args()
    progress.console.quiet = True
    rounds = [{name: measured(name) for name in engines.ENGINES} for _ in range(arguments.rounds)]
    rows = []
    for what in rounds[0]["local"]:
        local, ray = (median(found[name][what] for found in rounds) for name in ("local", "ray"))
        digits = 4 if local < 0.1 else 2
        rows.append([what, f"{local:.{digits}f}", f"{ray:.{digits}f}", f"{ray - local:+.{digits}f}"])
    table = markdown.table(["seconds", "local", "ray", "ray costs"], rows)
    print(table)
    if arguments.markdown:
        arguments.markdown.write_text(table)


if __name__ == "__main__":
    main()
