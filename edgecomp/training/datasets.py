"""Data sets of the model zoo. Fashion-MNIST: 60,000 + 10,000 grey 28×28 images of ten kinds of clothing.

Imported without torch and numpy: `edgecomp doctor` asks where the files are, and must not wait for them.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BuildError
from ..records import Data, Split
from ..util.files import cache_folder

if TYPE_CHECKING:
    import numpy as np
    import torch

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_MIRROR = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
_CALIBRATION = 10_000
_REMEDY = (
    "Install Debian's package dataset-fashion-mnist, or set EDGECOMP_FASHION_MNIST to a folder with the four "
    "published .gz files."
)

# SHA-256 of each published .gz, and of what it unpacks to: Debian packs the same bytes anew.
_SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def fashion_mnist() -> Data:
    """Fashion-MNIST with fixed splits; pixels are float32 in [0, 1], shape (N, 1, 28, 28).

    `train` (50,000) and `calibration` (10,000) are a fixed partition of the published training set: what is
    used to fit codes has not been used to train. `test` is the published test set (10,000).

    The files come from the folder `EDGECOMP_FASHION_MNIST`, from Debian's package `dataset-fashion-mnist`, or
    from a download that is checked and kept in the user's cache.

    Raises:
        BuildError: none of the three is there, or a file is not the published one.
    """
    import numpy as np
    import torch

    folder = locate()
    images, labels = _images(folder / "train-images-idx3-ubyte.gz"), _labels(folder / "train-labels-idx1-ubyte.gz")
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(2014)).permutation(len(images)))
    train, calibration = order[_CALIBRATION:], order[:_CALIBRATION]
    test = _images(folder / "t10k-images-idx3-ubyte.gz"), _labels(folder / "t10k-labels-idx1-ubyte.gz")
    return Data(
        train=Split("fashion-mnist/train", images[train], labels[train]),
        calibration=Split("fashion-mnist/calibration", images[calibration], labels[calibration]),
        test=Split("fashion-mnist/test", *test),
        metric="top1",
    )


def locate(download: bool = True) -> Path:
    """The folder with the four files; downloaded if they are nowhere, unless told not to.

    Raises:
        BuildError: they are nowhere.
    """
    named = os.environ.get("EDGECOMP_FASHION_MNIST")
    if named:
        if all((Path(named) / name).is_file() for name in _SHA256):
            return Path(named)
        raise BuildError(f"EDGECOMP_FASHION_MNIST={named} lacks one of {', '.join(_SHA256)}")
    if _DEBIAN.is_dir():
        return _DEBIAN
    cached = cache_folder("fashion-mnist")
    if not download and not all((cached / name).is_file() for name in _SHA256):
        raise BuildError("Fashion-MNIST is not here yet", "It is downloaded when it is needed, or: " + _REMEDY)
    return _download()


def _download() -> Path:
    folder = cache_folder("fashion-mnist")
    try:
        import pooch

        for name, (digest, _) in _SHA256.items():
            pooch.retrieve(_MIRROR + name, known_hash=f"sha256:{digest}", fname=name, path=folder)
    except Exception as error:
        raise BuildError(
            f"Fashion-MNIST is not installed and could not be downloaded ({type(error).__name__}: {error})",
            _REMEDY,
        ) from error
    return folder


def _read(path: Path, header: int) -> np.ndarray:
    try:
        unpacked = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise BuildError(f"cannot read {path}: {error}", "Fetch it again.") from error
    if hashlib.sha256(unpacked).hexdigest() != _SHA256[path.name][1]:
        raise BuildError(f"{path} is not the published file (its contents have another SHA-256)", "Fetch it again.")
    import numpy as np

    return np.frombuffer(unpacked, np.uint8, offset=header)


def _images(path: Path) -> torch.Tensor:
    import torch

    pixels = _read(path, header=16).reshape(-1, 1, 28, 28)
    return torch.from_numpy(pixels.copy()).float().div_(255)


def _labels(path: Path) -> torch.Tensor:
    import torch

    return torch.from_numpy(_read(path, header=8).copy()).long()
