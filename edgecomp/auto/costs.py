"""What a candidate takes of the target: bytes of the file, instructions of one inference, and memory.

Predicted; a plan that was built and measured then says by how much that is off.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import devices, discover
from ..devices.bundle import host_bundle, make_bundle
from ..export import HOST_TARGET, write_records
from ..records import Limits
from .candidates import Candidate

# ARM64 instructions per multiply-add (for codes: per product or sum, see `CodeFormat.cost`), of zfnet's layers; where
# they are limited, `single` counts those of every layer.
_DENSE = {"int8": 0.18, "int4": 0.27, "int2": 0.24, "codes": 0.6, "plain": 0.43}
_CONV = {"int8": 0.1, "codes": 1.2, "plain": 0.34}
_COPIES = 2.0  # XNNPACK packs plain weights anew, and keeps both


def takes(candidate: Candidate, kind: str, instructions_per_mac: float | None = None) -> dict[str, float]:
    """By resource.

    Args:
        kind: of its layers.
    """
    last = candidate.name.rpartition(":")[2]
    coded = candidate.method is not None and getattr(discover.method(last), "CODES", False)
    rates = _CONV if kind == "conv" else _DENSE
    arithmetic = last if last in rates else "codes" if coded else "plain"
    return {
        "bytes": float(candidate.size),
        "instructions": (instructions_per_mac or rates[arithmetic]) * candidate.macs,
        "ram": candidate.bytes * (_COPIES if arithmetic == "plain" else 1.0),
    }


def limits(stated: Limits) -> dict[str, float]:
    """Those of a request that plans differ in, by resource."""
    found = {"instructions": stated.instructions, "ram": stated.ram_bytes}
    return {resource: float(limit) for resource, limit in found.items() if limit is not None}


def measured(file: Path, runtime: str, target: str, sample: Tensor, emulated: bool) -> dict[str, float]:
    """What one inference of an exported file takes on the emulated target, by resource; on the host, memory alone.
    Memory is what the model adds to the program."""
    with tempfile.TemporaryDirectory() as temporary:
        records, bundle = Path(temporary, "inputs"), Path(temporary, "bundle")
        write_records(records, [sample[:1]])
        if not emulated:
            host = host_bundle(discover.target(HOST_TARGET), runtime)
            device = devices.make("host", discover.target(target))
            return {"ram": float(device.run(host, file, records).peak_rss_bytes - device.empty_rss_bytes(host))}
        make_bundle(discover.target(target), runtime, bundle)
        device = devices.make("qemu", discover.target(target))
        run = device.run(bundle, file, records, threads=1, warmup=1, repeat=3)
        added = run.peak_rss_bytes - device.empty_rss_bytes(bundle)
        return {"ram": float(added), "instructions": float(np.median(run.instructions[1:]))}
