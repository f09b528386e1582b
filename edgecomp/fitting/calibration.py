"""What a layer's inputs look like: their moments and range, gathered by running calibration samples through the net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.walk import Walk
from ..layers.hooks import Enough, capture
from ..layers.layout import laid_out
from ..layers.matrix import input_rows, weight_matrix
from ..layers.quantized import Quantized, static_parts
from ..layers.recurrent import Recurrence, recurrence_around
from ..util.cache import key_of
from .error_feedback import damped, upper_cholesky

CALIBRATION_SAMPLES = 3072
ENERGY_SAMPLES = 256  # enough for variances

ROWS_PER_PRODUCT = 2048
_BATCH = 256
_ROWS_OF_A_SAMPLE, _ROWS, _ROWS_OF_A_COLUMN = 16, 16_384, 4  # the least, of one sample and together
_ROWS_OF_A_RECURRENCE = 4096
_WIDEST = 10_000  # columns; their covariance, damped and factored, takes 1.6 GB
_NUMBERS = 1 << 24  # in the rows of a batch
_STRIP = 1024
_SAMPLE = 512


@dataclass(frozen=True)
class Inputs:
    """Calibration statistics of one layer, over all its calls.

    Attributes:
        covariance: of the inputs X (N, n), (n, n) fp32; empty where nobody asked for it, or for more columns than
            memory is spent on.
        sample: some of the rows of X, (≤ 512, n).
        mean: of the rows of X, (n,).
        rows: N.
    """

    covariance: Tensor
    sample: Tensor
    mean: Tensor
    rows: int = 1
    _cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, x: Tensor) -> Inputs:
        """Those of rows (N, n)."""
        return _moments(iter([x]))

    @property
    def second_moment(self) -> Tensor:
        """H = XᵀX/N, (n, n)."""
        return self.cached("second moment", lambda: self.covariance + torch.outer(self.mean, self.mean))

    @property
    def unfit(self) -> str:
        """Why weights are not fitted to them; empty if they are."""
        if len(self.mean) > _WIDEST:
            return f"its {len(self.mean):,} inputs are more than moments are kept of ({_WIDEST:,})"
        if not len(self.covariance):
            return ""
        variance = self.covariance.diagonal().mean()
        if not variance > 1e-12 * (variance + self.mean.square().mean()):  # but for rounding
            return "its inputs do not vary over the calibration samples"
        return ""

    def cached(self, what: str, make: Callable[[], Any], matrix: Tensor | None = None) -> Any:
        """What `make` gives, which depends on these inputs alone, and on the weights W if given: made once, for several
        methods may ask for it."""
        key = what if matrix is None else f"{what} {key_of(matrix)}"
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def centered(self) -> Inputs:
        """The same for X less its mean: what counts if a bias makes up for the error of the mean."""

        def make() -> Inputs:
            return Inputs(self.covariance, self.sample - self.mean, torch.zeros_like(self.mean), self.rows)

        return self.cached("centered", make)

    @property
    def damped(self) -> Tensor:
        """H as methods take it, see `error_feedback.damped`."""
        return self.cached("damped", lambda: damped(self.second_moment))

    @property
    def upper_factor(self) -> Tensor:
        """R, upper triangular, of the damped H = RRᵀ."""
        return self.cached("upper factor", lambda: upper_cholesky(self.damped))

    def through(self, matrix: Tensor) -> Inputs:
        """The same for X·matrixᵀ: what a layer after a dense one sees."""
        return Inputs(matrix @ self.covariance @ matrix.T, self.sample @ matrix.T, matrix @ self.mean, self.rows)


class Recording(ABC):
    """Inputs of layers of a net that torch cannot run, from what can."""

    @abstractmethod
    def statistics(self, net: nn.Module, layer: nn.Module, seed: int) -> Inputs:
        """The moments of the inputs that `layer` gets where the layers before it are as they are in `net`."""

    @abstractmethod
    def inputs(self, net: nn.Module, layer: nn.Module) -> Tensor:
        """What `layer` is called with, of some samples."""


Samples = Tensor | tuple[Tensor, ...] | Walk | Recording  # (N, …) each; or on their way through the net


def gather(net: nn.Module, layer: nn.Module, samples: Samples, seed: int = 0, second: bool = True) -> Inputs:
    """Runs `samples` through `net` as far as `layer` is called, and accumulates the moments of its inputs.

    Args:
        second: those of second order, too, which wants many rows.
    """
    if isinstance(samples, Recording):
        return samples.statistics(net, layer, seed)
    return _moments(_rows(net, layer, samples, seed, second), second)


def pooled(statistics: list[Inputs]) -> Inputs:
    """Those of the inputs of several layers together, as of such that share a weight."""
    if len(statistics) == 1:
        return statistics[0]
    rows = sum(inputs.rows for inputs in statistics)
    shares = [inputs.rows / rows for inputs in statistics]
    mean = sum(share * inputs.mean for share, inputs in zip(shares, statistics, strict=True))
    covariance = torch.zeros_like(statistics[0].covariance)
    for share, inputs in zip(shares, statistics, strict=True) if len(covariance) else ():
        apart = inputs.mean - mean
        covariance += share * (inputs.covariance + torch.outer(apart, apart))
    sample = torch.cat([inputs.sample for inputs in statistics])
    return Inputs(covariance, sample[:: -(-len(sample) // _SAMPLE)], mean, rows)


def _moments(matrices: Iterator[Tensor], second: bool = True) -> Inputs:
    moments = Moments(second)
    for matrix in matrices:
        moments.add(matrix)
    return moments.inputs()


class Moments:
    """Accumulates them over rows. Sums of products are taken about a point near the mean: about zero the covariance of
    inputs that hardly vary would be lost in rounding.

    Args:
        second: those of second order, too.
    """

    def __init__(self, second: bool = True) -> None:
        self._second = second
        self._moment = self._total = self._sample = self._pivot = torch.empty(0)
        self._rows = 0

    def add(self, matrix: Tensor) -> None:
        """Rows (N, n). The sample is taken from those that come first."""
        if self._rows == 0:
            n, self._pivot = matrix.shape[1], matrix.mean(0)
            kept = n if self._second and n <= _WIDEST else 0
            self._moment, self._total = torch.zeros(kept, kept), torch.zeros(n)
            self._sample = matrix[:: -(-len(matrix) // _SAMPLE)].clone()
        self._rows += len(matrix)
        apart = matrix - self._pivot
        for start in range(0, len(self._moment), _STRIP):  # the part below the diagonal is enough
            stop = start + _STRIP
            self._moment[start:stop, :stop].addmm_(apart[:, start:stop].T, apart[:, :stop])
        self._total += apart.sum(0)

    def inputs(self) -> Inputs:
        """Those of all rows. Once: the sums are used up."""
        if self._rows == 0:
            raise ValueError("no rows to take statistics of")
        moment, apart = self._moment.tril_().div_(self._rows), self._total.div_(self._rows)
        covariance = moment + moment.tril(-1).T
        if len(covariance):
            covariance.addr_(apart, apart, alpha=-1)
        return Inputs(covariance, self._sample, self._pivot + apart, self._rows)


def cross_moment(
    net: nn.Module,
    layer: nn.Module,
    seen_net: nn.Module,
    seen_layer: nn.Module,
    samples: Samples,
    seed: int = 0,
    seen_samples: Samples | None = None,
) -> tuple[Tensor, Tensor]:
    """How the inputs x of a layer go with those x̂ of its twin in another net, for the same samples: the covariance of
    x with x̂ (n, n), and the mean of x (n,).

    Args:
        seen_samples: the same samples where they are on their way through the other net.
    """
    cross = total = seen_total = torch.empty(0)
    count = 0
    seen_samples = samples if seen_samples is None else seen_samples
    pairs = zip(_rows(net, layer, samples, seed), _rows(seen_net, seen_layer, seen_samples, seed), strict=True)
    for rows, seen in pairs:
        if count == 0:
            cross = torch.zeros(rows.shape[1], rows.shape[1])
            total, seen_total = torch.zeros(rows.shape[1]), torch.zeros(rows.shape[1])
        count += len(rows)
        cross.addmm_(rows.T, seen)
        total += rows.sum(0)
        seen_total += seen.sum(0)
    return cross / count - torch.outer(total / count, seen_total / count), total / count


@torch.no_grad()
def fix_ranges(net: nn.Module, layer: nn.Module, replacement: nn.Module, samples: Samples) -> None:
    """Gives the static int8 layers in `replacement` the ranges of their inputs and outputs when it is called with what
    `layer` gets in `net`."""
    seen: dict[Quantized, list[Tensor]] = {part: [] for part in static_parts(replacement)}

    def see(part: Quantized, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        seen[part].append(torch.stack([*arguments[0].aminmax(), *output.aminmax()]))

    handles = [part.register_forward_hook(see) for part in seen]
    try:
        for x in inputs_of(net, layer, samples):
            replacement(x)
    finally:
        for handle in handles:
            handle.remove()
    for part, batches in seen.items():
        low, high = torch.stack(batches).amin(0).tolist(), torch.stack(batches).amax(0).tolist()
        part.ranges = [(low[0], high[1]), (low[2], high[3])]
    if _rectified(net, layer) and (last := _last(replacement)) in seen:
        inputs, (_, highest) = last.ranges
        last.ranges = [inputs, (0.0, max(highest, 0.0))]  # what a ReLU cuts off needs no levels


def _rectified(net: nn.Module, layer: nn.Module) -> bool:
    names: set[str] = getattr(net, "rectified", set())
    return any(net.get_submodule(name) is layer for name in names)


def _last(replacement: nn.Module) -> nn.Module:
    return _last(replacement[-1]) if isinstance(replacement, nn.Sequential) else replacement


def _rows(net: nn.Module, layer: nn.Module, samples: Samples, seed: int, many: bool = True) -> Iterator[Tensor]:
    """The inputs of a layer as rows of what its matrix multiplies; the same seed takes the same rows."""
    generator = torch.Generator().manual_seed(seed)
    columns = weight_matrix(layer).shape[1]
    count, at_once = _counts(net, samples)
    wanted = rows_of_a_sample(count, columns) if many else _ROWS_OF_A_SAMPLE
    limit = max(1, min(at_once * wanted, _NUMBERS // columns))
    matrices = (input_rows(layer, x.float(), limit, generator) for x in inputs_of(net, layer, samples))
    return _large(matrices, ROWS_PER_PRODUCT * calls_of(net, layer))


def rows_of_a_sample(samples: int, columns: int) -> int:
    """How many rows moments of so many columns take from each sample, of those that it has: few samples give more."""
    wanted = _ROWS if columns > _WIDEST else max(_ROWS, _ROWS_OF_A_COLUMN * columns)
    return max(_ROWS_OF_A_SAMPLE, -(-wanted // samples))


def _counts(net: nn.Module, samples: Tensor | tuple[Tensor, ...] | Walk) -> tuple[int, int]:
    """The number of samples, and how many run at a time."""
    if isinstance(samples, Walk):
        return len(samples.samples[0]), samples.batch_size
    count = len(samples if isinstance(samples, Tensor) else samples[0])
    return count, min(count, _at_once(net))


def _at_once(net: nn.Module) -> int:
    return getattr(net, "batch", None) or _BATCH


def _large(matrices: Iterator[Tensor], least: int) -> Iterator[Tensor]:
    """The same rows in matrices of many: a product of few rows with themselves is slow."""
    waiting: list[Tensor] = []
    for matrix in matrices:
        waiting.append(matrix)
        if sum(map(len, waiting)) >= least:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def inputs_of(net: nn.Module, layer: nn.Module, samples: Samples, most: int | None = None) -> Iterator[Tensor]:
    """What `layer` is called with when `net` is with the samples, at most 256 of them at a time; call by call. Of one
    inside a recurrence some rows from all steps.

    Args:
        most: so many samples are enough.
    """
    if isinstance(samples, Walk):
        yield from _inputs_on(samples, layer, most)
        return
    if isinstance(samples, Recording):
        yield samples.inputs(net, layer)
        return
    tensors = tuple(x[:most] for x in (samples if isinstance(samples, tuple) else (samples,)))
    recurrence, calls = recurrence_around(net, layer), calls_of(net, layer)
    caught: list[Tensor] = []
    ended = 0

    def catch(_: str, arguments: tuple[Tensor, ...]) -> None:
        caught.append(arguments[0].detach())
        if recurrence is None and len(caught) == calls:
            raise Enough

    def end(*_: Any) -> None:
        nonlocal ended
        ended += 1
        if ended == calls:
            raise Enough

    for batch in zip(*(x.split(_at_once(net)) for x in tensors), strict=True):
        ended = 0
        around = {} if recurrence is None else {"": recurrence}
        with torch.no_grad(), capture(around, end), capture({"": layer}, catch, before=True):
            net(*map(laid_out, batch))
        yield from caught if recurrence is None else [_some_rows(torch.cat(caught))]
        caught.clear()


def _inputs_on(walk: Walk, layer: nn.Module, most: int | None) -> Iterator[Tensor]:
    """The same on a walk; of a layer within the module that the net calls, by calling that."""
    name = _called(walk.net, layer)
    module = walk.net.get_submodule(name)
    share, seen = 1.0, 0
    for calls in walk.calls_of(name):
        size = walk.batch_size
        share = 1.0 if most is None else min(1.0, (most - seen) / size)
        for arguments in calls:
            x = arguments[0] if module is layer else _within(module, layer, arguments)
            yield x[: max(1, round(share * len(x)))]
        seen += size
        if most is not None and seen >= most:
            return


def _within(module: nn.Module, layer: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
    caught: list[Tensor] = []
    with torch.no_grad(), capture({"": layer}, lambda _, x: caught.append(x[0].detach()), before=True):
        module(*arguments)
    return _some_rows(torch.cat(caught)) if isinstance(module, Recurrence) else caught[0]


def _some_rows(rows: Tensor) -> Tensor:
    """As many as are looked at, from everywhere."""
    return rows[:: -(-len(rows) // _ROWS_OF_A_RECURRENCE)]


def calls_of(net: nn.Module, layer: nn.Module) -> int:
    """How often a forward pass calls a layer, or the module around it; once in nets that are not canonical."""
    counts: dict[str, int] = getattr(net, "calls", {})
    return counts[_called(net, layer)] if counts else 1


def _called(net: nn.Module, layer: nn.Module) -> str:
    """The name of what the net calls: the layer, or a module around it."""
    (name,) = (name for name, module in net.named_modules() if module is layer)
    return next(called for called in net.calls if f"{name}.".startswith(f"{called}."))  # type: ignore[union-attr]


def alike(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those that differ in their first dimension alone, put together."""
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for x in tensors:
        groups.setdefault(tuple(x.shape[1:]), []).append(x)
    return [torch.cat(group) if len(group) > 1 else group[0] for group in groups.values()]
