"""Coding a matrix block by block, so that later blocks make up for the errors of earlier ones.

The error that counts is that of the layer's outputs, ‖X(W−Ŵ)ᵀ‖² = N·tr((W−Ŵ)H(W−Ŵ)ᵀ). With H = RRᵀ, R upper triangular,
it is ‖(W−Ŵ)R‖², and block b of (W−Ŵ)R depends on the blocks up to b alone:

    ‖(W−Ŵ)R‖² = Σ_b ‖(t_b − ŵ_b) R_bb‖²,   t_b = w_b + Σ_{a<b} (w_a − ŵ_a) R_ab R_bb⁻¹.

So every block codes its target t_b in the metric of R_bb. This is the error feedback of GPTQ (Frantar et al. 2022, §3)
and GPTVQ (van Baalen et al. 2024) in the form of QuIP's LDLQ (Chee et al. 2023, §3), which needs no inverse of H.
`refine` then goes over the blocks again, each time with all others as they are.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

# Columns that correct each other block by block; those behind a panel are corrected in one matrix product.
_PANEL = 256
DAMPING = 0.1

# Settings of the methods that use it.
Passes = Annotated[
    int, Field(ge=0, description="Rounds of refinement after error feedback: each block again, given all others.")
]
Fit = Annotated[
    Literal["feedback", "plain"],
    Field(
        description="feedback: weights are rounded by error feedback on the calibration inputs. plain: each to the "
        "nearest value, without them."
    ),
]

# code(block, target, factor) → reconstruction. `target` is (m, s), `factor` (s, s). A coder minimises
# ‖(target − reconstruction)·factor‖² and keeps the codes it has chosen.
Coder = Callable[[int, Tensor, Tensor], Tensor]


def upper_cholesky(second_moment: Tensor) -> Tensor:
    """R, upper triangular, of H = RRᵀ, positive definite (see `damped`)."""
    return torch.linalg.cholesky(second_moment.flip(0, 1)).flip(0, 1)


def code_blocks(matrix: Tensor, factor: Tensor, s: int, code: Coder) -> Tensor:
    """Codes W block after block, each block its target.

    Args:
        matrix: W (m, n) fp32, n a multiple of s.
        factor: R (n, n) of H = RRᵀ, see `upper_cholesky`.
        s: columns per block.
        code: what codes a block.

    Returns:
        Ŵ (m, n).
    """
    columns = matrix.T.contiguous()  # blocks are contiguous
    errors = torch.zeros_like(columns)  # (W − Ŵ)ᵀ
    pushed = torch.zeros_like(errors)  # ((W − Ŵ)R)ᵀ, of the blocks done
    for start, stop in _panels(len(factor), s):
        for a in range(start, stop, s):
            b = a + s
            own = factor[a:b, a:b]
            correction = torch.linalg.solve_triangular(own.T, pushed[a:b], upper=False)
            errors[a:b] = columns[a:b] - code(a // s, (columns[a:b] + correction).T, own).T
            pushed[b:stop].addmm_(factor[a:b, b:stop].T, errors[a:b])
        pushed[stop:].addmm_(factor[start:stop, stop:].T, errors[start:stop])
    return errors.neg_().add_(columns).T


def refine(matrix: Tensor, coded: Tensor, second_moment: Tensor, s: int, code: Coder) -> Tensor:
    """One more pass over a coded matrix: every block is coded again, given the errors of all others.

    Coordinate descent on tr((W−Ŵ)H(W−Ŵ)ᵀ): t_b = w_b + Σ_{a≠b} (w_a − ŵ_a) H_ab H_bb⁻¹, in the metric H_bb.
    """
    columns = matrix.T.contiguous()
    errors = columns - coded.T
    pulled = second_moment @ errors  # ((W − Ŵ)H)ᵀ, kept up to date
    for start, stop in _panels(len(second_moment), s):
        before = errors[start:stop].clone()
        for a in range(start, stop, s):
            b = a + s
            own = second_moment[a:b, a:b]
            factor = torch.linalg.cholesky(own)
            target = columns[a:b] + torch.cholesky_solve(pulled[a:b], factor) - errors[a:b]
            new = columns[a:b] - code(a // s, target.T, factor).T
            pulled[start:stop].addmm_(second_moment[start:stop, a:b], new - errors[a:b])
            errors[a:b] = new
        change = errors[start:stop] - before
        pulled[:start].addmm_(second_moment[:start, start:stop], change)
        pulled[stop:].addmm_(second_moment[stop:, start:stop], change)
    return errors.neg_().add_(columns).T


def code_rows(
    matrix: Tensor,
    moment: Tensor,
    factor: Tensor,
    codes: Tensor,
    scale: Tensor,
    rounded: Callable[[Tensor, Tensor], Tensor],
    passes: int,
) -> tuple[Tensor, Tensor]:
    """Codes W as α·Q with one factor α for every row, by feedback, and chooses α = (wHq)/(qHq) for the Q found.

    Args:
        matrix: W (m, n) fp32.
        moment, factor: the damped H and R (n, n), see `upper_cholesky`.
        codes: Q (m, n) to begin with; what rows without a factor keep.
        scale: α (m,) to begin with.
        rounded: (weights (m, s), α) → their Q, (m, s).
        passes: of refinement, each with the α of the one before.

    Returns:
        Q (m, n) and α (m,).
    """
    weighted = matrix @ moment

    def code(_: int, target: Tensor, factor: Tensor) -> Tensor:
        return scale[:, None] * rounded(target, scale)

    coded = code_blocks(matrix, factor, 1, code)
    for sweep in range(passes + 1):
        if sweep:
            coded = refine(matrix, scale[:, None] * codes, moment, 1, code)
        codes = torch.where(scale[:, None] > 0, coded / scale[:, None].clamp(min=1e-30), codes).round()
        power = ((codes @ moment) * codes).sum(1)
        scale = ((weighted * codes).sum(1) / power.clamp(min=1e-30)).clamp(min=0)
    return codes, scale


def output_error(matrix: Tensor, coded: Tensor, second_moment: Tensor) -> float:
    """‖X(W−Ŵ)ᵀ‖ / ‖XWᵀ‖."""
    difference = matrix - coded
    numerator = ((difference @ second_moment) * difference).sum()
    return (numerator / ((matrix @ second_moment) * matrix).sum().clamp(min=1e-30)).clamp(min=0).sqrt().item()


def damped(second_moment: Tensor) -> Tensor:
    """H divided by its mean diagonal, plus a tenth: few samples do not tell small variances from none, and H becomes
    positive definite even if some inputs are always zero."""
    scaled = second_moment / second_moment.diagonal().mean().clamp(min=1e-30)
    scaled.diagonal().add_(DAMPING)
    return scaled


def _panels(columns: int, s: int) -> Iterator[tuple[int, int]]:
    width = max(s, _PANEL // s * s)
    for start in range(0, columns, width):
        yield start, min(start + width, columns)
