"""Crops of photographs, for nets that were trained on such: inputs without labels, for the original is the teacher."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..errors import BuildError
from ..records import Data, Split

FOLDER = "EDGECOMP_PHOTOGRAPHS"
_DEFAULT = "/usr/share/backgrounds"  # what Debian's packages of wallpapers install
_LEAST = 8  # photographs
_SMALLEST = 0.3  # side of a crop, of the shorter side
_TESTED = 0.4  # of the photographs


def photographs(
    size: int, crops: int = 20, tested: int = 60, seed: int = 0, mean: float = 0.0, std: float = 1.0
) -> Data:
    """Square crops, mirrored at random; no photograph of the test split is in another. The metric is `agreement` with
    the original.

    Args:
        size: pixels of a side. crops: of each photograph; tested: of each in the test split.
        mean, std: subtracted from pixels in [0, 1], divided by.

    Returns:
        Splits of (N, 3, size, size) float32 without targets.

    Raises:
        BuildError: there are fewer than eight photographs in the folder that EDGECOMP_PHOTOGRAPHS names.
    """
    files = _files(Path(os.environ.get(FOLDER, _DEFAULT)))
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(files))
    first = round(_TESTED * len(files))
    splits = {}
    for name, photos in (("train", order[first:]), ("calibration", order[first:]), ("test", order[:first])):
        count = tested if name == "test" else crops
        pixels = np.concatenate([_crops(files[i], size, count, chance) for i in photos])
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        inputs.div_(255).sub_(mean).div_(std)
        splits[name] = Split(f"photographs/{name} ({len(photos)})", inputs, None)
    return Data(**splits, metric="agreement")


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    files = [path for path in files if path.is_file() and not path.is_symlink()]
    if len(files) < _LEAST:
        raise BuildError(
            f"{folder} holds {len(files)} photographs (.jpg, .png), {_LEAST} are needed",
            f"Set {FOLDER} to a folder of photographs, or: sudo apt-get install mate-backgrounds ukui-wallpapers",
        )
    return files


def _crops(path: Path, size: int, crops: int, chance: np.random.Generator) -> np.ndarray:
    """(crops, size, size, 3) uint8."""
    from PIL import Image

    with Image.open(path) as file:
        scale = size / _SMALLEST / min(file.size)  # crops are cut from a photograph that is no larger than they need
        if scale < 1:
            file.thumbnail(tuple(round(scale * length) for length in file.size), Image.Resampling.BICUBIC)
        image = file.convert("RGB")
    shortest = min(image.size)
    made = np.empty((crops, size, size, 3), np.uint8)
    for i in range(crops):
        side = int(min(shortest, max(size, shortest * chance.uniform(_SMALLEST, 1.0))))
        left, top = (int(chance.integers(0, length - side + 1)) for length in image.size)
        crop = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        made[i] = np.asarray(crop)[:, :: -1 if chance.random() < 0.5 else 1]
    return made
