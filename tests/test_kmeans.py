"""k-means against scikit-learn, and at its edges."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from edgecomp.fitting import kmeans


def distortion(points, codebook, codes, weights=None):
    chosen = codebook.gather(1, codes.long()[:, :, None].expand(-1, -1, points.shape[2]))
    errors = (points - chosen).square().sum(2)
    return float((errors if weights is None else errors * weights).sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k,s", [(16, 4), (4, 1), (32, 8)])
def test_no_worse_than_scikit_learn(k, s, weighted):
    points = torch.randn(12, 1500, s)
    weights = torch.rand(12, 1500) ** 3 if weighted else None
    codebook, codes = kmeans.fit(points, k, iterations=50, weights=weights)
    oracle = sum(
        KMeans(k, n_init=1, random_state=0).fit(p, sample_weight=None if weights is None else weights[i]).inertia_
        for i, p in enumerate(points.numpy().astype(np.float64))
    )
    assert distortion(points, codebook, codes, weights) <= 1.02 * oracle


def test_one_step_is_scikit_learns():
    """From the same start, one Lloyd iteration gives the same codewords."""
    points, start = torch.randn(1, 400, 3), torch.randn(1, 8, 3)
    codes, _ = kmeans.assign(points, start)
    ours = kmeans.update(points, torch.ones(1, 400), codes, start)
    theirs = KMeans(8, init=start[0].numpy(), n_init=1, max_iter=1).fit(points[0].numpy())
    assert np.allclose(np.sort(ours[0].numpy(), 0), np.sort(theirs.cluster_centers_, 0), atol=1e-5)


def test_every_point_has_its_nearest_codeword():
    points = torch.randn(2, 300, 4)
    codebook, codes = kmeans.fit(points, 16)
    assert torch.equal(codes.long(), torch.cdist(points, codebook).argmin(2))


def test_seeded():
    points = torch.randn(2, 200, 4)
    same = [kmeans.fit(points, 8, seed=3) for _ in range(2)]
    assert torch.equal(same[0][0], same[1][0]) and torch.equal(same[0][1], same[1][1])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_points_than_codewords_are_exact(count):
    points = torch.randn(3, count, 4)
    codebook, codes = kmeans.fit(points, 8)
    assert distortion(points, codebook, codes) < 1e-10


def test_constant_points_are_exact():
    codebook, codes = kmeans.fit(torch.full((2, 50, 3), 0.7), 4)
    assert torch.allclose(codebook[0, codes[0, 0].long()], torch.full((3,), 0.7))
    assert codebook.isfinite().all()


def test_as_many_distinct_points_as_codewords_are_all_found():
    distinct = torch.randn(1, 16, 2)
    points = distinct.repeat(1, 20, 1)
    codebook, codes = kmeans.fit(points, 16, iterations=30)
    assert distortion(points, codebook, codes) < 1e-8


def test_points_of_no_weight_do_not_matter():
    points = torch.cat([torch.randn(1, 100, 2), 1000 + torch.randn(1, 10, 2)], dim=1)
    weights = torch.cat([torch.ones(1, 100), torch.zeros(1, 10)], dim=1)
    codebook, _ = kmeans.fit(points, 4, weights=weights)
    assert codebook.abs().max() < 100


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("s", [1, 3, 4])
def test_native_steps_are_the_reference_twins(s, weighted):
    """From the same start, the same codewords and codes."""
    points, start = torch.randn(3, 777, s), torch.randn(3, 16, s)
    weights = torch.rand(3, 777) if weighted else None
    for iterations in (1, 4):
        native = kmeans.fit(points, 16, iterations, weights, start=start)
        reference = kmeans.fit_reference(points, 16, iterations, weights, start=start)
        assert torch.allclose(native[0], reference[0], atol=1e-4)
        assert (native[1] == reference[1]).float().mean() > 0.99


def test_the_number_of_threads_does_not_matter():
    points = torch.randn(1, 40_000, 4)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(kmeans.fit(points, 16))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


SANITIZED = """
import ctypes, sys, numpy as np
fit = ctypes.CDLL(sys.argv[1]).edgecomp_kmeans
pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
for problems, count, s, k in [(3, 777, 4, 16), (1, 40_000, 1, 256), (2, 5, 3, 8), (1, 1, 8, 4), (4, 9, 2, 16)]:
    for weighted in (False, True):
        points = np.random.default_rng(0).standard_normal((problems, count, s)).astype(np.float32)
        weights = np.abs(points[:, :, 0]).copy() if weighted else None
        books, codes = np.zeros((problems, k, s), np.float32), np.zeros((problems, count), np.uint8)
        sizes = [ctypes.c_int64(problems), ctypes.c_int64(count), s, k, 4, ctypes.c_uint64(0), 0, 2]
        fit(pointer(points), pointer(weights) if weighted else None, *sizes, pointer(books), pointer(codes))
        assert np.isfinite(books).all() and codes.max() < k
"""


@pytest.mark.slow
def test_native_code_is_clean_under_the_sanitizers(tmp_path):
    library = tmp_path / "kmeans.so"
    flags = [
        "-O1",
        "-g",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover",
    ]
    source = Path(kmeans.__file__).with_suffix(".cc")
    subprocess.run(["g++", *flags, source, "-o", library], check=True)
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    environment = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", SANITIZED, library]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
