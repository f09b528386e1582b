"""What this machine is."""

from __future__ import annotations

from pathlib import Path


def processor() -> str:
    """Its name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
