"""Whether programs and libraries fit pages of 16 KB, which Android 15 and later may have."""

import subprocess
from pathlib import Path


def require_pages_of_16_kilobytes(path: Path) -> None:
    """All that is loaded of an ELF file is aligned to 16 KB or more."""
    segments = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    alignments = [int(line.split()[-1], 16) for line in segments.splitlines() if line.strip().startswith("LOAD")]
    assert alignments and min(alignments) >= 0x4000, f"{path}: {[hex(size) for size in alignments]}"
