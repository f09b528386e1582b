"""A layer replaced by several smaller ones in a row: plain torch layers or codebook layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .codebook import CodebookEmbedding, Coded

_ARGUMENTS = {
    "Linear": ("in_features", "out_features"),
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    "Embedding": ("num_embeddings", "embedding_dim"),
}


class Factored(nn.Sequential):
    """What a factorization makes of a layer."""

    def structure(self) -> dict[str, Any]:
        """Arguments that build empty plain parts, for the checkpoint; coded parts have an entry of their own."""
        return {"parts": [_describe(part) for part in self]}

    @classmethod
    def from_structure(cls, structure: dict[str, Any]) -> Factored:
        return cls(*(getattr(nn, part["class"])(**part["arguments"]) for part in structure["parts"]))

    def decode(self) -> Tensor:
        """The matrix that two parts make together, (m, n) fp32."""
        first, second = (_matrix(part) for part in self)
        return first @ second.T if isinstance(self[0], (nn.Embedding, CodebookEmbedding)) else second @ first


def _describe(part: nn.Module) -> dict[str, Any]:
    if isinstance(part, Coded):
        return {"class": "Identity", "arguments": {}}
    kind = type(part).__name__
    arguments = {name: getattr(part, name) for name in _ARGUMENTS[kind]}
    if kind != "Embedding":
        arguments["bias"] = part.bias is not None
    return {"class": kind, "arguments": arguments}


def _matrix(part: nn.Module) -> Tensor:
    if isinstance(part, Coded):
        return part.decode()
    weight = part.weight.detach().float()  # type: ignore[union-attr, operator]
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.dim() == 4 else weight
