"""What compressed networks are made of beside plain torch layers."""

from .codebook import CodebookConv2d, CodebookLinear, CodeFormat

__all__ = ["CodeFormat", "CodebookConv2d", "CodebookLinear"]
