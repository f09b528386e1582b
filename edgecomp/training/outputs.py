"""Outputs of nets: computed in batches, flattened, and how far they are from others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def flat_output(outputs: Any) -> Tensor:
    """The first output of a torch module as (N, values)."""
    return (outputs[0] if isinstance(outputs, (tuple, list)) else outputs).flatten(1)


def predict(net: nn.Module, inputs: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """Outputs of `net` in evaluation mode, on the device the net is on, returned on the CPU."""
    device = next(net.parameters()).device
    training = net.training
    net.eval()
    with torch.inference_mode():
        outputs = [net(inputs[i : i + batch].to(device)).cpu() for i in range(0, len(inputs), batch)]
    net.train(training)
    return torch.cat(outputs)


def divergence(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback–Leibler divergence of class probabilities, given as logits."""
    return F.kl_div(outputs.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
