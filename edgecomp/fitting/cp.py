"""CP decomposition of a tensor with four axes: T[a,b,c,d] ≈ Σ_r A[a,r]·B[b,r]·C[c,r]·D[d,r].

Alternating least squares come near a solution; non-linear ones (Levenberg–Marquardt; Lebedev et al. 2015, §3.1) get
there. A penalty on the factors, which becomes weaker, bounds their norms, so that terms do not grow against
each other: the degeneracy that Phan et al. 2020 correct. The tensor is never unfolded and no SVD of it is taken.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

_SWEEPS = 60
# Small tensors, which take no time, are started from several random factors, until one ends in no error.
_STARTS, _WORK, _EXACT = 8, 1 << 14, 1e-11
_PENALTIES = (1e-4, 1e-6, 1e-9)  # of the squared factors, for a tensor of norm 1
_MODES = "tshw"


def decompose(tensor: Tensor, rank: int, steps: int, seed: int) -> list[Tensor]:
    """Terms whose sum is nearest to a tensor of four axes.

    Args:
        tensor: of any dtype.
        rank: R, terms.
        steps: of Levenberg–Marquardt.

    Returns:
        The factors (size, R) of the four axes, fp32. All four of a term have the same norm.
    """
    scale = tensor.double().norm().clamp(min=1e-30)
    tensor = tensor.double() / scale
    starts = max(1, min(_STARTS, _WORK // (tensor.numel() * rank)))
    best, least = [], math.inf
    for start in range(starts):
        factors = _from_random(tensor, rank, steps, seed + 1_000_003 * start)
        error = _objective(tensor, factors, 0)
        if error < least:
            best, least = factors, error
        if least < _EXACT:
            break
    return [(factor * scale**0.25).float() for factor in best]


def _from_random(tensor: Tensor, rank: int, steps: int, seed: int) -> list[Tensor]:
    """Alternating least squares from random factors, then Levenberg–Marquardt."""
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(size, rank, generator=generator).double() / size**0.5 for size in tensor.shape]
    for sweep in range(_SWEEPS):
        penalty = max(_PENALTIES[-1], _PENALTIES[0] * 0.8**sweep)
        for mode in range(4):
            factors[mode] = _solved(tensor, factors, mode, penalty)
        factors = _balanced(factors)
    for penalty in _PENALTIES[1:]:
        factors = _polished(tensor, factors, steps, penalty)
    return factors


def _solved(tensor: Tensor, factors: list[Tensor], mode: int, penalty: float) -> Tensor:
    """The factor of one mode, given the others."""
    gram = _grams(factors, {mode}) + penalty * torch.eye(factors[0].shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, _projected(tensor, factors, mode).T).T


def _projected(tensor: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """The tensor times the factors of the other modes, (size, R). Larger modes go first, and nothing is unfolded."""
    names, part = _MODES, tensor
    for other in sorted((m for m in range(4) if m != mode), key=lambda m: -tensor.shape[m]):
        name = _MODES[other]
        left = names.replace(name, "").replace("r", "") + "r"
        part = torch.einsum(f"{names},{name}r->{left}", part, factors[other])
        names = left
    return part


def _grams(factors: list[Tensor], without: set[int]) -> Tensor:
    """The elementwise product of the factors' Gram matrices, (R, R)."""
    result = torch.ones(factors[0].shape[1], factors[0].shape[1], dtype=torch.float64)
    for mode, factor in enumerate(factors):
        if mode not in without:
            result = result * (factor.T @ factor)
    return result


def _balanced(factors: list[Tensor]) -> list[Tensor]:
    norms = torch.stack([factor.norm(dim=0).clamp(min=1e-20) for factor in factors])
    common = norms.log().mean(0).exp()
    return [factor * (common / norm) for factor, norm in zip(factors, norms, strict=True)]


def _polished(tensor: Tensor, factors: list[Tensor], steps: int, penalty: float) -> list[Tensor]:
    """Levenberg–Marquardt; a step solves (JᵀJ + μ + λ)·p = gradient by conjugate gradients on the Grams."""
    damping, best = 1e-3, _objective(tensor, factors, penalty)
    for _ in range(steps):
        gradient = [
            factor @ _grams(factors, {mode}) - _projected(tensor, factors, mode) + penalty * factor
            for mode, factor in enumerate(factors)
        ]
        step = _gauss_newton(factors, gradient, penalty + damping)
        moved = [factor - change for factor, change in zip(factors, step, strict=True)]
        now = _objective(tensor, moved, penalty)
        if now < best:
            small = best - now < 1e-7 * best
            factors, best, damping = _balanced(moved), now, max(damping / 5, 1e-9)
            if small:
                break
        else:
            damping *= 10
    return factors


def _gauss_newton(factors: list[Tensor], gradient: list[Tensor], ridge: float) -> list[Tensor]:
    pairs = {frozenset(pair): _grams(factors, set(pair)) for pair in itertools.product(range(4), repeat=2)}
    x = [torch.zeros_like(g) for g in gradient]
    residual, direction = list(gradient), list(gradient)
    power = first = _dot(residual, residual)
    for _ in range(40):
        curved = [image + ridge * p for image, p in zip(_curvature(factors, pairs, direction), direction, strict=True)]
        length = power / max(_dot(direction, curved), 1e-30)
        x = [a + length * p for a, p in zip(x, direction, strict=True)]
        residual = [r - length * c for r, c in zip(residual, curved, strict=True)]
        before, power = power, _dot(residual, residual)
        if power <= 1e-6 * first:
            break
        direction = [r + power / before * p for r, p in zip(residual, direction, strict=True)]
    return x


def _curvature(factors: list[Tensor], pairs: dict[frozenset[int], Tensor], direction: list[Tensor]) -> list[Tensor]:
    """JᵀJ times a direction, from Grams alone; `pairs` are those without one mode or two."""
    products = [change.T @ factor for change, factor in zip(direction, factors, strict=True)]
    images = []
    for mode in range(4):
        image = direction[mode] @ pairs[frozenset({mode})]
        for other in range(4):
            if other != mode:
                image = image + factors[mode] @ (pairs[frozenset({mode, other})] * products[other])
        images.append(image)
    return images


def _objective(tensor: Tensor, factors: list[Tensor], penalty: float) -> float:
    """½‖K − K̂‖² + ½μ‖factors‖²."""
    inner = (_projected(tensor, factors, 0) * factors[0]).sum()
    fit = tensor.square().sum() - 2 * inner + _grams(factors, set()).sum()
    return 0.5 * fit.item() + 0.5 * penalty * _dot(factors, factors)


def _dot(left: list[Tensor], right: list[Tensor]) -> float:
    return sum((a * b).sum().item() for a, b in zip(left, right, strict=True))
