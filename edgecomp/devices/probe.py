"""What nets take, asked before anything is decided: time on this machine, or instructions of the emulated target."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from .. import devices, discover
from ..records import Model
from ..util import progress
from . import timing
from .bundle import host_bundle, make_bundle

_HOST = "linux-x86_64"
_ROUNDS, _SECONDS = 3, 0.2


def meter(wish: str, runtime: str, target: str, model: Model) -> Callable[[nn.Module], float]:
    """What says which fraction of the model's own `latency` or `instructions` another net takes, both exported, one
    thread."""
    if wish == "instructions":
        return _Counter(runtime, target, model)
    return functools.partial(_time, runtime, model)


def _time(runtime: str, model: Model, net: nn.Module) -> float:
    """Both run in turns."""
    bundle = host_bundle(discover.target(_HOST), runtime)
    with tempfile.TemporaryDirectory() as temporary:
        jobs = {}
        for name, one in (("original", model.net), ("pruned", net)):
            jobs[name] = timing.Job(bundle, *_exported(runtime, model, one, Path(temporary, name)))
        found = timing.in_turns(jobs, _ROUNDS, _SECONDS, most=2000)
    share = found["pruned"].p50_ms / found["original"].p50_ms
    progress.note(f"{found['pruned'].p50_ms:.3g} ms of {found['original'].p50_ms:.3g} ms: {100 * share:.0f} %")
    return share


class _Counter:
    def __init__(self, runtime: str, target: str, model: Model) -> None:
        self.runtime, self.target, self.model = runtime, target, model
        self.whole = functools.cache(lambda: self._count(model.net))

    def __call__(self, net: nn.Module) -> float:
        count = self._count(net)
        progress.note(f"{count:,} of {self.whole():,} instructions: {100 * count / self.whole():.0f} %")
        return count / self.whole()

    def _count(self, net: nn.Module) -> int:
        with tempfile.TemporaryDirectory() as temporary:
            bundle = Path(temporary, "bundle")
            make_bundle(discover.target(self.target), self.runtime, bundle)
            files = _exported(self.runtime, self.model, net, Path(temporary, "net"))
            emulator = devices.make("qemu", discover.target(self.target))
            return int(np.median(emulator.run(bundle, *files, threads=1, warmup=1, repeat=3).instructions[1:]))


def _exported(runtime: str, model: Model, net: nn.Module, path: Path) -> tuple[Path, Path]:
    """The net's file, and that of the example inputs."""
    own, inputs = discover.runtime(runtime), path.with_suffix(".inputs")
    own.export(net, model.example_inputs, path.with_suffix(own.SUFFIX))
    inputs.write_bytes(b"".join(x.contiguous().numpy().tobytes() for x in model.example_inputs))
    return path.with_suffix(own.SUFFIX), inputs
