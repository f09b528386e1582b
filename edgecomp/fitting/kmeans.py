"""Lloyd's k-means for many small problems at once: one codebook per block of a matrix.

`fit` is seeded, deterministic, and bounded in memory. It runs kmeans.cc where there is a C++ compiler, and its
plain twin `fit_reference`, in torch, elsewhere. scikit-learn's KMeans is the oracle in the tests.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BuildError
from ..util import compiler, progress

# As in kmeans.cc: codewords go beyond the means of their members, and become the means in the last iterations.
_PACE = 1.7
_EXACT = 2
_CHUNK = 1 << 23  # distances held at once: 32 MB


def fit(
    points: Tensor,
    k: int,
    iterations: int = 15,
    weights: Tensor | None = None,
    seed: int = 0,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Clusters the points of each problem, minimising Σ weight · ‖point − codeword‖².

    Args:
        points: (problems, points, s) fp32.
        k: codewords per problem; with fewer points than that, the rest of the codewords are copies.
        iterations: of Lloyd; stops earlier where nothing changes.
        weights: (problems, points) ≥ 0, or None for all equal.
        seed: of the k-means++ starts.
        start: (problems, k, s), where to start instead.

    Returns:
        codebooks (problems, k, s) fp32 and codes (problems, points) uint8 (k ≤ 256).
    """
    library = _library()
    if library is None:
        return fit_reference(points, k, iterations, weights, seed, start)
    problems, count, s = points.shape
    points = points.float().contiguous()
    weights = None if weights is None else weights.float().contiguous()
    codebooks = torch.zeros(problems, k, s) if start is None else start.float().contiguous().clone()
    codes = torch.zeros(problems, count, dtype=torch.uint8)
    library.edgecomp_kmeans(
        *(_pointer(points), _pointer(weights), problems, count, s, k, iterations, seed, int(start is not None)),
        *(torch.get_num_threads(), _pointer(codebooks), _pointer(codes)),
    )
    return codebooks, codes


def fit_reference(
    points: Tensor,
    k: int,
    iterations: int = 15,
    weights: Tensor | None = None,
    seed: int = 0,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same as `fit`, from other random numbers."""
    problems, count, _ = points.shape
    per_chunk = max(1, _CHUNK // (count * k))
    codebooks, codes = [], []
    for first in range(0, problems, per_chunk):
        chunk = slice(first, first + per_chunk)
        weight = torch.ones(points[chunk].shape[:2]) if weights is None else weights[chunk].float()
        generator = torch.Generator().manual_seed(seed * 1_000_003 + first)
        initial = _plus_plus(points[chunk].float(), k, weight, generator) if start is None else start[chunk]
        codebook, code = _fit_chunk(points[chunk].float(), initial, iterations, weight)
        codebooks.append(codebook)
        codes.append(code)
    return torch.cat(codebooks), torch.cat(codes)


def assign(points: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest codeword of each point: codes (b, points) int64 and squared distances (b, points)."""
    scores = torch.baddbmm(codebook.square().sum(2)[:, None, :], points, codebook.transpose(1, 2), alpha=-2)
    best, codes = scores.min(2)
    return codes, (best + points.square().sum(2)).clamp_(min=0)


def update(points: Tensor, weights: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
    """Weighted means of the members of each codeword; a codeword without members stays where it is."""
    k, s = codebook.shape[1:]
    totals = torch.zeros_like(codebook)
    totals.scatter_add_(1, codes[:, :, None].expand(-1, -1, s), points * weights[:, :, None])
    mass = torch.zeros(len(codes), k).scatter_add_(1, codes, weights)
    return torch.where(mass[:, :, None] > 0, totals / mass.clamp(min=1e-30)[:, :, None], codebook)


@cache
def _library() -> ctypes.CDLL | None:
    try:
        path = compiler.shared_library([Path(__file__).with_suffix(".cc")], "libedgecomp_kmeans.so")
    except BuildError as error:
        progress.note(f"{error}; k-means runs in torch instead, which is slower")
        return None
    library = ctypes.CDLL(str(path))
    pointer, integer, wide = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.edgecomp_kmeans.argtypes = [
        *(pointer, pointer, wide, wide, integer, integer, integer, ctypes.c_uint64, integer, integer, pointer, pointer)
    ]
    library.edgecomp_kmeans.restype = None
    return library


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _fit_chunk(points: Tensor, codebook: Tensor, iterations: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    codes, distances = assign(points, codebook)
    exact = False
    for iteration in range(iterations):
        exact = exact or iteration + _EXACT >= iterations
        moved = codebook + (1 if exact else _PACE) * (update(points, weights, codes, codebook) - codebook)
        codebook = _refill(points, codes, distances * weights, moved)
        previous = codes
        codes, distances = assign(points, codebook)
        if torch.equal(codes, previous):
            if exact:
                break
            exact = True
    return codebook, codes.to(torch.uint8)


def _plus_plus(points: Tensor, k: int, weights: Tensor, generator: torch.Generator) -> Tensor:
    """k-means++: each start is a point drawn with probability proportional to its weighted squared distance."""
    problems, _, s = points.shape
    codebook = torch.empty(problems, k, s)
    distances = torch.full(points.shape[:2], torch.inf)
    chance = weights
    for index in range(k):
        cumulative = chance.double().cumsum(1)
        draw = torch.rand(problems, 1, generator=generator, dtype=torch.float64) * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, draw, right=True).clamp_(max=points.shape[1] - 1)
        codebook[:, index] = points.gather(1, chosen[:, :, None].expand(-1, -1, s))[:, 0]
        distances = torch.minimum(distances, (points - codebook[:, index, None]).square().sum(2))
        chance = distances * weights
    return codebook


def _refill(points: Tensor, codes: Tensor, errors: Tensor, codebook: Tensor) -> Tensor:
    """Moves codewords without members to the points that are served worst."""
    problems, k, s = codebook.shape
    used = torch.zeros(problems, k, dtype=torch.bool).scatter_(1, codes, True)
    empty = ~used
    most = int(empty.sum(1).max())
    if most == 0:
        return codebook
    most = min(most, points.shape[1])
    worst = errors.topk(most, dim=1).indices
    rank = (empty.cumsum(1) - 1).clamp(min=0)
    candidates = points.gather(1, worst[:, :, None].expand(-1, -1, s))
    replacement = candidates.gather(1, rank.clamp(max=most - 1)[:, :, None].expand(-1, -1, s))
    return torch.where((empty & (rank < most))[:, :, None], replacement, codebook)
