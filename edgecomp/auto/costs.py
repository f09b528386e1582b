"""What a candidate takes of the target: instructions of one inference, and memory.

Predicted from multiply-adds and bytes; a plan that was built and measured then says by how much that is off.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import devices, discover, native
from ..errors import DeviceError
from ..export import HOST_TARGET, write_records
from .candidates import Candidate

RESOURCES = ("instructions", "ram")
# ARM64 instructions per multiply-add (for codes: per product or sum, see `CodeFormat.cost`), those of whole nets in
# docs/runtimes.md.
_INSTRUCTIONS = {"int8": 0.22, "int4": 0.27, "int2": 0.24}
_OF_CODES, _OF_PLAIN = 0.47, 0.43
_COPIES = 2.0  # XNNPACK packs plain weights anew, and keeps both


def takes(candidate: Candidate) -> dict[str, float]:
    """By resource."""
    last = candidate.name.rpartition(":")[2]
    coded = getattr(discover.method(last), "CODES", False) if candidate.method else False
    rate = _INSTRUCTIONS.get(last, _OF_CODES if coded else _OF_PLAIN)
    plain = not coded and last not in _INSTRUCTIONS
    return {
        "bytes": float(candidate.bytes),
        "instructions": rate * candidate.macs,
        "ram": candidate.bytes * (_COPIES if plain else 1.0),
    }


def check(target: str, resources: list[str]) -> None:
    """Refuses limits that could not be measured.

    Raises:
        DeviceError: the emulator is missing, which counts instructions.
    """
    problem = devices.make("qemu", discover.target(target)).missing() if "instructions" in resources else ""
    if problem:
        raise DeviceError(problem.partition(";")[0], f"Run: {problem.partition(';')[2].strip()}")


def measured(resource: str, file: Path, runtime: str, target: str, sample: Tensor) -> float:
    """What one inference of an exported file takes: instructions on the emulated target, or peak memory on the host."""
    with tempfile.TemporaryDirectory() as temporary:
        records, bundle = Path(temporary, "inputs"), Path(temporary, "bundle")
        write_records(records, [sample[:1]])
        if resource == "ram":
            host = native.host_bundle(discover.target(HOST_TARGET), runtime)
            return float(devices.make("host", discover.target(target)).run(host, file, records).peak_rss_bytes)
        native.make_bundle(discover.target(target), runtime, bundle)
        run = devices.make("qemu", discover.target(target)).run(bundle, file, records, threads=1, warmup=1, repeat=3)
        return float(np.median(run.instructions[1:]))
