"""Palettization, as other toolkits name `kmeans`: weights of 1 to 8 bits that point into a palette.

The palette is that of the whole layer, or of a group of output channels.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from ..fitting.codebooks import Fitting, interface
from ..layers import CodeFormat
from ..records import Knob
from . import kmeans
from .kmeans import CODES, KINDS

__all__ = ["CODES", "KINDS", "Config", "compress", "predict", "refuse"]

CANDIDATES = ()  # kmeans has the same


class Config(Fitting):
    KNOB: ClassVar[Knob] = Knob("bits", (8, 7, 6, 5, 4, 3, 2, 1))
    FINER: ClassVar = ("bits=6", "bits=8")

    bits: int = Field(4, ge=1, le=8, description="Bits of a weight: the palette has 2^bits values.")
    channels: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="Output channels that share a palette: all of the layer, or so many."
    )


def _format(layer: nn.Module, config: Config) -> CodeFormat:
    common = config.model_dump(exclude={"bits", "channels"})
    return kmeans.format_of(layer, kmeans.Config(k=2**config.bits, rows=config.channels, **common))


refuse, predict, compress = interface(_format)
