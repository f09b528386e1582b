"""What compressed networks are made of beside plain torch layers."""

from .codebook import CodebookConv2d, CodebookEmbedding, CodebookLinear, CodeFormat
from .factored import Factored
from .quantized import QuantizedConv2d, QuantizedLinear

__all__ = [
    "CodeFormat",
    "CodebookConv2d",
    "CodebookEmbedding",
    "CodebookLinear",
    "Factored",
    "QuantizedConv2d",
    "QuantizedLinear",
]
