"""What nets take, asked before anything is decided: time on this machine, or instructions of the emulated target."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..records import Model
from ..util import progress
from ..util.files import temporary_folder
from . import timing
from .base import BenchRun
from .bundle import kept_bundle
from .choose import make_device
from .host import HOST_TARGET
from .target import find_target
from .tensors import write_records

_ROUNDS, _SECONDS = 3, 0.2

Export = Callable[[nn.Module, tuple[Tensor, ...], Path], None]  # a runtime's; devices do not know the runtimes


def meter(criterion: str, runtime: str, target: str, model: Model, export: Export) -> Callable[[nn.Module], float]:
    """What says which fraction of the model's own `latency` or `instructions` another net takes, both exported, one
    thread.

    Args:
        runtime: its name. export: that of the runtime, `export(net, example_inputs, path)`.
    """
    if criterion == "instructions":
        return _Counter(runtime, target, model, export)
    return functools.partial(_time, runtime, model, export)


def _time(runtime: str, model: Model, export: Export, net: nn.Module) -> float:
    """Both run in turns."""
    bundle = kept_bundle(find_target(HOST_TARGET), runtime)
    with temporary_folder() as temporary:
        jobs = {}
        for name, one in (("original", model.net), ("pruned", net)):
            jobs[name] = timing.TimingJob(bundle, *_exported(export, model, one, Path(temporary, name)))
        timings = timing.in_turns(jobs, _ROUNDS, _SECONDS, most=2000)
    share = timings["pruned"].p50_ms / timings["original"].p50_ms
    progress.note(f"{timings['pruned'].p50_ms:.3g} ms of {timings['original'].p50_ms:.3g} ms: {100 * share:.0f} %")
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
        with temporary_folder() as temporary:
            files = _exported(self.export, self.model, net, Path(temporary, "net"))
            return count_instructions(*files, self.runtime, self.target)[0]


def _exported(export: Export, model: Model, net: nn.Module, path: Path) -> tuple[Path, Path]:
    """The net's file, and that of the example inputs."""
    inputs = path.with_suffix(".inputs")
    export(net, model.example_inputs, path)
    inputs.write_bytes(b"".join(x.contiguous().numpy().tobytes() for x in model.example_inputs))
    return path, inputs


def count_instructions(file: Path, inputs: Path, runtime: str, target: str) -> tuple[int, BenchRun]:
    """Instructions of one warm inference on the emulated target, one thread: the median of three; and the whole run.

    Args:
        file: exported by the runtime. inputs: the records that it is fed with.
    """
    place = find_target(target)
    run = make_device("qemu", place).run(kept_bundle(place, runtime), file, inputs, threads=1, warmup=1, repeat=3)
    return int(np.median(run.instructions[1:])), run


def measured(file: Path, runtime: str, target: str, sample: tuple[Tensor, ...], emulated: bool) -> dict[str, float]:
    """What one inference of an exported file takes on the emulated target, by resource; on the host, memory alone.
    Memory is what the model adds to the program.

    Args:
        sample: what the file takes for one inference.
    """
    with temporary_folder() as temporary:
        records = Path(temporary, "inputs")
        write_records(records, [x[None] for x in sample])
        place = find_target(target if emulated else HOST_TARGET)
        device, bundle = make_device("qemu" if emulated else "host", place), kept_bundle(place, runtime)
        if emulated:
            count, run = count_instructions(file, records, runtime, target)
        else:
            count, run = None, device.run(bundle, file, records)
        costs = {"ram": float(run.peak_rss_bytes - device.empty_rss_bytes(bundle))}
        return costs if count is None else {**costs, "instructions": float(count)}
