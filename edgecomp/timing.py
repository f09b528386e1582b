"""Times files on this machine, in turns: what disturbs one of them for a while disturbs the others as well."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import progress
from .devices.host import Host

_WARM_UP = 5


@dataclass(frozen=True)
class Job:
    """A model file, the bundle that runs it, the file of its inputs, and how many threads it may use."""

    bundle: Path
    model: Path
    inputs: Path
    threads: int = 1


@dataclass
class Timing:
    """Raw samples of one inference and of loading, milliseconds; peak_rss_bytes of a process that ran it once."""

    samples_ms: list[float] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0

    @property
    def p50_ms(self) -> float:
        return float(np.median(self.samples_ms))


def in_turns(
    jobs: dict[str, Job],
    rounds: int = 5,
    seconds: float = 1.0,
    most: int = 200,
    found: dict[str, Timing] | None = None,
) -> dict[str, Timing]:
    """Runs all jobs, one after the other in each round.

    Args:
        seconds: that one round of one job should take, so far as 20 to `most` inferences allow.
        found: what is returned, filled round by round: an interrupt leaves there what has been measured until then.

    Raises:
        DeviceError: a program dies.
    """
    host, repeats = Host(), {}
    found = {} if found is None else found
    found.update({name: Timing() for name in jobs})
    with progress.bar("timing on the host", rounds * len(jobs)) as advance:
        for name, job in jobs.items():
            files, threads = (job.bundle, job.model, job.inputs), job.threads
            run = host.run(*files, threads=threads, warmup=3, repeat=5)
            repeats[name] = int(np.clip(1000 * seconds / min(run.samples_ms), 20, most))
            found[name].peak_rss_bytes = host.run(*files, threads=threads).peak_rss_bytes
        for _ in range(rounds):
            for name, job in jobs.items():
                options = {"threads": job.threads, "warmup": _WARM_UP, "repeat": repeats[name]}
                run = host.run(job.bundle, job.model, job.inputs, **options)
                found[name].samples_ms += run.samples_ms
                found[name].load_ms.append(run.load_ms)
                advance(text=name)
    return found
