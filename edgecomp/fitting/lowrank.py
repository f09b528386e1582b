"""What the factorizations share: ranks by criteria, parts of layers, their costs, and which layers are worth it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Factored
from ..layers.matrix import explicit_padding, has_bias, kind_of, set_weight_matrix, unsupported, weight_matrix
from ..records import Cost, Knob, Record
from .calibration import Inputs

_CRITERIA = ("rank", "macs", "bytes", "energy", "cosine")
_NOMINAL_PIXELS = 64  # of the output along each axis, where a layer has not been seen at work

Rank = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None


class Ranked(Record):
    """The rank, or what it is chosen by: at most one of those, else `DEFAULT`."""

    DEFAULT: ClassVar[dict[str, float]] = {"macs": 0.25}
    KNOB: ClassVar[Knob] = Knob("bytes", tuple(float(f"{0.95**n:.3g}") for n in range(1, 140)), _CRITERIA)

    rank: Rank = Field(None, description="The rank R itself, or below 1 a fraction of the largest one.")
    macs: float | None = Field(
        None, gt=0, lt=1, description="The largest rank that leaves at most this fraction of the multiply-adds."
    )
    bytes: float | None = Field(
        None, gt=0, lt=1, description="The largest rank that leaves at most this fraction of the bytes."
    )
    energy: float | None = Field(None, gt=0, le=1, description="The smallest rank that keeps this fraction of ‖W‖².")
    cosine: float | None = Field(
        None, gt=0, le=1, description="The smallest rank with cos(vec W, vec Ŵ) at least this."
    )
    least_rank: int = Field(1, ge=1, description="Lower bound of R.")
    worth: float = Field(
        1, gt=0, le=1, description="A layer that would keep more than this fraction of its multiply-adds is left alone."
    )

    @model_validator(mode="after")
    def _one_criterion(self) -> Ranked:
        given = [name for name in _CRITERIA if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say what the rank is; give one of them")
        return self

    @property
    def criterion(self) -> tuple[str, float]:
        """The setting that decides the rank, and its value."""
        given = [(name, getattr(self, name)) for name in _CRITERIA if getattr(self, name) is not None]
        return next(iter([*given, *self.DEFAULT.items()]))

    def settled(self, rank: int) -> Any:
        """The same with the rank settled."""
        return self.model_copy(update={**dict.fromkeys(_CRITERIA), "rank": rank})


class Reconstructing(Ranked):
    """The same for convolutions, whose parts are fitted to outputs (Jaderberg et al. 2014, §2.3)."""

    reconstruction: Literal["joint", "data", "filter"] = Field(
        "joint",
        description="What the parts minimise. joint: the error of the layer's outputs, given what the compressed "
        "layers before it give. data: the same on the original inputs. filter: the error of the weights; the only one "
        "without data.",
    )

    def fitted_to(self, inputs: Inputs | None) -> Inputs | None:
        """The inputs that the weights are fitted to, if any."""
        return None if self.reconstruction == "filter" else inputs


Parts = Callable[[nn.Module, int], Factored]
Compress = Callable[[nn.Module, Any, Inputs | None, int], Factored]
Unfolded = Callable[[nn.Module], Tensor]


def spatial_refusal(layer: nn.Module) -> str:
    """Why a layer has no spatial kernel to factorize; empty if it has one."""
    if kind_of(layer) != "conv":
        return "only convolutions are factorized so; svd takes dense layers"
    if unsupported(layer):
        return unsupported(layer)
    return "a 1×1 kernel has no space to separate; svd takes it" if max(layer.kernel_size) == 1 else ""


def interface(
    largest_rank: Callable[[nn.Module], int],
    parts: Parts,
    compress: Compress,
    refusal: Callable[[nn.Module], str] = spatial_refusal,
    unfolded: Unfolded | None = None,
) -> tuple[Callable[..., str], Callable[..., Cost], Callable[..., Factored], Callable[..., Any]]:
    """`refuse`, `predict`, `structure` and `settle` of a factorization.

    Args:
        largest_rank: of a layer.
        parts: by rank, what a layer becomes, without weights.
        compress: the method's; without inputs it gives the nearest weights.
        refusal: why a layer has no kernel that could be factorized so; empty if it has one.
        unfolded: the matrix whose truncated SVD the nearest weights are, if they are one: one spectrum then answers
            what every rank would keep.
    """

    def settle(layer: nn.Module, config: Any) -> Any:
        """The config with its criterion turned into a rank; as it is for a layer that is refused."""
        if refusal(layer):
            return config
        criterion, value = config.criterion
        if unfolded and criterion in ("energy", "cosine"):
            rank = rank_that_keeps(energies(unfolded(layer)), criterion, value)
        else:
            rank = _choose_rank(layer, config, largest_rank(layer), parts, compress)
        return config.settled(min(max(config.least_rank, rank), largest_rank(layer)))

    def structure(layer: nn.Module, config: Any) -> Factored:
        """The parts, without weights."""
        with torch.device("meta"):
            return parts(layer, settle(layer, config).rank)

    def refuse(layer: nn.Module, config: Any) -> str:
        return refusal(layer) or not_worth(layer, structure(layer, config), config)

    def predict(layer: nn.Module, config: Any) -> Cost:
        return cost(layer, structure(layer, config))

    return refuse, predict, structure, settle


def _choose_rank(layer: nn.Module, config: Ranked, largest: int, parts: Parts, compress: Compress) -> int:
    """The rank that a config asks for, by trial where the parts are no truncated SVD."""
    criterion, value = config.criterion
    if criterion == "rank":
        return max(1, round(value * largest)) if value < 1 else int(value)

    def fits(rank: int, fraction: float, count: Callable[[nn.Module, Iterable[nn.Module]], int]) -> bool:
        with torch.device("meta"):
            return count(layer, parts(layer, rank)) <= fraction * count(layer, [layer])

    if criterion in ("macs", "bytes"):
        count = total_macs if criterion == "macs" else _total_bytes
        return last_rank(largest, lambda rank: fits(rank, value, count))

    def falls_short(rank: int) -> bool:
        plain = {name: kind for name, kind in (("reconstruction", "filter"), ("fit", "plain")) if hasattr(config, name)}
        with torch.no_grad():
            after = compress(layer, config.settled(rank).model_copy(update=plain), None, 0).decode()
        return _kept(weight_matrix(layer), after, criterion) < value - 1e-6

    # Beyond the last rank that saves work none is tried: such a layer is left alone anyway. Small ranks are quick.
    useful, most = last_rank(largest, lambda rank: fits(rank, config.worth, total_macs)), 1
    while most < useful and falls_short(most):
        most *= 2
    return last_rank(min(most, useful), falls_short) + 1


@torch.no_grad()
def energies(matrix: Tensor) -> Tensor:
    """The squares of the singular values, the largest first."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(matrix @ matrix.T).flip(0).clamp(min=0)


def rank_that_keeps(energies: Tensor, criterion: str, value: float) -> int:
    """The smallest rank at which a truncated SVD keeps that fraction of ‖W‖² (`energy`), or has cos(vec W, vec Ŵ) at
    least `value` (`cosine`). What it leaves out is orthogonal to what it keeps, so the cosine is ‖Ŵ‖/‖W‖."""
    kept = energies.double().cumsum(0) / energies.double().sum().clamp(min=1e-30)
    return int((kept < (value**2 if criterion == "cosine" else value) - 1e-6).sum()) + 1


def last_rank(most: int, holds: Callable[[int], bool]) -> int:
    """The last of 1 … most for which something holds that holds up to some rank; 0 if for none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _kept(before: Tensor, after: Tensor, measure: str) -> float:
    if measure == "cosine":
        return F.cosine_similarity(before.flatten().double(), after.flatten().double(), dim=0).item()
    return 1 - ((before - after).square().sum() / before.square().sum().clamp(min=1e-30)).item()


def cost(layer: nn.Module, parts: Iterable[nn.Module]) -> Cost:
    """What the parts of a layer store, and their multiply-adds for one of its outputs (of a convolution: pixel)."""
    parts = list(parts)
    return Cost(bytes=_total_bytes(layer, parts), macs=-(-total_macs(layer, parts) // outputs_of(layer)))


def _total_bytes(layer: nn.Module, parts: Iterable[nn.Module]) -> int:
    return sum(4 * parameter.numel() for part in parts for parameter in part.parameters())


def total_macs(layer: nn.Module, parts: Iterable[nn.Module]) -> int:
    """Multiply-adds of modules that take the place of `layer` one after the other, for one inference: every part has
    its own number of pixels."""
    size, total = _image_size(layer), 0
    for part in parts:
        if isinstance(part, nn.Conv2d):
            size = _output_size(part, size)
        if not isinstance(part, nn.Embedding):
            total += part.weight.numel() * size[0] * size[1]  # type: ignore[operator, union-attr]
    return total


def outputs_of(layer: nn.Module) -> int:
    """Outputs of a convolution along both axes; 1 of other layers."""
    height, width = _output_size(layer, _image_size(layer)) if isinstance(layer, nn.Conv2d) else (1, 1)
    return height * width


def _image_size(layer: nn.Module) -> tuple[int, int]:
    """Pixels of a convolution's inputs: those `note_image_sizes` saw, or such that a nominal number comes out."""
    if not isinstance(layer, nn.Conv2d):
        return 1, 1
    axes = zip(layer.kernel_size, layer.stride, layer.dilation, explicit_padding(layer), strict=True)
    nominal = tuple((_NOMINAL_PIXELS - 1) * s + d * (k - 1) + 1 - 2 * p for k, s, d, p in axes)
    return getattr(layer, "image_size", nominal)


def _output_size(part: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    axes = zip(size, part.kernel_size, part.stride, part.dilation, explicit_padding(part), strict=True)
    height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in axes)
    return height, width


def not_worth(layer: nn.Module, parts: Factored, config: Ranked) -> str:
    """Why the parts are not worth it: more work than the config allows, or more bytes; empty if they are."""
    before, after = cost(layer, [layer]), cost(layer, parts)
    criterion = " ".join(f"{name}={value:g}" for name, value in [config.criterion])
    if after.macs >= before.macs or after.macs > config.worth * before.macs:
        limit = f"no less than {before.macs:,}" if config.worth == 1 else f"over {config.worth:g} of {before.macs:,}"
        return f"with {criterion} it would take {after.macs:,} multiply-adds a pixel, {limit}"
    return (
        f"with {criterion} it would take {after.bytes:,} bytes of {before.bytes:,}"
        if after.bytes >= before.bytes
        else ""
    )


def part(layer: nn.Conv2d, inputs: int, outputs: int, axes: str = "", groups: int = 1, last: bool = False) -> nn.Conv2d:
    """A convolution that does what `layer` does along some of the axes `h` and `w`, and is 1 wide along the others.

    The last part has the bias.
    """

    def along(values: tuple[int, ...], other: int) -> tuple[int, ...]:
        return tuple(value if axis in axes else other for axis, value in zip("hw", values, strict=True))

    return nn.Conv2d(
        inputs,
        outputs,
        along(layer.kernel_size, 1),
        along(layer.stride, 1),
        along(explicit_padding(layer), 0),
        along(layer.dilation, 1),
        groups,
        last and has_bias(layer),
    )


def filled(parts: Factored, layer: nn.Conv2d, *weights: Tensor) -> Factored:
    """The parts with their weights, and the layer's bias in the last one."""
    parts = parts.to_empty(device="cpu")
    with torch.no_grad():
        for module, weight in zip(parts, weights, strict=True):
            module.weight.copy_(weight.reshape(module.weight.shape))
        if has_bias(layer):
            parts[-1].bias.copy_(layer.bias)
    return parts


@torch.no_grad()
def refit_last(parts: Factored, layer: nn.Module, inputs: Inputs | None) -> Factored:
    """The parts with such weights in the last, a 1×1, that ‖X(W−Ŵ)ᵀ‖² is least given the others; without inputs
    ‖W−Ŵ‖²."""
    basis = Factored(*parts[:-1]).decode()  # (R, n): what the last part sees of the layer's inputs
    moved = basis if inputs is None else basis @ inputs.damped
    gram = moved @ basis.T
    gram.diagonal().add_(1e-7 * gram.diagonal().mean())
    set_weight_matrix(parts[-1], torch.linalg.solve(gram, moved @ weight_matrix(layer).T).T)
    return parts


def conjugate_gradients(operator: Callable[[Tensor], Tensor], wanted: Tensor, x: Tensor, steps: int) -> Tensor:
    """A few steps towards operator(x) = wanted, of a symmetric positive operator."""
    residual = wanted - operator(x)
    direction, power = residual, residual.square().sum()
    for _ in range(steps):
        moved = operator(direction)
        step = power / (direction * moved).sum().clamp(min=1e-30)
        x, residual = x + step * direction, residual - step * moved
        power, before = residual.square().sum(), power
        direction = residual + power / before.clamp(min=1e-30) * direction
    return x
