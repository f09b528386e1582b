"""Plain layers by their numbers of channels: what they are, and the same layer with other channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def channels_of(layer: nn.Module) -> list[int] | None:
    """[outputs, inputs, groups] of a layer whose channels can be cut; None for others."""
    if isinstance(layer, nn.Conv2d):
        return [layer.out_channels, layer.in_channels, layer.groups]
    if isinstance(layer, nn.Linear):
        return [layer.out_features, layer.in_features, 1]
    if isinstance(layer, _BatchNorm):
        return [layer.num_features, layer.num_features, 1]
    return None


def set_channels(layer: nn.Module, outputs: int, inputs: int, groups: int) -> None:
    """Gives a layer, in place, these channels; its weights are those of the first ones, zero where there were none."""
    out, into = torch.arange(outputs), torch.arange(inputs)
    before = channels_of(layer)
    assert before is not None
    if outputs > before[0] or inputs > before[1]:
        raise ValueError(f"{outputs} and {inputs} channels for a layer of {before[0]} and {before[1]}")
    cut(layer, out, into, groups)


def cut(layer: nn.Module, outputs: Tensor, inputs: Tensor, groups: int) -> None:
    """Keeps, in place, only these channels (ascending int64) of a layer, and so many groups of a convolution.

    Within every group of a convolution the same inputs are kept; of a depthwise one, or a norm, `outputs` are both.
    """
    if isinstance(layer, nn.Conv2d):
        per_group = layer.in_channels // layer.groups
        within = torch.arange(per_group) if groups != layer.groups else inputs[: len(inputs) // groups]
        layer.weight = nn.Parameter(layer.weight.detach()[outputs][:, within].clone())
        layer.out_channels, layer.in_channels, layer.groups = len(outputs), len(inputs), groups
    elif isinstance(layer, nn.Linear):
        layer.weight = nn.Parameter(layer.weight.detach()[outputs][:, inputs].clone())
        layer.out_features, layer.in_features = len(outputs), len(inputs)
    elif isinstance(layer, _BatchNorm):
        layer.num_features = len(outputs)
        for name in ("running_mean", "running_var"):
            if getattr(layer, name) is not None:
                setattr(layer, name, getattr(layer, name)[outputs].clone())
        if layer.weight is not None:
            layer.weight = nn.Parameter(layer.weight.detach()[outputs].clone())
    if getattr(layer, "bias", None) is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[outputs].clone())
