"""What a candidate takes of the target besides bytes: instructions of one inference, and memory."""

from __future__ import annotations

from torch import nn

from .candidates import Candidate


def takes(candidate: Candidate, net: nn.Module) -> dict[str, float]:
    """By resource."""
    return {
        "bytes": float(candidate.bytes),
        "instructions": float(candidate.macs),
        # XNNPACK packs plain weights anew and keeps both; codes are read where they are.
        "ram": candidate.bytes * (2.0 if candidate.method is None else 1.0),
    }
