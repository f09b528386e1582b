"""What the factorizations of convolutions share: ranks from wishes, the parts, and which layers are worth it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .layers import Factored
from .layers.matrix import explicit_padding, has_bias, kind_of, unsupported
from .records import Cost, Record

_DEFAULT_MACS = 0.25


class Ranked(Record):
    """rank: R itself; or the largest rank that leaves at most a fraction of the multiply-adds (`macs`, 0.25 unless
    told) or of the bytes (`bytes`)."""

    rank: int | None = Field(None, ge=1)
    macs: float | None = Field(None, gt=0, lt=1)
    bytes: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_wish(self) -> Ranked:
        given = [name for name in _WISHES if getattr(self, name, None) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say what the rank is; give one of them")
        return self


class Spectral(Ranked):
    """energy: the smallest rank that keeps this fraction of ‖W‖². cosine: the smallest with cos(vec W, vec Ŵ) at least
    that (which is the root of the energy kept)."""

    energy: float | None = Field(None, gt=0, le=1)
    cosine: float | None = Field(None, gt=0, le=1)


_WISHES = ("rank", "macs", "bytes", "energy", "cosine")
Structure = Callable[[int], Factored]


def choose_rank(layer: nn.Conv2d, config: Ranked, most: int, parts: Structure, spectrum: Tensor | None = None) -> int:
    """The rank that a Config wishes for: the one place that decides it.

    Args:
        most: the largest rank there is.
        parts: by rank, what the layer becomes.
        spectrum: singular values, for `energy` and `cosine`.
    """
    if config.rank is not None:
        return min(config.rank, most)
    wanted = getattr(config, "energy", None) or (getattr(config, "cosine", None) or 0) ** 2
    if wanted:
        assert spectrum is not None
        kept = spectrum.double().square().cumsum(0) / spectrum.double().square().sum().clamp(min=1e-300)
        return min(most, int((kept < wanted - 1e-12).sum()) + 1)
    fraction = config.bytes or config.macs or _DEFAULT_MACS
    count: Callable[[nn.Module], int] = stored_bytes if config.bytes else macs_per_pixel
    low, high = 1, most
    while low < high:  # costs rise with the rank
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(parts(middle)) <= fraction * count(layer) else (low, middle - 1)
    return low


def cost(parts: Factored) -> Cost:
    return Cost(bytes=stored_bytes(parts), macs=macs_per_pixel(parts))


def stored_bytes(module: nn.Module) -> int:
    return sum(4 * parameter.numel() for parameter in module.parameters())


def macs_per_pixel(module: nn.Module) -> int:
    """Multiply-adds for one output pixel, as if every part had as many pixels as the last."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv2d))


def refusal(layer: nn.Module, parts: Callable[[], Factored]) -> str:
    """Why a convolution is not factorized: it cannot be, or would not get faster; empty if it is."""
    if kind_of(layer) != "conv":
        return "only convolutions are factorized so; svd takes dense layers"
    if unsupported(layer):
        return unsupported(layer)
    if max(layer.kernel_size) == 1:
        return "a 1×1 kernel has no space to separate; svd takes it"
    before, after = macs_per_pixel(layer), macs_per_pixel(parts())
    return f"it would take {after:,} multiply-adds a pixel, no less than {before:,}" if after >= before else ""


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


def code_parts(parts: Factored, code: Callable[[nn.Module, Any], nn.Module] | None) -> Factored:
    """The parts with codes in place of weights, where `code` says so."""
    return parts if code is None else Factored(*(code(part, None) for part in parts))
