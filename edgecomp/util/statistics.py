"""How far a figure can be trusted: 95 % intervals of percentiles of time, and of the difference of two accuracies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_RESAMPLES = 1000
_DRAWN = 2000  # samples of one process that are drawn at most: more tell nothing about a 95 % interval
_THINNED = 50  # samples of one process that stand for all of them where only medians are asked for

Interval = tuple[float, float]
Samples = list[list[float]] | tuple[list[list[float]], list[list[float]]]


def percentiles(processes: list[list[float]], seed: int = 0) -> dict[int, tuple[float, Interval]]:
    """p50, p90 and p99 of all samples, each with its 95 % bootstrap interval.

    Samples of one process resemble each other: where its memory lies and how fast the clock was are the same for all of
    them. So processes are drawn, with replacement, and then samples of each.

    Args:
        processes: the samples of every process, milliseconds.
    """
    generator = np.random.default_rng(seed)
    parts = [np.asarray(samples) for samples in processes]
    wanted, drawn = (50, 90, 99), []
    for _ in range(_RESAMPLES):
        chosen = [parts[i] for i in generator.integers(len(parts), size=len(parts))]
        sample = [generator.choice(part, min(len(part), _DRAWN)) for part in chosen]
        drawn.append(np.percentile(np.concatenate(sample), wanted))
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    values = np.percentile(np.concatenate(parts), wanted)
    return {
        p: (round(float(v), 4), (round(float(a), 4), round(float(b), 4)))
        for p, v, a, b in zip(wanted, values, low, high, strict=True)
    }


def ratio_of_medians(before: Samples, after: Samples, seed: int = 0) -> Interval:
    """95 % bootstrap interval of the ratio of two medians, after / before, each of samples by process.

    Whole processes are drawn, as in `percentiles`, each with the same weight. With few of them a bootstrap's interval
    is too narrow; its tails are therefore taken further out, as far as Student's t reaches beyond the normal
    distribution (Hesterberg 2015, The American Statistician 69:371).

    Args:
        before, after: milliseconds of every process of one run, or a pair of such lists of the same processes: then the
            ratio of their medians, first / second, takes the place of the median.
    """
    generator = np.random.default_rng(seed)
    ratios = _drawn_medians(after, generator) / _drawn_medians(before, generator)
    tail = _tail(min(_processes(before), _processes(after)))
    low, high = np.quantile(ratios, (tail, 1 - tail))
    return float(low), float(high)


def _processes(samples: Samples) -> int:
    return len(samples[0] if isinstance(samples, tuple) else samples)


def _drawn_medians(samples: Samples, generator: np.random.Generator) -> np.ndarray:
    """(resamples,) medians of drawn processes."""
    chosen = generator.integers(_processes(samples), size=(2 * _RESAMPLES, _processes(samples)))
    if isinstance(samples, tuple):
        first, second = samples
        return _medians_of(first, chosen, generator) / _medians_of(second, chosen, generator)
    return _medians_of(samples, chosen, generator)


def _medians_of(processes: list[list[float]], chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    size = min(_THINNED, *(len(samples) for samples in processes))
    places = (np.arange(size) + 0.5) / size
    thinned = np.stack([np.quantile(samples, places) for samples in processes])  # (processes, size)
    drawn = generator.integers(size, size=(*chosen.shape, size))
    return np.median(thinned[chosen[..., None], drawn].reshape(len(chosen), -1), axis=1)


def _tail(n: int) -> float:
    """The share of the resamples to leave out at either end for a 95 % interval from `n` processes: Φ(−t √(n/(n−1))),
    with Student's 97.5 % quantile t for n − 1 degrees of freedom."""
    from scipy import stats  # which takes a second to import

    return float(stats.norm.cdf(-stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1))))


def drop_of_rights(before: np.ndarray, after: np.ndarray) -> Interval:
    """95 % interval of the drop, in points, from which samples were answered rightly by either net: Newcombe's interval
    for paired proportions, built from Wilson's (Newcombe 1998, Statistics in Medicine 17:2635, method 10). Unlike a
    bootstrap it does not shrink to nothing where both nets answer a small sample alike.

    Args:
        before, after: (N,) bool, the same samples.
    """
    n = len(before)
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    p1, p2 = (both + lost) / n, (both + won) / n
    (low1, high1), (low2, high2) = wilson(both + lost, n), wilson(both + won, n)
    product = both * neither - lost * won
    product = max(product - n / 2, 0.0) if product > 0 else product
    spread = math.sqrt((both + lost) * (won + neither) * (both + won) * (lost + neither))
    phi = product / spread if spread else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    drop = p1 - p2
    return (
        round(100 * (drop - reach(p1 - low1, high2 - p2)), 4),
        round(100 * (drop + reach(high1 - p1, p2 - low2)), 4),
    )


def drop_of_scores(score: Callable[[np.ndarray], float], samples: int, seed: int = 0) -> Interval:
    """95 % paired bootstrap interval of any metric's drop: `score` of resampled indices (N,), 200 times. Draws of which
    it is not known, such as those without any sample of a class, do not count; NaN if all are."""
    generator = np.random.default_rng(seed)
    drops = np.array([score(generator.integers(samples, size=samples)) for _ in range(200)])
    known = drops[np.isfinite(drops)]
    low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def wilson(successes: int, trials: int) -> Interval:
    """95 % interval (Wilson 1927) of the share of successes."""
    from scipy import stats

    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
