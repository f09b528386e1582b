"""A campaign of kills: build, auto, sweep and train are killed at random moments, with cold and warm caches. The same
command, started again, must give the same bytes as one that nobody disturbs, and nothing half-written may be left.

    python tests/campaigns/kills.py [--kills 100] [--seed 0] [--only build]

Processes are forked by a program that has imported everything (tests/starts.py). With a cold cache nothing is known but
the programs and SDKs that are compiled and fetched; with a warm one all that an undisturbed run has kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import RIGHT_MODEL, TINY_DATA, TINY_MODEL
from starts import Starter

from edgecomp.util.files import cache_folder, sha256_file

_RECIPE = """
from edgecomp.train import Recipe
recipe = Recipe(epochs=6, batch=16, learning_rate=0.05, weight_decay=1e-4, seed=3)
"""
_AUTO = "auto.samples=64", "auto.methods=kmeans,int8", "auto.rounds=1"
COMMANDS = {
    "build": ("build", "tiny.py", "--method", "pq", "--on", "none", "-o", "out"),
    "auto": ("build", "right.py", "--method", "auto", "--budget", "60kB", "--on", "none", "-o", "out")
    + tuple(part for value in _AUTO for part in ("--set", value)),
    "sweep": ("sweep", "tiny.py", "--methods", "kmeans", "--budgets", "110kB,60kB", "--on", "none")
    + ("--workers", "1", "-o", "out"),
    "train": ("train", "learns.py"),
}
# Figures of a run, which differ from run to run: seconds, machine.
_NOT_COMPARED = ("report.", "sweep.", "lock")


class Place:
    """A folder with the models, a cache, a folder of results, and one for temporary files."""

    def __init__(self, root: Path, cache: Path | None) -> None:
        self.root, self.cache, self.temporary = root, root / "cache", root / "tmp"
        self.temporary.mkdir(parents=True)
        for name, text in (("tiny", TINY_MODEL + TINY_DATA), ("right", RIGHT_MODEL)):
            (root / f"{name}.py").write_text(text)
        (root / "learns.py").write_text(TINY_MODEL + TINY_DATA + _RECIPE)
        if cache:
            shutil.copytree(cache, self.cache, symlinks=True)
        else:
            self.cache.mkdir()
            for name in ("native", "sdk"):
                (self.cache / name).symlink_to(cache_folder(name))

    def start(self, starter: Starter, command: str):
        """Its output goes to nobody: a pipe that is not read would stop it."""
        places = {"EDGECOMP_CACHE": str(self.cache), "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        return starter.popen(*COMMANDS[command], cwd=self.root, **places)

    def run(self, starter: Starter, command: str) -> float:
        """To the end; how long it took."""
        start = time.monotonic()
        process = self.start(starter, command)
        _, err = process.communicate(600)
        if process.returncode not in (0, 1):  # 1: a limit is missed, which is a result
            raise RuntimeError(f"{command} ended with {process.returncode}: {err[-2000:]}")
        return time.monotonic() - start

    def results(self) -> dict[str, str]:
        """Digests of all that a command gives, by path."""
        folders = (self.root / "out", self.cache / "weights")
        files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        files = [p for p in files if ".stages" not in p.parts and not p.name.startswith(_NOT_COMPARED)]
        return {str(path.relative_to(self.root)): sha256_file(path) for path in files}

    def left(self) -> list[str]:
        """What is half-written."""
        found = [path for path in self.root.rglob("*.partial")] + list(self.temporary.iterdir())
        found += list((self.cache / "running").glob("*")) + list(self.root.rglob("unpublished"))
        return [str(path.relative_to(self.root)) for path in found]


def kill_once(starter: Starter, place: Place, command: str, after: float) -> str:
    """How the command ended that was to be killed."""
    process = place.start(starter, command)
    time.sleep(after)
    if process.poll() is None:
        process.kill()
    process.communicate(60)
    time.sleep(0.2)  # workers of a killed process see that it is gone
    return "killed" if process.returncode == -signal.SIGKILL else "done before"


def undisturbed(starter: Starter, folder: Path, command: str) -> tuple[Place, dict[str, float], dict[str, str]]:
    """A place where the command has been run, how long it takes with a cold and a warm cache, and what it gives."""
    first = Place(folder / f"{command}-cold", None)
    times = {"cold": first.run(starter, command)}
    second = Place(folder / f"{command}-warm", first.cache)
    times["warm"] = second.run(starter, command)
    if first.results() != second.results():
        raise RuntimeError(f"{command} gives other bytes with a warm cache")
    return first, times, first.results()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", choices=COMMANDS)
    asked = options.parse_args()
    starter, counts, wrong = Starter(), Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        commands = [asked.only] if asked.only else list(COMMANDS)
        known = {command: undisturbed(starter, folder, command) for command in commands}
        for number in range(asked.kills):
            chance = random.Random(f"{asked.seed} {number}")
            command, state = commands[number // 2 % len(commands)], ("cold", "warm")[number % 2]
            first, times, expected = known[command]
            place = Place(folder / f"case-{number}", first.cache if state == "warm" else None)
            after = chance.uniform(0, times[state])
            ended = kill_once(starter, place, command, after)
            half = len(place.left())
            place.run(starter, command)
            same, left = place.results() == expected, place.left()
            counts[command, state, ended] += 1
            counts[command, state, "left something"] += half > 0
            if not same or left:
                wrong += 1
                print(
                    f"kill {number}: {command}, {state}, after {after:.2f} s: same {same}, left {left}", file=sys.stderr
                )
            shutil.rmtree(place.root)
    starter.close()
    print("| command | cache | killed | done before | left something half-written |\n|---|---|---:|---:|---:|")
    for command in commands:
        for state in ("cold", "warm"):
            row = [counts[command, state, what] for what in ("killed", "done before", "left something")]
            print(f"| {command} | {state} | " + " | ".join(map(str, row)) + " |")
    print(f"{asked.kills} kills, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
