"""How long nets take on this machine, asked before anything is decided: for wishes about time."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from . import discover, native, progress, timing

_HOST = "linux-x86_64"
_ROUNDS, _SECONDS = 3, 0.2


def timer(runtime: str, before: nn.Module, example_inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], float]:
    """What says how much of the time of `before` another net takes, both exported and run in turns, one thread."""
    return functools.partial(_share, runtime, before, example_inputs)


def _share(runtime: str, before: nn.Module, example_inputs: tuple[Tensor, ...], net: nn.Module) -> float:
    own = discover.runtime(runtime)
    bundle = native.host_bundle(discover.target(_HOST), runtime)
    with tempfile.TemporaryDirectory() as temporary:
        inputs = Path(temporary, "inputs")
        inputs.write_bytes(b"".join(x.contiguous().numpy().tobytes() for x in example_inputs))
        jobs = {}
        for name, one in (("original", before), ("pruned", net)):
            path = Path(temporary, name).with_suffix(own.SUFFIX)
            own.export(one, example_inputs, path)
            jobs[name] = timing.Job(bundle, path, inputs)
        found = timing.in_turns(jobs, _ROUNDS, _SECONDS, most=2000)
    share = found["pruned"].p50_ms / found["original"].p50_ms
    progress.note(f"{found['pruned'].p50_ms:.3g} ms of {found['original'].p50_ms:.3g} ms: {100 * share:.0f} %")
    return share
