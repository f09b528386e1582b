"""Bytes and counts as people write them. MB = 10^6 bytes everywhere."""

import re

from ..errors import UsageError

_MOST = 1e18  # of anything: more would be a typo, or no number that a computer has
_BYTES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(text: str) -> int:
    """'10MB' → 10_000_000. Units: B, kB, MB, GB (powers of ten), KiB, MiB, GiB; none means bytes.

    Raises:
        UsageError: no number, an unknown unit, or less than one byte.
    """
    return round(_parse(text, _BYTES, "a number of bytes", "10MB, 500kB or 1.5MiB", 1))


def parse_ms(text: str) -> float:
    """'5ms' → 5.0, '800us' → 0.8, '1.5s' → 1500.0; none means milliseconds.

    Raises:
        UsageError: no number, an unknown unit, or not more than zero.
    """
    return _parse(text, {"": 1, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3}, "a time", "5ms, 800us or 1.5s")


def parse_count(text: str) -> int:
    """'20M' → 20_000_000. Units: k, M, G.

    Raises:
        UsageError: no number, an unknown unit, or less than one.
    """
    return round(
        _parse(text, {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}, "a number of instructions", "20M, 500k or 1.5G", 1)
    )


def parse_share(text: str) -> float:
    """'5%' → 0.05, '0.05' → 0.05.

    Raises:
        UsageError: no number, or an unknown unit.
    """
    return _parse(text, {"": 1, "%": 0.01}, "a share", "5% or 0.05", 0)


def _parse(text: str, units: dict[str, float], what: str, example: str, least: float = 1e-12) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(\D*?)\s*", text)
    unit = units.get(match.group(2).lower()) if match else None
    value = float(match.group(1)) * unit if match and unit else -1.0
    if not least <= value <= _MOST:
        raise UsageError(f"cannot read {text!r} as {what}", f"Write it like {example}.")
    return value


def format_ms(milliseconds: float) -> str:
    """0.8782 → '0.878 ms'."""
    return f"{milliseconds:.3g} ms" if abs(milliseconds) < 1000 else f"{milliseconds / 1000:.3g} s"


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


def format_score(value: float, unit: str, signed: bool = False) -> str:
    """Of a metric: (90.512, '%') → '90.51 %', (31.2345, 'dB') → '31.23 dB', (0.0123456, '') → '0.01235'."""
    sign = "+" if signed else ""
    return f"{value:{sign}.2f} %" if unit == "%" else f"{value:{sign}.4g} {unit}".strip()


def format_drop(value: float, unit: str, signed: bool = False) -> str:
    """Of a metric: percent are lost in points."""
    sign = "+" if signed else ""
    return f"{value:{sign}.2f} points" if unit == "%" else format_score(value, unit, signed)
