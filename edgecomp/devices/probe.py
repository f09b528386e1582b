"""What nets take, asked before anything is decided: time on this machine, or instructions of the emulated target."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..records import Model
from ..util import progress
from . import timing
from .bench import write_records
from .bundle import host_bundle, make_bundle
from .choose import make_device
from .host import HOST_TARGET
from .target import find_target

_ROUNDS, _SECONDS = 3, 0.2

Export = Callable[[nn.Module, tuple[Tensor, ...], Path], None]  # a runtime's; devices do not know the runtimes


def meter(wish: str, runtime: str, target: str, model: Model, export: Export) -> Callable[[nn.Module], float]:
    """What says which fraction of the model's own `latency` or `instructions` another net takes, both exported, one
    thread.

    Args:
        runtime: its name. export: that of the runtime, `export(net, example_inputs, path)`.
    """
    if wish == "instructions":
        return _Counter(runtime, target, model, export)
    return functools.partial(_time, runtime, model, export)


def _time(runtime: str, model: Model, export: Export, net: nn.Module) -> float:
    """Both run in turns."""
    bundle = host_bundle(find_target(HOST_TARGET), runtime)
    with tempfile.TemporaryDirectory() as temporary:
        jobs = {}
        for name, one in (("original", model.net), ("pruned", net)):
            jobs[name] = timing.Job(bundle, *_exported(export, model, one, Path(temporary, name)))
        found = timing.in_turns(jobs, _ROUNDS, _SECONDS, most=2000)
    share = found["pruned"].p50_ms / found["original"].p50_ms
    progress.note(f"{found['pruned'].p50_ms:.3g} ms of {found['original'].p50_ms:.3g} ms: {100 * share:.0f} %")
    return share


class _Counter:
    def __init__(self, runtime: str, target: str, model: Model, export: Export) -> None:
        self.runtime, self.target, self.model, self.export = runtime, target, model, export
        self.whole = functools.cache(lambda: self._count(model.net))

    def __call__(self, net: nn.Module) -> float:
        count = self._count(net)
        progress.note(f"{count:,} of {self.whole():,} instructions: {100 * count / self.whole():.0f} %")
        return count / self.whole()

    def _count(self, net: nn.Module) -> int:
        with tempfile.TemporaryDirectory() as temporary:
            bundle = Path(temporary, "bundle")
            make_bundle(find_target(self.target), self.runtime, bundle)
            files = _exported(self.export, self.model, net, Path(temporary, "net"))
            emulator = make_device("qemu", find_target(self.target))
            return int(np.median(emulator.run(bundle, *files, threads=1, warmup=1, repeat=3).instructions[1:]))


def _exported(export: Export, model: Model, net: nn.Module, path: Path) -> tuple[Path, Path]:
    """The net's file, and that of the example inputs."""
    inputs = path.with_suffix(".inputs")
    export(net, model.example_inputs, path)
    inputs.write_bytes(b"".join(x.contiguous().numpy().tobytes() for x in model.example_inputs))
    return path, inputs


def measured(file: Path, runtime: str, target: str, sample: Tensor, emulated: bool) -> dict[str, float]:
    """What one inference of an exported file takes on the emulated target, by resource; on the host, memory alone.
    Memory is what the model adds to the program."""
    with tempfile.TemporaryDirectory() as temporary:
        records, bundle = Path(temporary, "inputs"), Path(temporary, "bundle")
        write_records(records, [sample[:1]])
        if not emulated:
            host = host_bundle(find_target(HOST_TARGET), runtime)
            device = make_device("host", find_target(target))
            return {"ram": float(device.run(host, file, records).peak_rss_bytes - device.empty_rss_bytes(host))}
        make_bundle(find_target(target), runtime, bundle)
        device = make_device("qemu", find_target(target))
        run = device.run(bundle, file, records, threads=1, warmup=1, repeat=3)
        added = run.peak_rss_bytes - device.empty_rss_bytes(bundle)
        return {"ram": float(added), "instructions": float(np.median(run.instructions[1:]))}
