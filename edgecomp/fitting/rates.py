"""Codes that an entropy coder makes smaller: chosen by error + λ · bits instead of error alone.

Entropy-constrained vector quantization (Chou, Lookabaugh, Gray 1989): a code c that is used with frequency p_c takes
−log2 p_c bits; assign every segment by ‖(w−c)R‖² − λ·log2 p_c, update codewords and frequencies, and again. What is
seldom becomes more seldom. The file stays as large: it is the download that shrinks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers.nearest import nearest
from . import kmeans

_SELDOM = 0.5  # counts of a codeword that was not used: it may come back


def bits(counts: Tensor) -> Tensor:
    """What each code takes, −log2 of its share: counts (…, k) → (…, k) fp32."""
    shares = counts.float().clamp(min=_SELDOM)
    return -torch.log2(shares / shares.sum(-1, keepdim=True))


def count(codes: Tensor, k: int) -> Tensor:
    """How often each code occurs: (…, points) integers → (…, k) fp32."""
    counts = torch.zeros(*codes.shape[:-1], k)
    return counts.scatter_add_(-1, codes.long(), torch.ones(codes.shape))


def constrained(
    points: Tensor, words: Tensor, codes: Tensor, price: float, iterations: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Goes on from what k-means found, with bits at a price.

    Args:
        points: (problems, points, s). words: (problems, k, s). codes: (problems, points).
        price: λ, of a bit, in units of the squared error.
        weights: (problems, points) of the squared errors; None for all 1.

    Returns:
        words and codes (uint8) in the same shapes; a codeword that is no longer used is where it last was.
    """
    k = words.shape[1]
    weights = torch.ones(points.shape[:2]) if weights is None else weights
    # With weights of points a bit's price is over the mean weight; exact where they are all the same.
    prices = price / weights.mean(1, keepdim=True).clamp(min=1e-30)
    for _ in range(iterations):
        after = nearest(points, words, prices * bits(count(codes, k)))
        done = torch.equal(after, codes.long())
        codes = after
        words = kmeans.update(points, weights, codes, words)
        if done:
            break
    return words, codes.to(torch.uint8)


def by_frequency(codes: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Codewords in the order of how often they are used: then one statistic fits the codes of many codebooks.

    Args:
        codes: (stages, blocks, lanes) uint8. words: (stages, groups, k, s); a group is of ⌈blocks/groups⌉ blocks.

    Returns:
        The same matrix in other codes and words.
    """
    stages, blocks, _ = codes.shape
    groups, k = words.shape[1:3]
    per_group = -(-blocks // groups)
    group_of = torch.arange(blocks) // per_group
    counts = torch.zeros(stages, groups, k).index_add_(1, group_of, count(codes, k))
    order = counts.argsort(dim=2, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(2, order, torch.arange(k).expand_as(order))
    codes = place[:, group_of].gather(2, codes.long()).to(torch.uint8)
    return codes, words.gather(2, order[..., None].expand_as(words))
