"""Which codeword of a codebook is nearest: the search of all that fits or trains codes."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(points: Tensor, words: Tensor, penalty: Tensor | None = None) -> Tensor:
    """The codeword with the least squared distance, + penalty if there is one, for each point.

    Args:
        points: (g, p, s). words: (g, k, s). penalty: (g, k) ≥ 0.

    Returns:
        (g, p) int64.
    """
    if words.shape[2] > 1 or penalty is not None:
        scores = words.square().sum(2) + (0 if penalty is None else penalty)
        return torch.baddbmm(scores[:, None, :], points, words.transpose(1, 2), alpha=-2).argmin(2)
    ordered, order = words[:, :, 0].sort(dim=1)
    middles = (ordered[:, 1:] + ordered[:, :-1]) / 2
    return order.gather(1, torch.searchsorted(middles, points[:, :, 0].contiguous()))
