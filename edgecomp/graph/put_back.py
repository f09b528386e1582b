"""Decoded weights put back into the user's own module: what the proof of a file compares with.

A canonical layer's weight is a parameter of the module, or what a batch norm behind it made of that, row by row. Which
it is shows in the numbers; nothing is taken on trust from the way the net was rebuilt.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..layers.builtin import Builtin
from ..layers.matrix import bias_of, set_weight_matrix
from .batches import Tensors, joined, records
from .given import Given
from .net import CanonicalNet
from .precision import other_precision, single

_SAME = 1e-4


def decoded_parameters(given: Given, original: CanonicalNet, made: nn.Module) -> dict[str, Tensor] | None:
    """Parameters that make the user's module compute what the compressed net does; None if there are none such.

    Args:
        original: the canonical net. made: a copy in which some layers are codes.
    """
    if other_precision(given):  # decoded weights would be rounded
        return None
    known = {name: p.detach() for name, p in given.module.named_parameters(remove_duplicate=False)}
    values: dict[str, Tensor] = {}
    for name, layer in original.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
            continue
        replacement = made.get_submodule(name)
        if isinstance(replacement, type(layer)):
            if not torch.equal(replacement.weight, layer.weight) or not _equal(replacement.bias, layer.bias):
                return None
            continue
        if any(isinstance(part, Builtin) for part in replacement.modules()):  # its runtime's operators decode, not we
            return None
        new = _put(known, original.sources.get(name, ("", "", "")), layer, replacement)
        if new is None or any(key in values and not torch.equal(values[key], value) for key, value in new.items()):
            return None
        values |= new
    return values


@torch.no_grad()
def outputs_with(given: Given, parameters: dict[str, Tensor], inputs: Tensors, batch: int) -> Tensors:
    """What the module gives for samples with these parameters in the place of its own."""
    own = {f"module.{name}": tensor for name, tensor in parameters.items()}
    parts = [functional_call(given, own, tuple(x.clone() for x in record)) for record in records(inputs, batch)]
    return tuple(joined([single(x) for x in same], batch, len(inputs[0])) for same in zip(*parts, strict=True))


@torch.no_grad()
def _put(
    known: dict[str, Tensor], source: tuple[str, str, str], layer: nn.Module, replacement: nn.Module
) -> dict[str, Tensor] | None:
    """The parameters behind one layer, as its replacement means them.

    Args:
        source: names of the parameters that weight and bias come from, and of the shift of a folded norm; '' for none.
    """
    weight_name, bias_name, shift_name = source
    weight = known.get(weight_name)
    if weight is None or weight.numel() != layer.weight.numel():
        return None
    plain = copy.deepcopy(layer)
    set_weight_matrix(plain, replacement.decode())
    values = {}
    for turned in (False, True):
        own = (weight.T if turned and weight.dim() == 2 else weight).reshape(layer.weight.shape).flatten(1)
        old, new = layer.weight.flatten(1), plain.weight.flatten(1)
        scale = ((own * old).sum(1) / own.square().sum(1).clamp(min=1e-30))[:, None]
        if (scale * own - old).norm() <= _SAME * old.norm() and scale.abs().min() > 0:
            matrix = (new / scale).reshape(weight.T.shape if turned else weight.shape)
            values[weight_name] = matrix.T if turned else matrix
            break
    else:
        return None
    before, after = getattr(layer, "bias", None), bias_of(replacement) if hasattr(layer, "bias") else None
    if _equal(before, after):
        return values
    target = shift_name or bias_name
    if before is None or after is None or target not in known or known[target].shape != before.shape:
        return None
    return values | {target: known[target] + (after - before)}


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
