"""Single characters for CharNet: 36 classes (digits and letters, either case), drawn in the fonts matplotlib ships.

They stand in for the photographed ones of Jaderberg et al. (2014): turned, sheared, scaled and moved, with uneven
grounds, either polarity, blur and noise. The fonts of the test split are in no other split.
"""

from __future__ import annotations

import string

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BuildError
from ..records import Data, Split

CLASSES = string.digits + string.ascii_uppercase
SIZE = 24
_GLYPH = 48  # pixels of a glyph before distortion
_TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono"),
    *("DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmmi10", "cmtt10", "cmti10"),
)
_TEST_FONTS = (
    *("DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic", "STIXGeneralBol", "cmss10"),
)


def characters() -> Data:
    """Drawn anew each time, always the same: train (50,000), calibration (10,000) and test (10,000, unseen fonts).

    Pixels are float32 of mean 0 and variance 1 per image, shape (N, 1, 24, 24).

    Raises:
        BuildError: matplotlib, whose fonts are used, is not installed.
    """
    train, test = _Glyphs(_TRAIN_FONTS), _Glyphs(_TEST_FONTS)
    return Data(
        train=Split("characters/train", *train.draw(50_000, seed=1)),
        calibration=Split("characters/calibration", *train.draw(10_000, seed=2)),
        test=Split("characters/test (unseen fonts)", *test.draw(10_000, seed=3)),
        metric="top1",
    )


class _Glyphs:
    """All characters in some fonts, centered, (glyphs, 1, 48, 48) in [0, 1], and their classes (glyphs,)."""

    def __init__(self, fonts: tuple[str, ...]) -> None:
        try:
            from matplotlib import get_data_path
            from PIL import ImageFont
        except ImportError as error:
            raise BuildError(
                f"characters are drawn in matplotlib's fonts: {error}", "pip install matplotlib"
            ) from error
        images, classes = [], []
        for name in fonts:
            font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}.ttf", 40)
            for character in string.digits + string.ascii_letters:
                images.append(_drawn(font, character))
                classes.append(CLASSES.index(character.upper()))
        self.images, self.classes = torch.stack(images), torch.tensor(classes)

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Distorted characters (count, 1, 24, 24), and their classes (count,)."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        parts = [_distorted(self.images[part], generator) for part in chosen.split(5000)]
        return torch.cat(parts), self.classes[chosen]


def _drawn(font: object, character: str) -> Tensor:
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (_GLYPH, _GLYPH))
    ImageDraw.Draw(canvas).text((_GLYPH / 2, _GLYPH / 2), character, fill=255, font=font, anchor="mm")
    return torch.from_numpy(np.array(canvas)).float().div_(255)[None]


def _distorted(glyphs: Tensor, generator: torch.Generator) -> Tensor:
    count = len(glyphs)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    angle, shear, scale = uniform(-0.25, 0.25), uniform(-0.3, 0.3), uniform(0.7, 1.1)
    aspect, move = uniform(0.85, 1.15), uniform(-0.12, 0.12, 2)
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack([cosine * aspect, shear - sine, move[:, 0], sine, cosine, move[:, 1]], 1)
    images = F.grid_sample(
        F.avg_pool2d(glyphs, 3, 1, 1),
        F.affine_grid(rows.view(-1, 2, 3), [count, 1, SIZE, SIZE], False),
        align_corners=False,
    )
    blurred = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    blur = uniform(0, 1, 1, 1, 1)
    ground = F.interpolate(uniform(-0.3, 0.3, 1, 2, 2), size=(SIZE, SIZE), mode="bilinear")
    contrast = uniform(0.5, 1.0, 1, 1, 1) * (2 * (uniform(0, 1, 1, 1, 1) < 0.5) - 1)
    noise = torch.randn(count, 1, SIZE, SIZE, generator=generator) * uniform(0.02, 0.1, 1, 1, 1)
    images = contrast * (blur * blurred + (1 - blur) * images) + ground + noise
    images = images - images.mean((1, 2, 3), keepdim=True)
    return images / images.std((1, 2, 3), keepdim=True)
