"""What compressed networks are made of beside plain torch layers."""

from .codebook import CodebookConv2d, CodebookEmbedding, CodebookLinear, CodeFormat
from .factored import Factored

__all__ = ["CodeFormat", "CodebookConv2d", "CodebookEmbedding", "CodebookLinear", "Factored"]
