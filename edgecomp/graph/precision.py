"""Nets in half, bfloat16 or double precision become fp32, which is what runtimes compute in before compression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

OTHERS = (torch.float16, torch.bfloat16, torch.float64)


def other_precision(net: nn.Module) -> str:
    """The dtype of the parameters that are not fp32, like 'bfloat16'; '' if there are none."""
    dtypes = [p.dtype for p in net.parameters() if p.dtype in OTHERS]
    return str(max(set(dtypes), key=dtypes.count)).removeprefix("torch.") if dtypes else ""


def single(x: Tensor) -> Tensor:
    """fp32 in the place of other precisions."""
    return x.float() if x.dtype in OTHERS else x


def to_fp32(module: fx.GraphModule) -> None:
    """Makes every floating-point tensor of a traced graph fp32, those too that operators convert or create."""

    def other(value: Any) -> Any:
        return torch.float32 if isinstance(value, torch.dtype) and value in OTHERS else value

    for node in module.graph.nodes:
        node.args = torch.utils._pytree.tree_map(other, node.args)
        node.kwargs = torch.utils._pytree.tree_map(other, node.kwargs)
    made: dict[int, Tensor] = {}  # what is shared stays shared
    for part in module.modules():
        for owned in (part._parameters, part._buffers):
            for name, tensor in owned.items():
                if tensor is not None and tensor.dtype in OTHERS:
                    owned[name] = made.setdefault(id(tensor), _single(tensor))


def _single(tensor: Tensor) -> Tensor:
    value = tensor.detach().float()
    return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
