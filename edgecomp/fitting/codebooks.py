"""Codes and codebooks for a matrix: what the codebook methods share.

Three ways to fit, from the paper's to the best:
- `plain`: k-means on the weights; minimises ‖W−Ŵ‖². All there is without calibration inputs.
- `metric`: k-means in the metric of the inputs; minimises ‖X(W−Ŵ)ᵀ‖² as if blocks were independent.
- `feedback`: block after block, each making up for the errors of those before it, then `passes` times over all blocks
  again, each given all others (see `error_feedback`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..layers.codebook import Coded, CodeFormat
from ..layers.matrix import coded_layer, has_bias, unsupported, weight_matrix
from ..layers.nearest import nearest
from ..records import Cost
from . import kmeans, rates
from .calibration import Inputs
from .error_feedback import DAMPING, Passes, code_blocks, refine
from .tables import TableConfig

_SAMPLE = 1 << 20  # segments from which a codebook that many blocks share is fitted

_LARGEST_HALF, _LEAST_HALF = 3e4, 1e-4

# Settings that some of the methods have.
Codewords = Annotated[int, Field(ge=2, le=256, description="Codewords per codebook; a code takes ⌈log2 k⌉ bits.")]
SegmentLength = Annotated[int, Field(ge=1, le=64, description="Segment length: weights per code.")]
Codebooks = Annotated[
    Literal["own", "shared"] | Annotated[int, Field(ge=1)],
    Field(description="A codebook for every block of s columns (own), for all blocks (shared), or for so many."),
]


class Fitting(TableConfig):
    """Settings of every method that fits codes."""

    codebook_dtype: Literal["float16", "float32"] = Field("float16", description="Data type of the stored codewords.")
    fit: Literal["feedback", "metric", "plain"] = Field(
        "feedback",
        description="What codes minimise. feedback: the error of the layer's outputs, each block making up for the "
        "errors of those before it. metric: the same, blocks independent. plain: the error of the weights.",
    )
    reconstruction: Literal["data", "joint"] = Field(
        "data",
        description="What the outputs come near to, for the inputs that reach the layer. data: what the layer's own "
        "weights give for them. joint: what the layer gave in the original net, so that it makes up for the errors of "
        "those before it.",
    )
    passes: Passes = 1
    iterations: int = Field(10, ge=1, description="Iterations of k-means.")
    rate: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="What a bit of the download may cost in error: codes minimise error + rate · bits, in units of a "
        "segment's mean energy (its outputs' with data). The file stays as large; 0.02 is mild, 0.1 harsh.",
    )
    permute: bool = Field(
        True,
        description="Sort the input channels by energy, where the layer before can give them out in that order.",
    )


@dataclass(frozen=True)
class Coding:
    """codes (stages, blocks, lanes) uint8 and codebook (stages, groups, k, s) fp32, as the layer stores them."""

    codes: Tensor
    codebook: Tensor


def interface(
    format_of: Callable[[nn.Module, Any], CodeFormat],
) -> tuple[Callable[..., str], Callable[..., Cost], Callable[..., Coded]]:
    """`refuse`, `predict` and `compress` of a method that fits codes of the format that its config makes of a layer."""

    def refuse(layer: nn.Module, config: Fitting) -> str:
        return unsupported(layer)

    def chosen(layer: nn.Module, config: Fitting) -> CodeFormat:
        form = format_of(layer, config)
        return form if _fits_half(layer) else form.model_copy(update={"half": False})

    def predict(layer: nn.Module, config: Fitting) -> Cost:
        return chosen(layer, config).cost(has_bias(layer))

    def compress(layer: nn.Module, config: Fitting, inputs: Inputs | None, seed: int) -> Coded:
        form, matrix = chosen(layer, config), weight_matrix(layer)
        unit = 1.0 if _fits_half(layer) else _size(matrix)
        coding = fit(matrix if unit == 1 else matrix / unit, form, config, inputs, seed)
        return config.applied(coded_layer(layer, form, coding.codes, coding.codebook * unit))

    return refuse, predict, compress


def _fits_half(layer: nn.Module) -> bool:
    """fp16 can hold codewords of this size: it has no numbers beyond 65,504, and few below 0.0001."""
    if layer.weight.is_meta:  # a part that a factorization is still to make
        return True
    largest = layer.weight.detach().abs().max().item()
    return largest == 0 or (largest < _LARGEST_HALF and _size(layer.weight.detach()) > _LEAST_HALF)


def _size(weights: Tensor) -> float:
    """Root mean square."""
    return weights.double().square().mean().sqrt().item()


def fit(matrix: Tensor, form: CodeFormat, fitting: Fitting, inputs: Inputs | None, seed: int) -> Coding:
    """Fits codes of the given format to W (m, n)."""
    moment = None if inputs is None or fitting.fit == "plain" else inputs.damped
    if moment is None and form.axis == 1 and form.groups == form.blocks:
        # Without a metric the columns are independent: the same as segments along the rows of the transpose.
        along = form.model_copy(update={"rows": form.columns, "columns": form.rows, "axis": 0})
        return fit(matrix.T, along, fitting, None, seed)
    width = form.s if form.axis == 0 else 1
    padding = -matrix.shape[1] % width
    if padding:  # pad() copies even when there is nothing to add
        matrix = nn.functional.pad(matrix, (0, padding))
        moment = None if moment is None else _padded(moment, padding, DAMPING)
    factors = _factors(moment, matrix.shape[1], width)
    own = form.axis == 0 and form.groups == form.blocks
    coder = _OwnCodebooks(form, fitting, seed) if own else _SharedCodebooks(form, fitting, seed)
    coder.start(matrix, factors)
    if moment is None or fitting.fit == "metric":
        coder.code_independently(matrix, factors)
    else:
        factor = _padded(inputs.upper_factor, padding, DAMPING**0.5) if padding else inputs.upper_factor  # type: ignore[union-attr]
        coded = code_blocks(matrix, factor, width, coder.code)
        for _ in range(fitting.passes):
            coder.update()
            coded = refine(matrix, coded, moment, width, coder.code)
    return Coding(*rates.by_frequency(coder.codes[:, : form.blocks, : form.lanes], coder.words))


def _padded(matrix: Tensor, columns: int, value: float) -> Tensor:
    """H or R with so many more inputs, which are always zero but for the damping."""
    return torch.block_diag(matrix, value * torch.eye(columns))


def _price(matrix: Tensor, factors: Tensor, form: CodeFormat, rate: float) -> float:
    """λ of a bit: the rate times the mean energy of a segment, ‖w R‖²."""
    blocks = matrix.unflatten(1, (len(factors), -1)).transpose(0, 1)
    energy = (blocks @ factors).square().sum().item()
    return rate * energy / max(1, form.blocks * form.lanes)


def _factors(moment: Tensor | None, columns: int, width: int) -> Tensor:
    """Cholesky factors of the blocks on the diagonal of H, (columns/width, width, width); identities without H."""
    if moment is None:
        return torch.eye(width).expand(columns // width, width, width)
    index = torch.arange(columns).reshape(-1, width)
    return torch.linalg.cholesky(moment[index[:, :, None], index[:, None, :]])


class _OwnCodebooks:
    """Every block of s columns has its own codebooks: k-means is part of coding the block."""

    def __init__(self, form: CodeFormat, fitting: Fitting, seed: int) -> None:
        self.format, self.fitting, self.seed = form, fitting, seed
        self.codes = torch.zeros(form.stages, form.blocks, form.lanes, dtype=torch.uint8)
        self.words = torch.zeros(form.stages, form.blocks, form.k, form.s)
        self.started = torch.zeros(form.blocks, dtype=torch.bool)

    def start(self, matrix: Tensor, factors: Tensor) -> None:
        self.price = _price(matrix, factors, self.format, self.fitting.rate)

    def update(self) -> None:
        pass

    def code(self, block: int, target: Tensor, factor: Tensor) -> Tensor:
        return self._code(slice(block, block + 1), target[None], factor[None])[0]

    def code_independently(self, matrix: Tensor, factors: Tensor) -> None:
        targets = matrix.unflatten(1, (-1, self.format.s)).transpose(0, 1)
        for _ in range(min(self.format.stages, 2)):  # once more, now that the other stages are there
            self._code(slice(None), targets, factors)

    def _code(self, blocks: slice, targets: Tensor, factors: Tensor) -> Tensor:
        """Codes (b, m, s) targets; each stage what the others leave."""
        parts = [self._part(stage, blocks) for stage in range(self.format.stages)]
        warm = bool(self.started[blocks].all())
        for stage in range(self.format.stages):
            points = (targets - sum(part for i, part in enumerate(parts) if i != stage)) @ factors
            seed = (self.seed * 1_000_003 + (blocks.start or 0)) * self.format.stages + stage
            start = self.words[stage, blocks] @ factors if warm else None
            words, codes = kmeans.fit(points, self.format.k, self.fitting.iterations, None, seed, start)
            if self.price:
                words, codes = rates.constrained(points, words, codes, self.price, self.fitting.iterations)
            self.words[stage, blocks] = _stored(torch.linalg.solve(factors, words, left=False), self.format)
            self.codes[stage, blocks] = codes
            parts[stage] = self._part(stage, blocks)
        self.started[blocks] = True
        return sum(parts)  # type: ignore[return-value]

    def _part(self, stage: int, blocks: slice) -> Tensor:
        codes = self.codes[stage, blocks].long()
        return self.words[stage, blocks].gather(1, codes[:, :, None].expand(-1, -1, self.format.s))


class _SharedCodebooks:
    """A codebook serves many columns: it is fitted first, and again to the targets that the columns turned out to have.

    Columns are coded `width` at a time: s of them at once if segments run along the rows, else one.
    """

    def __init__(self, form: CodeFormat, fitting: Fitting, seed: int) -> None:
        self.format, self.fitting, self.seed = form, fitting, seed
        self.per_group = -(-form.blocks // form.groups)
        self.codes = torch.zeros(form.stages, self.per_group * form.groups, form.lanes, dtype=torch.uint8)
        self.words = torch.zeros(form.stages, form.groups, form.k, form.s)
        self.bits = torch.zeros(form.stages, form.groups, form.k)  # that a code takes
        self._clear()

    def start(self, matrix: Tensor, factors: Tensor) -> None:
        """k-means over the segments of each group, every stage on what the stages before it leave."""
        f = self.format
        self.price = _price(matrix, factors, f, self.fitting.rate)
        generator = torch.Generator().manual_seed(self.seed)
        importance = factors.square().sum((1, 2))
        for group in range(f.groups):
            points, weights, factor = self._sample(group, matrix, factors, importance, generator)
            for stage in range(f.stages):
                seed = (self.seed * 1_000_003 + group) * f.stages + stage
                words, codes = kmeans.fit(points[None], f.k, self.fitting.iterations, weights[None], seed)
                if self.price:
                    arguments = (self.price, self.fitting.iterations, weights[None])
                    words, codes = rates.constrained(points[None], words, codes, *arguments)
                    self.bits[stage, group] = rates.bits(rates.count(codes[0], f.k))
                points = points - words[0, codes[0].long()]
                self.words[stage, group] = _stored(torch.linalg.solve(factor, words[0], left=False), f)

    def code(self, block: int, target: Tensor, factor: Tensor) -> Tensor:
        return (
            self._code_segments(block, target, factor)
            if self.format.axis == 0
            else self._code_column(block, target[:, 0], factor)
        )

    def code_independently(self, matrix: Tensor, factors: Tensor) -> None:
        width = matrix.shape[1] // len(factors)
        for _ in range(self.fitting.passes + 1):
            self.update()
            for block, factor in enumerate(factors):
                self.code(block, matrix[:, block * width : (block + 1) * width], factor)

    def update(self) -> None:
        """Codewords become what minimises Σ ‖(target − codeword)·factor‖² over the segments coded since last time."""
        used = self.mass.diagonal(dim1=-2, dim2=-1).sum(-1) > 0
        seen = self.counts.sum(2) > 0
        self.bits[seen] = rates.bits(self.counts[seen])
        if used.any():
            self.words[used] = _stored(torch.linalg.solve(self.mass[used], self.totals[used]).float(), self.format)
        self._clear()

    def _clear(self) -> None:
        f = self.format
        self.mass = torch.zeros(f.stages, f.groups, f.k, f.s, f.s, dtype=torch.float64)
        self.totals = torch.zeros(f.stages, f.groups, f.k, f.s, dtype=torch.float64)
        self.counts = torch.zeros(f.stages, f.groups, f.k)

    def _sample(
        self, group: int, matrix: Tensor, factors: Tensor, importance: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Segments of a group (p, s), in the mean metric of its columns, their weights (p,), and its factor."""
        f = self.format
        blocks = slice(group * self.per_group, min((group + 1) * self.per_group, f.blocks))
        if f.axis == 0:
            segments = matrix.unflatten(1, (-1, f.s))[:, blocks].flatten(0, 1)
            weights = importance[blocks].repeat(f.lanes)
            metric = (factors[blocks] @ factors[blocks].transpose(1, 2)).mean(0)
            factor = torch.linalg.cholesky(metric) if f.s > 1 else torch.eye(1)
            weights = weights if f.s == 1 else torch.ones_like(weights)
        else:
            rows = matrix[blocks.start * f.s : blocks.stop * f.s]
            rows = nn.functional.pad(rows, (0, 0, 0, -len(rows) % f.s)).unflatten(0, (-1, f.s))
            segments = rows.transpose(1, 2).flatten(0, 1)
            weights, factor = importance.repeat(len(rows)), torch.eye(f.s)
        if len(segments) > _SAMPLE:
            chosen = torch.randint(len(segments), (_SAMPLE,), generator=generator)
            segments, weights = segments[chosen], weights[chosen]
        return segments @ factor, weights, factor

    def _code_segments(self, block: int, target: Tensor, factor: Tensor) -> Tensor:
        group = block // self.per_group
        metric = (factor @ factor.T).double()
        parts = [self.words[stage, group, self.codes[stage, block].long()] for stage in range(self.format.stages)]
        for stage, words in enumerate(self.words[:, group]):
            wanted = target - sum(part for i, part in enumerate(parts) if i != stage)
            codes = self._nearest((wanted @ factor)[None], (words @ factor)[None], self.bits[stage, group][None])[0]
            self.codes[stage, block] = codes
            self.counts[stage, group] += rates.count(codes, len(words))
            self.mass[stage, group] += torch.bincount(codes, minlength=len(words))[:, None, None] * metric
            self.totals[stage, group] += torch.zeros_like(words).index_add_(0, codes, wanted).double() @ metric
            parts[stage] = words[codes]
        return sum(parts)  # type: ignore[return-value]

    def _nearest(self, points: Tensor, words: Tensor, bits: Tensor) -> Tensor:
        """See `layers.nearest`; with bits (g, k) at their price, in units of the squared distance."""
        return nearest(points, words, self.price * bits if self.price else None)

    def _code_column(self, column: int, target: Tensor, factor: Tensor) -> Tensor:
        f = self.format
        padded = nn.functional.pad(target, (0, f.groups * self.per_group * f.s - f.rows))
        target = padded.reshape(f.groups, self.per_group, f.s)
        weight = float(factor.square())
        index = self.codes[:, :, column].long().unflatten(1, (f.groups, -1))
        parts = [_chosen(words, codes) for words, codes in zip(self.words, index, strict=True)]
        for stage, words in enumerate(self.words):
            wanted = target - sum(part for i, part in enumerate(parts) if i != stage)
            codes = self._nearest(wanted, words, self.bits[stage] / weight)
            self.codes[stage, :, column] = codes.flatten()
            spread = codes[:, :, None].expand(-1, -1, f.s)
            counts = rates.count(codes, f.k)
            self.counts[stage] += counts
            self.mass[stage] += weight * counts[:, :, None, None] * torch.eye(f.s)
            self.totals[stage] += weight * torch.zeros_like(words).scatter_add_(1, spread, wanted)
            parts[stage] = _chosen(words, codes)
        return sum(parts).reshape(-1, 1)[: f.rows]  # type: ignore[union-attr]


def _chosen(words: Tensor, codes: Tensor) -> Tensor:
    return words.gather(1, codes[:, :, None].expand(-1, -1, words.shape[2]))


def _stored(words: Tensor, form: CodeFormat) -> Tensor:
    """Codewords as they will be read back."""
    return words.half().float() if form.half else words
