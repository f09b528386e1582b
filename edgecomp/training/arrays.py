"""Samples in a folder of `.npy` files, one for each input of a model: to calibrate with, without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import BuildError, UsageError
from ..records import Data, Split
from .splits import checked

_ENOUGH = 20  # samples, to keep some from calibration
_REMEDY = "Write one with numpy.save for every input: (N, …), N samples of it."


def folder_data(folder: Path, examples: tuple[Tensor, ...], names: tuple[str, ...], source: str) -> Data:
    """`Data` without targets and without anything to train on. Of 20 samples and more the last tenth is for tests: how
    outputs agree on samples that codes were fitted to says little. Of fewer all are for both.

    Files are taken by the names of the inputs, `images.npy`, where all are there, else in the order of their own names.

    Args:
        examples, names: of the model's inputs; no names where they have none. source: the model, for messages.

    Raises:
        UsageError: there are not as many files as inputs.
        BuildError: a file cannot be read, or its samples do not fit the input.
    """
    paths = _paths(folder, names, len(examples), source)
    wanted = names or tuple(f"input {i + 1}" for i in range(len(examples)))
    titles = tuple(f"{path.name} for {name}" for path, name in zip(paths, wanted, strict=True))
    given = Split(folder.name, dict(zip(titles, map(_read, paths), strict=True)))  # type: ignore[arg-type]
    samples = checked(given, examples, titles, str(folder), source)
    kept = len(samples) - (len(samples) // 10 if len(samples) >= _ENOUGH else 0)
    test = samples if kept == len(samples) else samples.part(slice(kept, None), f"{folder.name}, held out")
    return Data(train=samples.first(0), calibration=samples.first(kept), test=test)


def _paths(folder: Path, names: tuple[str, ...], count: int, source: str) -> list[Path]:
    """The files, in the order of the inputs."""
    there = sorted(folder.glob("*.npy"))
    wanted = f"{count} input{'s' if count > 1 else ''}" + (f" ({', '.join(names)})" if names else "")
    if len(there) != count:
        listed = ", ".join(path.name for path in there) or "none"
        raise UsageError(f"{folder} has {len(there)} .npy files ({listed}), {source} takes {wanted}", _REMEDY)
    by_name = {path.stem: path for path in there}
    named = [name for name in names if name in by_name]
    if named and len(named) < count:
        missing = ", ".join(f"{name}.npy" for name in names if name not in by_name)
        raise UsageError(f"{folder} has {named[0]}.npy, but no {missing}; {source} takes {wanted}", _REMEDY)
    return [by_name[name] for name in names] if named else there


def _read(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BuildError(f"{path} cannot be read: {error}", _REMEDY) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise BuildError(f"{path} holds {getattr(array, 'dtype', 'no array')}, not numbers", _REMEDY)
    if array.dtype.newbyteorder("=") != array.dtype:
        array = array.astype(array.dtype.newbyteorder("="))
    return array
