"""Product quantization: segments of s neighbouring weights share k codewords (Gong et al. 2014, §3.2.3).

W is cut into blocks of s columns (axis x) or s rows (axis y); the pieces of a block are clustered by k-means and each
is stored as the number of its codeword. With calibration inputs the clusters minimise the error of the layer's outputs
(docs/methods.md §1; see `codebooks`).
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from ..fitting.codebooks import Codebooks, Codewords, Fitting, SegmentLength, interface
from ..fitting.error_feedback import Passes
from ..layers import CodeFormat
from ..layers.matrix import weight_matrix
from ..records import Knob

KINDS = ("dense", "embedding")
CODES = True
CANDIDATES = (
    *("s=2", "s=3", "s=4", "s=5", "s=6", "s=8", "s=10", "s=12", "s=16"),
    *("s=2 codebooks=shared", "s=3 codebooks=shared", "s=4 codebooks=shared", "s=8 codebooks=shared"),
)


class Config(Fitting):
    KNOB: ClassVar[Knob] = Knob("s", tuple(range(1, 65)))
    FINER: ClassVar = ("s=2 k=256 codebooks=shared", "s=1 k=256 codebooks=shared")

    k: Codewords = 16
    s: SegmentLength = 4
    axis: Literal["x", "y"] = Field("x", description="Segments run along the inputs (x) or the outputs (y).")
    passes: Passes = 0
    codebooks: Codebooks = "own"


def _format(layer: nn.Module, config: Config) -> CodeFormat:
    rows, columns = weight_matrix(layer).shape
    axis, half = (0 if config.axis == "x" else 1), config.codebook_dtype == "float16"
    form = CodeFormat(rows=rows, columns=columns, k=config.k, s=config.s, axis=axis, half=half)
    return form.shared(config.codebooks)


refuse, predict, compress = interface(_format)
