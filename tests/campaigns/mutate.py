"""A campaign against what reads files: each case changes a good file, seeded, and reads it in a child process.

    python tests/campaigns/mutate.py --minutes 5 | --cases 10000 [--seed 0]

Each case ends in one of: refused (an error of edgecomp, or of the program that was given the file), same (what was read
is that of the good file, or it was made again), other (it is read as something else, as where a weight has changed and
the format has no digest), traceback, hang, signal. Exits 1 if there is one of the last three, or an `other` of a file
that has a digest. The good files are made here: an archive, weights, and two small builds.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from campaigns.readers import SECONDS, File, good_files

from edgecomp.errors import EdgecompError
from edgecomp.util import progress

OUTCOMES = ("refused", "same", "other", "traceback", "hang", "signal")
FAULTS = OUTCOMES[3:]
_WORDS = (b"true", b"null", b"-1", b"9" * 30, b'"', b"{", b"[" * 3000, b"\x00", b"\xff", b"__import__('os')", b"1e999")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut, doubled, or a word put in."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at = chance.randrange(len(changed) + 1) if changed else 0
        kind = chance.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[at : at + chance.choice((1, 4, 100, 10**6))]
        elif kind == 2:
            changed[at:at] = changed[at : at + chance.choice((1, 16, 300))]
        elif kind == 3:
            changed[at:at] = chance.choice(_WORDS)
        else:
            word = chance.choice(_WORDS)
            changed[at : at + len(word)] = word
    return bytes(changed)


def write_case(good: Path, case: Path, chance: random.Random) -> None:
    """Half of the archives stay whole zip files, of which a member is changed: their CRCs are right."""
    if good.suffix != ".pt2" or chance.random() < 0.5:
        case.write_bytes(mutated(good.read_bytes(), chance))
        return
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(case, "w") as target:
        chosen = chance.choice([name for name in source.namelist() if chance.random() < 0.5 or name.endswith(".json")])
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, mutated(data, chance) if name == chosen else data)


def outcome(file: File, case: Path, expected: str) -> str:
    """What becomes of a case, in a child of its own."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS + 5)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            code = OUTCOMES.index("same" if file.read(case) == expected else "other")
        except EdgecompError:
            code = OUTCOMES.index("refused")
        except BaseException:
            traceback.print_exc()
            code = OUTCOMES.index("traceback")
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "hang" if os.WTERMSIG(status) == signal.SIGALRM else "signal"
    return OUTCOMES[os.WEXITSTATUS(status)]


def run(
    files: list[File], folder: Path, seed: int, minutes: float, cases: int | None
) -> dict[str, collections.Counter]:
    """Cases of all files in turns, as many of each as its share; how they ended, by the name of the kind."""
    progress.console.quiet = True  # of stages, which thousands of cases go through
    counts: dict[str, collections.Counter[str]] = {file.kind: collections.Counter() for file in files}
    expected = {file.kind: file.read(file.copied(folder)) for file in files}
    end, number, done = time.monotonic() + 60 * minutes, 0, 0
    while done < cases if cases else time.monotonic() < end:
        for file in files:
            if number % file.every:
                continue
            case = file.copied(folder)
            write_case(file.good, case, random.Random(f"{seed} {number} {file.kind}"))
            became = outcome(file, case, expected[file.kind])
            counts[file.kind][became] += 1
            done += 1
            if became in FAULTS or (became == "other" and file.digest):
                print(f"{became}: seed {seed}, case {number} of {file.kind}", file=sys.stderr)
        number += 1
    return counts


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--minutes", type=float, default=1)
    options.add_argument("--cases", type=int, help="Instead of minutes.")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    torch.set_num_threads(1)  # a child that is forked has no other threads
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        files = good_files(Path(temporary))
        counts = run(files, Path(temporary), asked.seed, asked.minutes, asked.cases)
    print("| file | cases | " + " | ".join(OUTCOMES) + " |\n|---" + "|---:" * (len(OUTCOMES) + 1) + "|")
    for name, found in counts.items():
        print(f"| {name} | {found.total():,} | " + " | ".join(str(found[key]) for key in OUTCOMES) + " |")
    print(
        f"{sum(found.total() for found in counts.values()):,} cases in {time.monotonic() - start:.0f} s",
        file=sys.stderr,
    )
    wrong = any(counts[file.kind][key] for file in files for key in (*FAULTS, *(["other"] if file.digest else [])))
    sys.exit(wrong)


if __name__ == "__main__":
    main()
