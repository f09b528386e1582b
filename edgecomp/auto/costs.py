"""What a candidate takes of the target: bytes of the file, instructions of one inference, and memory.

Predicted; a plan that was built and measured then says by how much that is off.
"""

from __future__ import annotations

from .. import discover
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
    last = candidate.methods[-1] if candidate.methods else ""
    coded = bool(last) and getattr(discover.method(last), "CODES", False)
    rates = _CONV if kind == "conv" else _DENSE
    arithmetic = last if last in rates else "codes" if coded else "plain"
    return {
        "bytes": float(candidate.size),
        "instructions": (instructions_per_mac or rates[arithmetic]) * candidate.macs,
        "ram": candidate.bytes * (_COPIES if arithmetic == "plain" else 1.0),
    }


def limits(stated: Limits) -> dict[str, float]:
    """Those of a request that plans differ in, by resource."""
    by_resource = {"instructions": stated.instructions, "ram": stated.ram_bytes}
    return {resource: float(limit) for resource, limit in by_resource.items() if limit is not None}
