"""Tensor trains of convolution kernels: K[t,s,i,j] ≈ G1[s]·G2[i]·G3[j]·G4[t], a product of matrices (Oseledets 2011).

Kernels of equal shape can share cores (Sun et al. 2020). Where each has only a G4 of its own they are one kernel with
the outputs of all, and TT-SVD finds the cores (Oseledets 2011, Alg. 1). Where each also has a G1, alternating least
squares go on from there, and no step raises the error.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .lowrank import conjugate_gradients

_SWEEPS = 40
_STEPS = 10  # of conjugate gradients, for every core in every sweep


def bounds(shape: tuple[int, ...], kernels: int = 1) -> tuple[int, int, int]:
    """The largest ranks that trains of so many kernels (T, S, h, w) can need: those of the unfoldings."""
    outputs, inputs, height, width = kernels * shape[0], *shape[1:]
    left = (inputs, inputs * height, inputs * height * width)
    right = (height * width * outputs, width * outputs, outputs)
    first, second, third = map(min, left, right)
    return first, second, third


def decompose(kernels: list[Tensor], ranks: tuple[int, ...], own: str = "t") -> list[list[Tensor]]:
    """Trains near to some kernels.

    Args:
        kernels: (T, S, h, w), all of the same shape, of any dtype.
        ranks: r1, r2, r3, none above its bound.
        own: the cores that each kernel has for itself: "t" (G4), or "st" (G1 and G4).

    Returns:
        For each kernel the weights of four convolutions, fp32: (r1, S), (r2, r1, h), (r3, r2, w), (T, r3).
    """
    tensors = [kernel.detach().double().permute(1, 2, 3, 0) for kernel in kernels]
    *shared, last = _tensor_train(torch.cat(tensors, 3), ranks)
    trains = [[*shared, part] for part in last.chunk(len(kernels), 1)]
    if own == "st" and len(kernels) > 1:
        for _ in range(_SWEEPS):
            for place, members in _cores(len(kernels)):
                _fit(tensors, trains, place, members)
    return [_weights(train) for train in trains]


def _tensor_train(tensor: Tensor, ranks: tuple[int, ...]) -> list[Tensor]:
    """TT-SVD: cores (r_{k−1}, n_k, r_k) of a tensor with one axis more than there are ranks."""
    cores, rest, before = [], tensor, 1
    for size, rank in zip(tensor.shape, ranks, strict=False):
        left, values, right = torch.linalg.svd(rest.reshape(before * size, -1), full_matrices=False)
        cores.append(left[:, :rank].unflatten(0, (before, size)))
        rest, before = values[:rank, None] * right[:rank], rank
    return [*cores, rest[:, :, None]]


def _weights(train: list[Tensor]) -> list[Tensor]:
    first, second, third, last = (core.float() for core in train)
    return [first[0].T, second.permute(2, 0, 1), third.permute(2, 0, 1), last[:, :, 0].T]


def _cores(kernels: int) -> Iterator[tuple[int, range]]:
    """Every core of trains that keep the first and the last: its place, and the kernels that have it."""
    for place in range(4):
        if place in (1, 2):
            yield place, range(kernels)
        else:
            yield from ((place, range(i, i + 1)) for i in range(kernels))


def _fit(tensors: list[Tensor], trains: list[list[Tensor]], place: int, members: range) -> None:
    """Gives a core its least squares value Σ‖K − TT‖², given the other cores: Σ (LᵀL)·X[n]·(RRᵀ) = Σ Lᵀ·K[n]·Rᵀ."""
    goal, grams = torch.zeros(()), []
    for i in members:
        left, right = _left(trains[i][:place]), _right(trains[i][place + 1 :])
        unfolded = tensors[i].reshape(len(left), -1, right.shape[1])
        goal = goal + torch.einsum("xa,xnb->anb", left, unfolded @ right.T)
        grams.append((left.T @ left, right @ right.T))

    def operator(core: Tensor) -> Tensor:
        return sum(torch.einsum("xa,anb->xnb", left, core @ right) for left, right in grams)  # type: ignore[return-value]

    core = conjugate_gradients(operator, goal, trains[members[0]][place], _STEPS)
    for i in members:
        trains[i][place] = core


def _left(cores: list[Tensor]) -> Tensor:
    """The product of the first cores, (all their indices, r)."""
    product = torch.ones(1, 1, dtype=torch.float64)
    for core in cores:
        product = torch.tensordot(product, core, 1).flatten(0, 1)
    return product


def _right(cores: list[Tensor]) -> Tensor:
    """The product of the last cores, (r, all their indices)."""
    product = torch.ones(1, 1, dtype=torch.float64)
    for core in reversed(cores):
        product = torch.tensordot(core, product, 1).flatten(1)
    return product
