"""Layers that share a weight but differ in kind, bias or geometry: the weight is coded once and stored once."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .codebook import Coded
from .matrix import coded_layer, has_bias, kind_of, quantized_layer
from .quantized import Arithmetic, Quantized


def own_bytes(others: Iterable[nn.Module], layer: nn.Module) -> int:
    """Bytes of what the others have beside the weight that they share with `layer`: biases."""
    biases = {id(other.bias): other.bias for other in others if has_bias(other)}
    biases.pop(id(getattr(layer, "bias", None)), None)
    return sum(bias.numel() * bias.element_size() for bias in biases.values())


def twin(made: nn.Module, layer: nn.Module) -> nn.Module:
    """What takes the place of `layer` if `made` does that of a layer which shares its weight: with the same tensors
    for it, and the bias and geometry of `layer`."""
    if isinstance(made, Coded):
        tables = made.tables if kind_of(layer) != "embedding" else None
        other: nn.Module = coded_layer(layer, made.format, made.unpacked(), made.words(), made.scale, tables)
        other.may_round = made.may_round
        shared = ("codes", "codebook", "scale")
    elif isinstance(made, Quantized):
        arithmetic = Arithmetic(made.bits, made.static)
        other, shared = quantized_layer(layer, made.matrix(), made.scale, arithmetic), ("codes", "scale")
    else:
        raise TypeError(f"{type(made).__name__} cannot be shared")
    for name in shared:
        setattr(other, name, getattr(made, name))
    return other
