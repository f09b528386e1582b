"""Scalar k-means: every weight is one of k values (Gong et al. 2014, §3.2.2).

The values are fitted to all weights of the layer, or of a group of its rows. With calibration inputs a weight counts
as much as its input, and rounding errors are fed back (docs/methods.md §1; see `codebooks`).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from ..fitting.codebooks import Fitting, interface
from ..layers import CodeFormat
from ..layers.matrix import weight_matrix
from ..records import Knob

KINDS = ("dense", "conv", "embedding")
CODES = True
CANDIDATES = ("k=2", "k=4", "k=8", "k=16", "k=64", "k=256")


class Config(Fitting):
    KNOB: ClassVar[Knob] = Knob("k", (256, 128, 64, 32, 16, 8, 4, 2))
    FINER: ClassVar = ("k=64", "k=256")

    k: int = Field(16, ge=2, le=256, description="Values that a weight can have; it takes ⌈log2 k⌉ bits.")
    rows: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        "all", description="Rows that share k values: all of the layer, or so many."
    )


def format_of(layer: nn.Module, config: Config) -> CodeFormat:
    """Segments of one weight: seen along the rows for one codebook, down the columns for one per group of rows."""
    rows, columns = weight_matrix(layer).shape
    half, axis = config.codebook_dtype == "float16", 0 if config.rows == "all" else 1
    form = CodeFormat(rows=rows, columns=columns, k=config.k, s=1, axis=axis, half=half)
    return form.shared("shared" if config.rows == "all" else config.rows)


refuse, predict, compress = interface(format_of)
