"""k-means for product quantization: edgecomp against faiss and scikit-learn, in one run.

    pip install faiss-cpu
    python benchmarks/kmeans.py --model zfnet
    python benchmarks/kmeans.py --memory

One codebook of k codewords for every block of s columns of a 4096 × 9216 matrix, 15 iterations, 2 threads. Without
--model the matrix is of normal random numbers. faiss is given its training alone, scikit-learn one `fit` per block;
ours is asked for the codes too. Each runs three times (scikit-learn once); the median counts. --memory shows instead
what it takes to compress a layer of 1 GB (16384 × 16384) by `pq`, without and with calibration inputs.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from edgecomp.fitting import kmeans


def ours(blocks: np.ndarray, k: int, iterations: int) -> np.ndarray:
    """Codewords nearest to each point of (blocks, points, s)."""
    codebooks, codes = kmeans.fit(torch.from_numpy(blocks), k, iterations)
    return codebooks.gather(1, codes.long()[:, :, None].expand(-1, -1, blocks.shape[2])).numpy()


def faiss_quantizer(blocks: np.ndarray, k: int, iterations: int) -> Callable[[], np.ndarray]:
    """Trains faiss's ProductQuantizer; what it returns gives the codewords."""
    import faiss

    count, points, s = blocks.shape
    rows = np.ascontiguousarray(blocks.transpose(1, 0, 2).reshape(points, count * s))
    quantizer = faiss.ProductQuantizer(count * s, count, (k - 1).bit_length())
    quantizer.cp.niter = iterations
    quantizer.train(rows)
    return lambda: quantizer.decode(quantizer.compute_codes(rows)).reshape(points, count, s).transpose(1, 0, 2)


def scikit_learn(blocks: np.ndarray, k: int, iterations: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    fits = (KMeans(k, n_init=1, max_iter=iterations, random_state=0).fit(block) for block in blocks)
    return np.stack([fit.cluster_centers_[fit.labels_] for fit in fits])


def matrix_of(model: str | None) -> tuple[str, np.ndarray]:
    if model is None:
        return "normal random numbers", np.random.default_rng(0).standard_normal((4096, 9216), np.float32)
    from edgecomp.load import load
    from edgecomp.records import Request

    return f"dense1 of {model}", load(Request(model=model)).net.get_submodule("dense1").weight.detach().numpy()


def timed(run: Callable[[], object], times: int) -> tuple[float, object]:
    seconds, result = [], None
    for _ in range(times):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def show_memory(k: int, s: int) -> None:
    """Peak of the whole process, layer included; it never falls, so the cheaper run comes first."""
    from torch import nn

    from edgecomp.fitting.calibration import Inputs
    from edgecomp.methods import pq

    size, config = 16384, pq.Config(k=k, s=s)
    layer = nn.Linear(size, size)
    print(f"layer of {layer.weight.nbytes / 1e9:.2f} GB: peak {_peak():.2f} GB")
    with torch.no_grad():
        pq.compress(layer, config, None, 0)
        print(f"pq: peak {_peak():.2f} GB")
        x = torch.randn(2048, size)
        pq.compress(layer, config, Inputs.of(x), 0)
        print(f"pq with calibration inputs: peak {_peak():.2f} GB")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="take its layer dense1, for example of zfnet, which is trained if need be")
    parser.add_argument("-k", type=int, default=16)
    parser.add_argument("-s", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--memory", action="store_true", help="peak memory for a layer of 1 GB")
    arguments = parser.parse_args()
    k, s, iterations = arguments.k, arguments.s, arguments.iterations
    torch.set_num_threads(2)
    if arguments.memory:
        return show_memory(k, s)

    name, matrix = matrix_of(arguments.model)
    blocks = np.ascontiguousarray(matrix.reshape(len(matrix), -1, s).transpose(1, 0, 2))
    kmeans.fit(torch.zeros(1, 8, s), 2)  # compiled now, not in the first run

    own, found = timed(lambda: ours(blocks, k, iterations), 3)
    rows = [("edgecomp", own, found)]
    try:
        seconds, decode = timed(lambda: faiss_quantizer(blocks, k, iterations), 3)
        rows.append(("faiss ProductQuantizer", seconds, decode()))
    except ImportError:
        print("faiss is not installed: pip install faiss-cpu", file=sys.stderr)
    rows.append(("scikit-learn, block by block", *timed(lambda: scikit_learn(blocks, k, iterations), 1)))

    table = Table(
        "", "seconds", "times ours", "distortion", "times ours", title=f"{name}, k={k} s={s}, {iterations} iterations"
    )
    least = float(np.square(blocks - found, dtype=np.float64).sum())
    for title, seconds, words in rows:
        distortion = float(np.square(blocks - words, dtype=np.float64).sum())
        table.add_row(title, f"{seconds:.2f}", f"{seconds / own:.1f}", f"{distortion:.6g}", f"{distortion / least:.4f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
