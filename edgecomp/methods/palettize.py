"""Palettization, as other toolkits name `kmeans`: weights of 1 to 8 bits that point into a palette.

The palette is that of the whole layer, or of a group of output channels.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from ..calibration import Inputs
from ..coding import Fitting
from ..records import Cost
from . import kmeans
from .kmeans import CODES, KINDS

__all__ = ["CODES", "KINDS", "Config", "compress", "predict", "refuse"]


class Config(Fitting):
    """bits: of a weight. channels: share a palette; all output channels of the layer (`all`), or so many."""

    bits: int = Field(4, ge=1, le=8)
    channels: Literal["all"] | Annotated[int, Field(ge=1)] = "all"


def refuse(layer: nn.Module, config: Config) -> str:
    return kmeans.refuse(layer, _as_kmeans(config))


def predict(layer: nn.Module, config: Config) -> Cost:
    return kmeans.predict(layer, _as_kmeans(config))


def compress(layer: nn.Module, config: Config, inputs: Inputs | None, seed: int) -> nn.Module:
    return kmeans.compress(layer, _as_kmeans(config), inputs, seed)


def _as_kmeans(config: Config) -> kmeans.Config:
    common = config.model_dump(exclude={"bits", "channels"})
    return kmeans.Config(k=2**config.bits, rows=config.channels, **common)
