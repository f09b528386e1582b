"""A campaign against what reads files: each case changes a good file, seeded, and reads it in a child process.

    python tests/campaigns/mutate.py --minutes 5 [--seed 0] [--build DIR]

Each case ends in one of: refused (an error of edgecomp), same (what was read is that of the good file), other (it is
read as something else, as where a weight has changed and the format has no checksum), traceback, hang, signal. Exits 1
if there is one of the last three. Archives and weights are made here; with --build also report.json and plan.json of
that folder.
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
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from edgecomp.errors import EdgecompError
from edgecomp.graph import archive
from edgecomp.plan import read_plan
from edgecomp.report import read_report
from edgecomp.util.cache import key_of
from edgecomp.util.weights import load_weights

OUTCOMES = ("refused", "same", "other", "traceback", "hang", "signal")
FAULTS = OUTCOMES[3:]
_SECONDS = 30
_WORDS = (b"true", b"null", b"-1", b"9" * 30, b'"', b"{", b"[" * 3000, b"\x00", b"\xff", b"__import__('os')", b"1e999")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(4 * 6 * 6, 3)).eval()


def read_archive(path: Path) -> str:
    program = archive.load(path)
    return key_of(dict(program.state_dict)) + str(program.graph)


def read_weights(path: Path) -> str:
    found = net()
    load_weights(found, path)
    return key_of(found.state_dict())


def good_files(folder: Path, build: Path | None) -> dict[Path, Callable[[Path], str]]:
    """Files, and what reads each; what is read is given as text."""
    files: dict[Path, Callable[[Path], str]] = {}
    torch.export.save(torch.export.export(net(), (torch.zeros(1, 1, 8, 8),)), folder / "net.pt2")
    files[folder / "net.pt2"] = read_archive
    state = net().state_dict()
    save_file(state, folder / "net.safetensors")
    torch.save(state, folder / "net.pth")
    files[folder / "net.safetensors"] = files[folder / "net.pth"] = read_weights
    if build:
        files[build / "report.json"] = lambda path: read_report(path).model_dump_json()
        files[build / "plan.json"] = lambda path: read_plan(path).model_dump_json()
    return files


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


def outcome(read: Callable[[Path], str], case: Path, expected: str) -> str:
    """What becomes of a case, in a child of its own."""
    child = os.fork()
    if child == 0:
        signal.alarm(_SECONDS)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        try:
            code = OUTCOMES.index("same" if read(case) == expected else "other")
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


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--minutes", type=float, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--build", type=Path, metavar="DIR")
    asked = options.parse_args()
    torch.set_num_threads(1)  # a child that is forked has no other threads
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = good_files(folder, asked.build)
        expected = {path: read(path) for path, read in files.items()}
        end, number = time.monotonic() + 60 * asked.minutes, 0
        while time.monotonic() < end:
            for path, read in files.items():
                chance = random.Random(f"{asked.seed} {number} {path.name}")
                case = folder / f"case{path.suffix}"
                write_case(path, case, chance)
                became = outcome(read, case, expected[path])
                counts[path.name][became] += 1
                if became in FAULTS:
                    print(f"{became}: seed {asked.seed}, case {number} of {path.name}", file=sys.stderr)
            number += 1
    print("| file | cases | " + " | ".join(OUTCOMES) + " |\n|---" + "|---:" * (len(OUTCOMES) + 1) + "|")
    for name, found in counts.items():
        print(f"| {name} | {found.total()} | " + " | ".join(str(found[key]) for key in OUTCOMES) + " |")
    sys.exit(any(found[key] for found in counts.values() for key in FAULTS))


if __name__ == "__main__":
    main()
