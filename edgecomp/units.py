"""Bytes and counts as people write them. MB = 10^6 bytes everywhere."""

import re

from .errors import UsageError

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """'10MB' → 10_000_000. Units: B, kB, MB, GB (powers of ten), KiB, MiB, GiB; none means bytes.

    Raises:
        UsageError: no number, an unknown unit, or not more than zero bytes.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _BYTES.get((match.group(2) or "B").upper()) if match else None
    size = int(float(match.group(1)) * unit) if unit else 0
    if size <= 0:
        raise UsageError(f"cannot read {text!r} as a number of bytes", "Write it like 10MB, 500kB or 1.5MiB.")
    return size


def format_bytes(size: float) -> str:
    """9_131_072 → '9.13 MB'."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(size) >= unit:
            return f"{size / unit:.2f} {name}" if abs(size) < 100 * unit else f"{size / unit:.0f} {name}"
    return f"{size:.0f} B"


def format_count(count: float) -> str:
    """14_200_000 → '14.2 M'."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f}"
