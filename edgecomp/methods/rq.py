"""Residual quantization: a segment is the sum of t codewords, each coding a residual (Gong et al. 2014, §3.2.4).

The paper codes whole rows; here, as there for long rows, blocks of s columns. With calibration inputs the stages are
fitted again to what the others leave, in the metric of the inputs (docs/methods.md §1; see `codebooks`).
"""

from typing import ClassVar

from pydantic import Field
from torch import nn

from ..fitting.codebooks import Codebooks, Codewords, Fitting, SegmentLength, interface
from ..layers import CodeFormat
from ..layers.matrix import weight_matrix
from ..records import Knob

KINDS = ("dense", "embedding")
CODES = True
CANDIDATES = ("s=4 t=2", "s=8 t=2", "s=16 t=2")


class Config(Fitting):
    KNOB: ClassVar[Knob] = Knob("s", tuple(range(1, 65)))
    FINER: ClassVar = ("s=2 k=64 codebooks=shared", "s=2 k=256 codebooks=shared")

    k: Codewords = 16
    s: SegmentLength = 8
    t: int = Field(2, ge=1, le=16, description="Stages: codewords that add up to a segment, of a codebook each.")
    codebooks: Codebooks = "own"


def _format(layer: nn.Module, config: Config) -> CodeFormat:
    rows, columns = weight_matrix(layer).shape
    half = config.codebook_dtype == "float16"
    return CodeFormat(rows=rows, columns=columns, k=config.k, s=config.s, stages=config.t, half=half).shared(
        config.codebooks
    )


refuse, predict, compress = interface(_format)
