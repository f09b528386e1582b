"""Decoders of a build's download in one run: ours against those of zlib and zstd, on one thread.

    python benchmarks/download.py DIR [--rounds 15]

DIR is the folder of a build. Prints what each makes of the model file, how fast it decodes (megabytes of the model a
second of the thread's own time, median and best of the rounds, in turns), and the memory that ours takes. Needs g++,
the header of zlib (zlib1g-dev), and the program and library of zstd.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np

from edgecomp.devices import download

SOURCE = Path(__file__).with_suffix(".cc")
DECODER = SOURCE.parents[1] / "targets" / "download"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("folder", type=Path, metavar="DIR")
    options.add_argument("--rounds", type=int, default=15)
    asked = options.parse_args()
    container = asked.folder / download.NAME
    file = next(path for path in asked.folder.glob("model.*") if path.suffix in (".pte", ".tflite"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = folder / "program"
        sources = [SOURCE, DECODER / "decode.cc", DECODER / "inflate.cc"]
        subprocess.run(["g++", "-O3", "-std=c++17", *sources, "-lz", "-ldl", "-o", program], check=True)
        (folder / "deflated").write_bytes(zlib.compress(file.read_bytes(), 9))
        subprocess.run(["zstd", "-q", "-19", file, "-o", folder / "zstd"], check=True)
        downloads = [container, folder / "deflated", folder / "zstd"]
        size = file.stat().st_size
        timed = subprocess.run(
            [program, *downloads, str(size), str(asked.rounds)], capture_output=True, text=True, check=True
        )
        sizes = [path.stat().st_size for path in downloads]
        memory = subprocess.run([program, container], capture_output=True, text=True, check=True).stdout.strip()
    seconds = np.array([line.split() for line in timed.stdout.splitlines()], float)
    print(f"{file}: {size:,} bytes")
    print("| decoder | download, bytes | of the file | MB/s, median | best |\n|---|---:|---:|---:|---:|")
    for name, bytes_, times in zip(("edgecomp", "zlib -9", "zstd -19"), sizes, seconds.T, strict=True):
        rates = size / times / 1e6
        print(f"| {name} | {bytes_:,} | {bytes_ / size:.3f} | {np.median(rates):.0f} | {rates.max():.0f} |")
    print(f"memory that decoding adds: {memory} kB")


if __name__ == "__main__":
    main()
