"""Decoders of a download in one run: ours against those of zlib and zstd, on one thread.

    python benchmarks/download.py [DIR…] [--rounds 15]

DIR is the folder of a build; without one, codes of 1 to 8 bits whose frequencies fall by a factor of 20 are packed as
layers keep them. Prints what each makes of the file, how fast it decodes (megabytes of the file a second of the
thread's own time, median of the rounds, in turns), and the memory that ours takes. Needs g++, the header of zlib
(zlib1g-dev), and the program and library of zstd.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch

from edgecomp.devices import download
from edgecomp.layers.packing import pack

SOURCE = Path(__file__).with_suffix(".cc")
DECODER = SOURCE.parents[1] / "targets" / "download"
BLOCKS, LANES, TILE = 1000, 4096, 128


def rivals(program: Path, file: Path, container: Path, folder: Path, rounds: int) -> str:
    """A row of the table for each decoder."""
    deflated, packed = folder / "deflated", folder / "zstd"
    deflated.write_bytes(zlib.compress(file.read_bytes(), 9))
    subprocess.run(["zstd", "-q", "-f", "-19", file, "-o", packed], check=True)
    downloads, size = [container, deflated, packed], file.stat().st_size
    timed = _output([program, *downloads, size, rounds])
    seconds = np.median(np.array([line.split() for line in timed.splitlines()], float), axis=0)
    memory = [_output([program, container]).strip(), "", ""]
    rows, names = [], ("edgecomp", "zlib -9", "zstd -19")
    for name, path, time, kilobytes in zip(names, downloads, seconds, memory, strict=True):
        bytes_ = path.stat().st_size
        rows.append(f"| {name} | {bytes_:,} | {bytes_ / size:.3f} | {size / time / 1e6:.0f} | {kilobytes} |")
    return "\n".join(rows)


def codes(bits: int, folder: Path) -> tuple[Path, Path]:
    """A file of packed codes, and its container."""
    chances = 0.05 ** (np.arange(1 << bits) / (1 << bits))
    drawn = np.random.default_rng(0).choice(1 << bits, (1, BLOCKS, LANES), p=chances / chances.sum())
    file, container = folder / "codes.pte", folder / download.NAME
    file.write_bytes(pack(torch.from_numpy(drawn.astype(np.uint8)), bits, TILE).numpy().tobytes())
    download.pack(file, container, [download.Tensor(file.read_bytes(), bits, TILE, BLOCKS)])
    return file, container


def _output(command: list[object]) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("folders", type=Path, metavar="DIR", nargs="*")
    options.add_argument("--rounds", type=int, default=15)
    asked = options.parse_args()
    title = "| decoder | download, bytes | of the file | MB/s | kB of memory |\n|---|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = folder / "program"
        sources = [SOURCE, DECODER / "decode.cc", DECODER / "inflate.cc"]
        subprocess.run(["g++", "-O3", "-std=c++17", *sources, "-lz", "-ldl", "-o", program], check=True)
        for build in asked.folders:
            file = next(path for path in build.glob("model.*") if path.suffix in (".pte", ".tflite"))
            table = rivals(program, file, build / download.NAME, folder, asked.rounds)
            print(f"{file}, {file.stat().st_size:,} bytes\n{title}\n{table}\n")
        for bits in range(1, 9) if not asked.folders else ():
            file, container = codes(bits, folder)
            table = rivals(program, file, container, folder, asked.rounds)
            print(f"codes of {bits} bits, {file.stat().st_size:,} bytes\n{title}\n{table}\n")


if __name__ == "__main__":
    main()
