"""Times files on a device, in turns: what disturbs one of them for a while disturbs the others as well.

The protocol is written down in docs/measuring.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..util import progress
from .base import Device
from .host import Host

_WARM_UP = 5
_LEAST_SAMPLES = 20  # of one process
_LEAST_MS = 200


@dataclass(frozen=True)
class TimingJob:
    """A model file, the bundle that runs it, the file of its inputs, and how many threads it may use."""

    bundle: Path
    model: Path
    inputs: Path
    threads: int = 1


@dataclass
class Timing:
    """Raw samples, milliseconds: of every process its warm inferences, and the one of loading and of the first
    inference; peak_rss_bytes and rss_anon_bytes of a process that ran the file once."""

    processes: list[list[float]] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0
    rss_anon_bytes: int = 0

    @property
    def samples_ms(self) -> list[float]:
        return [sample for samples in self.processes for sample in samples]

    @property
    def p50_ms(self) -> float:
        return float(np.median(self.samples_ms))


def in_turns(
    jobs: dict[str, TimingJob],
    rounds: int = 5,
    seconds: float = 1.0,
    most: int = 200,
    timings: dict[str, Timing] | None = None,
    device: Device | None = None,
) -> dict[str, Timing]:
    """Runs all jobs, one after the other in each round, every time in a process of its own.

    Args:
        seconds: that one round of one job should take, so far as 20 to `most` inferences allow; but at least 0.2.
        timings: what is returned, filled round by round: an interrupt leaves there what has been measured until then.
        device: one that is entered; None for this machine.

    Raises:
        DeviceError: a program dies, or the device is lost.
    """
    device, repeats = device or Host(), {}
    timings = {} if timings is None else timings
    timings.update({name: Timing() for name in jobs})
    with progress.bar(f"timing on the {device.name}", rounds * len(jobs)) as advance:
        for name, job in jobs.items():
            files, threads = (job.bundle, job.model, job.inputs), job.threads
            run = device.run(*files, threads=threads, warmup=3, repeat=5)
            repeats[name] = int(np.clip(1000 * seconds / min(run.samples_ms), _LEAST_SAMPLES, most))
            memory = device.run(*files, threads=threads)
            timings[name].peak_rss_bytes, timings[name].rss_anon_bytes = memory.peak_rss_bytes, memory.rss_anon_bytes
        for _ in range(rounds):
            for name, job in jobs.items():
                device.rest()
                options = {"threads": job.threads, "warmup": _WARM_UP, "repeat": repeats[name], "least_ms": _LEAST_MS}
                run = device.run(job.bundle, job.model, job.inputs, **options)
                timings[name].processes.append(run.samples_ms)
                timings[name].load_ms.append(run.load_ms)
                timings[name].first_ms.append(run.warmup_ms[0])
                advance(text=name)
    return timings
