"""A layer replaced by several smaller ones in a row: plain torch layers, codebook or int8 layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .codebook import CodebookConv2d, CodebookEmbedding, Coded
from .quantized import Quantized, QuantizedConv2d

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
        """The matrix that the parts make together, (m, n) fp32."""
        if isinstance(self[0], (nn.Conv2d, CodebookConv2d, QuantizedConv2d)):
            return self.kernel().permute(0, 2, 3, 1).flatten(1)
        first, second = (_matrix(part) for part in self)
        return first @ second.T if isinstance(self[0], (nn.Embedding, CodebookEmbedding)) else second @ first

    def kernel(self) -> Tensor:
        """The kernel (T, S, h, w) that convolutions in a row make together; no axis is spanned by two of them."""
        first, *others = self
        kernel = _kernel(first)
        if getattr(first, "groups", 1) > 1:  # every input channel has outputs of its own
            kernel = torch.einsum(
                "smhw,sz->smzhw", kernel.unflatten(0, (first.groups, -1))[:, :, 0], torch.eye(first.groups)
            )
            kernel = kernel.flatten(0, 1)
        for part in others:
            own = _kernel(part)
            depthwise = getattr(part, "groups", 1) > 1
            product = torch.einsum(
                "rij,rskl->rsikjl" if depthwise else "trij,rskl->tsikjl", own[:, 0] if depthwise else own, kernel
            )
            kernel = product.flatten(4, 5).flatten(2, 3)
        return kernel


def _describe(part: nn.Module) -> dict[str, Any]:
    if isinstance(part, (Coded, Quantized)):
        return {"class": "Identity", "arguments": {}}
    kind = type(part).__name__
    arguments = {name: getattr(part, name) for name in _ARGUMENTS[kind]}
    if kind != "Embedding":
        arguments["bias"] = part.bias is not None
    return {"class": kind, "arguments": arguments}


def _matrix(part: nn.Module) -> Tensor:
    return part.decode() if isinstance(part, Coded) else part.weight.detach().float()  # type: ignore[operator, union-attr]


def _kernel(part: nn.Module) -> Tensor:
    """(T, S/groups, h, w)."""
    if isinstance(part, CodebookConv2d):
        return part.decode().unflatten(1, (*part.geometry["kernel"], -1)).permute(0, 3, 1, 2)
    return part.weight.detach().float()  # type: ignore[operator, union-attr]
