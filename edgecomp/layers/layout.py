"""How the weights of convolutions lie in memory: channels last is faster here, for nets whose operators bear it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def channels_last(net: nn.Module) -> nn.Module:
    """Lays out the weights of two-dimensional convolutions with channels last, in place."""
    return _laid_out(net, torch.channels_last)


def contiguous(net: nn.Module) -> nn.Module:
    """The reverse."""
    return _laid_out(net, torch.contiguous_format)


def laid_out(x: Tensor) -> Tensor:
    """Inputs in the layout that convolutions want."""
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)


def _laid_out(net: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=memory_format)
    return net
