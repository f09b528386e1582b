"""Gong, Liu, Yang, Bourdev 2014: Compressing Deep Convolutional Networks using Vector Quantization.

Error against ratio of every coding of the dense layers, as the paper fits them (`plain`) and as edgecomp does
(`fitted`: to calibration inputs, with error feedback), on Fashion-MNIST instead of ImageNet.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from ..load import load
from ..records import Request
from ..report import markdown
from ..util.files import cache_folder, write_text
from ._bench import Claim, DenseBench, Result, claim_table, plot

_PLAIN = "fit=plain"
# Settings by method, from low to high ratios. Codes of b bits for s weights.
_LADDERS = {
    "kmeans": [("k=256",), ("k=16",), ("k=4",), ("k=2",)],
    "pq": [
        ("k=16", "s=1"),
        ("k=16", "s=2"),
        ("k=8", "s=2"),
        ("k=16", "s=4"),
        ("k=16", "s=5"),
        ("k=16", "s=8"),
        ("k=16", "s=16"),
    ],
    "rq": [("t=2", "s=4"), ("t=2", "s=8"), ("t=2", "s=16")],
    "binary": [("ternary=true",), ()],
    "svd": [("rank=0.14",), ("rank=0.07",), ("rank=0.035",), ("rank=0.018",)],
    "svd:pq": [("rank=0.1", "s=2"), ("rank=0.1", "s=4"), ("rank=0.05", "s=4")],
}
_FITTED_ONLY = {"svd:pq"}
# What explains that a claim does not hold, where it does not.
_WHY = {
    "svd is poor on dense layers": "Ten classes instead of a thousand: the outputs of both hidden layers lie near few "
    "directions, so a low rank takes little away.",
    "rq is worse than pq: its codebooks are too big": "The paper's stages code whole rows, with k codewords as long as "
    "a row; here they code blocks of s columns, and the codebooks are as small as those of pq.",
    "at 32× pq beats kmeans": "A difference within the standard error of two accuracies on this test set.",
    "the first dense layers compress almost for free, the last one hurts most": "The last layer has ten rows here "
    "instead of a thousand, and the classes are so far apart that no layer alone makes a difference beyond chance.",
    "(beyond the paper) fitted pq is no less accurate than plain pq, kmeans and binary of no smaller size": "Were all "
    "equally accurate, one comparison in six would differ by that much.",
    "(beyond the paper) and it gives the original's answers at least as often": "The shortfalls are of a few images, "
    "where little is lost at all; mostly the fitted one is much smaller there, for its ladder has fewer steps.",
}


def run(folder: Path, quick: bool) -> list[Claim]:
    """Measures, writes `gong2014.md` and its plots into `folder`, and returns the claims.

    Args:
        quick: the embedded default instead of the 220 MB net, and fewer settings.
    """
    name = "fashion" if quick else "zfnet"
    smaller = {"test_samples": 2000, "calibration_samples": 1000} if quick else {}
    bench = DenseBench(load(Request(model=name)), cache_folder("reproduce", "gong2014"), **smaller)
    grid = _grid(bench, quick)
    ladders = _ladders(bench, quick)
    alone = {layer: bench.run("pq", "codebooks=shared", _PLAIN, layers=[layer]) for layer in bench.names}
    claims = _claims(bench, grid, ladders, alone)
    _plots(folder, grid, ladders)
    write_text(folder / "gong2014.md", _page(name, quick, bench, grid, ladders, alone, claims))
    return claims


def _grid(bench: DenseBench, quick: bool) -> dict[tuple[str, int, int], Result]:
    """Plain product quantization: (axis, k, s)."""
    ks, lengths = ((4, 16), (2, 4)) if quick else ((4, 8, 16), (1, 2, 3, 4))
    return {
        (axis, k, s): bench.run("pq", f"axis={axis}", f"k={k}", f"s={s}", _PLAIN)
        for axis in "xy"
        for k in ks
        for s in lengths
    }


def _ladders(bench: DenseBench, quick: bool) -> dict[str, list[Result]]:
    """Every method at its ratios, by "method plain" and "method fitted"."""
    results: dict[str, list[Result]] = {}
    for method, ladder in _LADDERS.items():
        steps = ladder[-2:] if quick else ladder
        results[f"{method} fitted"] = [bench.run(method, *settings) for settings in steps]
        if method not in _FITTED_ONLY:
            results[f"{method} plain"] = [bench.run(method, *settings, _PLAIN) for settings in steps]
    return results


def _claims(
    bench: DenseBench,
    grid: dict[tuple[str, int, int], Result],
    ladders: dict[str, list[Result]],
    alone: dict[str, Result],
) -> list[Claim]:
    original, retrieval = bench.original

    def drop(result: Result) -> float:
        return result.error - original

    def at(name: str, ratio: float) -> Result:
        """The step of a ladder nearest to a ratio of the dense layers."""
        return min(ladders[name], key=lambda result: abs(result.dense_ratio / ratio - 1))

    def worse(result: Result, other: Result) -> bool:
        """By more than chance."""
        return result.error - other.error > result.error_of_difference(other, len(bench.test))

    def show(*results: Result) -> str:
        return "; ".join(
            f"{r.expression} {' '.join(r.settings)}: {r.dense_ratio:.1f}×, {drop(r):+.2f}" for r in results
        )

    pq, kmeans, binary = (at(f"{name} plain", 32) for name in ("pq", "kmeans", "binary"))
    plain_pq = max((r for r in ladders["pq plain"] if drop(r) <= 1), key=lambda r: r.ratio, default=pq)
    fitted = max((r for r in ladders["pq fitted"] if drop(r) <= 1), key=lambda r: r.ratio, default=pq)
    claims = [
        ("pq: 16–24× at less than 1 point", plain_pq.ratio >= 16 and drop(plain_pq) <= 1, show(plain_pq)),
        (
            "(beyond the paper) fitted pq: more than plain pq within 1 point",
            fitted.ratio > plain_pq.ratio,
            show(fitted),
        ),
    ]
    pairs = [(r, grid["y", k, s]) for (axis, k, s), r in grid.items() if axis == "x"]
    better = sum(x.error <= y.error for x, y in pairs)
    claims.append(
        (
            "pq along x is a little better than along y",
            2 * better > len(pairs),
            f"x at least as good in {better} of {len(pairs)} settings; mean error x "
            f"{sum(x.error for x, _ in pairs) / len(pairs):.2f}, y {sum(y.error for _, y in pairs) / len(pairs):.2f} %",
        )
    )
    equal = [grid[key] for key in (("x", 4, 2), ("x", 8, 3), ("x", 16, 4)) if key in grid]
    claims.append(
        (
            "at the same code size more centres are not always better, for codebooks cost bytes too",
            any(a.ratio > b.ratio for a, b in itertools.pairwise(equal)),
            f"1 bit a weight: {show(*equal)}",
        )
    )
    steps = [at("kmeans plain", ratio) for ratio in (4, 8)]
    claims += [
        ("kmeans alone: 4–8× within 1 point", all(drop(step) <= 1 for step in steps), show(*steps)),
        ("at 32× pq beats kmeans", worse(kmeans, pq), show(pq, kmeans)),
        ("at 32× kmeans is about as good as binary", abs(kmeans.error - binary.error) <= 1, show(kmeans, binary)),
    ]
    svd, rq = at("svd plain", 32), at("rq plain", 32)
    claims += [
        ("svd is poor on dense layers", worse(svd, pq), show(svd, pq)),
        ("rq is worse than pq: its codebooks are too big", worse(rq, pq), show(rq, pq)),
    ]
    errors = {layer: drop(result) for layer, result in alone.items()}
    claims.append(
        (
            "the first dense layers compress almost for free, the last one hurts most",
            max(errors, key=errors.__getitem__) == bench.names[-1],
            "alone, with a shared codebook: " + "; ".join(f"{layer} {value:+.2f}" for layer, value in errors.items()),
        )
    )
    claims.append(
        (
            "retrieval by the last hidden layer survives",
            retrieval - pq.retrieval <= 1,
            f"mAP {retrieval:.2f} % → pq {pq.retrieval:.2f} %, fitted {at('pq fitted', 32).retrieval:.2f} %",
        )
    )
    pairs = [
        (min((p for p in ladders["pq fitted"] if p.bytes <= r.bytes), key=lambda p: p.error, default=None), r)
        for r in [*ladders["pq plain"], *ladders["kmeans plain"], *ladders["binary plain"], *grid.values()]
    ]
    pairs = [(p, r) for p, r in pairs if p]
    beaten = [(p, r) for p, r in pairs if worse(p, r)]
    fitted, other = max(pairs, key=lambda pair: pair[0].error - pair[1].error)
    chance = fitted.error_of_difference(other, len(bench.test))
    claims.append(
        (
            "(beyond the paper) fitted pq is no less accurate than plain pq, kmeans and binary of no smaller size",
            not beaten,
            f"worse by more than the standard error in {len(beaten)} of {len(pairs)} comparisons; at most "
            f"{fitted.error - other.error:+.2f} (standard error {chance:.2f}): {show(fitted)}, against {show(other)}",
        )
    )
    nearest = [(max(p.agreement for p in ladders["pq fitted"] if p.bytes <= r.bytes), r) for _, r in pairs]
    gaps = sorted(agreement - r.agreement for agreement, r in nearest)
    claims.append(
        (
            "(beyond the paper) and it gives the original's answers at least as often",
            gaps[0] >= 0,
            f"in {sum(gap >= 0 for gap in gaps)} of {len(gaps)} comparisons; {gaps[0]:+.2f} … {gaps[-1]:+.2f} points",
        )
    )
    return [
        Claim(claim=claim, holds=bool(holds), figures=figures, why="" if holds else _WHY.get(claim, ""))
        for claim, holds, figures in claims
    ]


def _plots(folder: Path, grid: dict[tuple[str, int, int], Result], ladders: dict[str, list[Result]]) -> None:
    lines: dict[str, list[Result]] = {}
    for (axis, k, _), result in grid.items():
        lines.setdefault(f"{axis}, k={k}", []).append(result)
    plot(folder / "gong2014-grid.svg", "plain pq, s = 1 … 4", lines)
    plot(folder / "gong2014-methods.svg", "all codings of the dense layers", ladders)


def _page(
    name: str,
    quick: bool,
    bench: DenseBench,
    grid: dict[tuple[str, int, int], Result],
    ladders: dict[str, list[Result]],
    alone: dict[str, Result],
    claims: list[Claim],
) -> str:
    error, retrieval = bench.original
    samples = len(bench.test)

    def row(title: str, r: Result) -> list[str]:
        figures = [f"{r.bytes / 1e6:.2f} MB", f"{r.ratio:.1f}×", f"{r.dense_ratio:.1f}×", f"{r.error:.2f} %"]
        return [title, *figures, f"{r.error - error:+.2f}", f"{r.agreement:.2f} %", f"{r.retrieval:.2f} %"]

    titles = ["", "parameters", "ratio", "dense layers", "error", "points", "agreement", "mAP"]
    every = [
        row(f"{n}: {' '.join(s for s in r.settings if s != _PLAIN) or 'default'}", r)
        for n, rs in ladders.items()
        for r in rs
    ]
    verdicts = claim_table(claims, "figures: ratio of the dense layers, points of error")
    cells = [row(f"axis {axis}, k={k}, s={s}", r) for (axis, k, s), r in grid.items()]
    return f"""# Gong et al. 2014, measured here

    edgecomp reproduce gong2014{" --quick" if quick else ""}

Model `{name}`, {bench.total_bytes / 1e6:.1f} MB as fp32; {samples:,} samples of the test split of Fashion-MNIST.
Before: error {error:.2f} %, retrieval mAP {retrieval:.2f} %. Seed 0, calibration on {len(bench.calibration):,} samples
of the calibration split. Computed by torch from decoded weights; bytes are those of all parameters as stored (codes,
fp16 codebooks, padding), without the file's container. `plain` is fitted to the weights alone, as in the paper,
`fitted` to the inputs, with error feedback. agreement: of the
answers with those of the original. Retrieval: the first 1,000 test images ask for those of their class among
all others, by the cosine of the last hidden layer.

## Claims

{verdicts}

## All codings

![answers unlike the original's against ratio](gong2014-methods.svg)

{markdown.table(titles, every)}

## Plain product quantization

![answers unlike the original's against ratio](gong2014-grid.svg)

{markdown.table(titles, cells)}

## Each dense layer alone

pq with a shared codebook, k=16, s=4, plain:

{markdown.table(titles, [row(layer, r) for layer, r in alone.items()])}
"""
