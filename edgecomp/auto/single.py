"""What a layer costs beside its weights: a file of little but that layer is made, and weighed or run.

The bytes that a file has beside weights depend on what a layer is made of, not on its shape; so two small layers of the
same kind, one after the other, stand for it. Instructions are those of the layer itself, unless it is a large dense
one: a smaller one of the same kind takes as many per multiply-add. What was found out is kept for this user.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import chain, discover
from ..compress import replace_weights
from ..devices import probe
from ..fitting import calibration, lowrank
from ..graph.order import note_image_sizes
from ..layers.matrix import kind_of
from ..layers.quantized import static_parts
from ..util.cache import RUNNING, key_of, remembered
from ..util.files import cache_folder, temporary_folder
from .candidates import Candidate

_CODE = (*RUNNING, "auto.single")
_SMALL, _LARGE = 16, 1024  # channels or features of a stand-in
_SIZES = ("rank", "s", "k")  # settings that change sizes, and not what a layer is made of


def container_bytes(layer: nn.Module, candidate: Candidate, runtime: str) -> int:
    """What a file has beside weights for one more layer of that kind."""
    kind, point = kind_of(layer), all(size == 1 for size in getattr(layer, "kernel_size", ()))
    alike = [type(layer).__name__, point, getattr(layer, "groups", 1) > 1, getattr(layer, "bias", None) is not None]
    settings = _settings(candidate, _SIZES)
    key = key_of("container", runtime, _version(runtime), alike, candidate.method, settings, code=_CODE)

    def weigh() -> float:
        modules, weights, beside = [], 0, []
        for seed in range(2):  # a file holds equal weights once
            small, x = _stand_in(layer, _SMALL * (8 if kind == "dense" else 1), seed)
            made, method = _made(small, candidate, runtime, x)
            weights += method.predict(small).bytes if method else lowrank.cost(small, [small]).bytes
            modules += [made, nn.ReLU()]
            with temporary_folder() as folder:
                beside.append(_exported(nn.Sequential(*modules), x, runtime, folder).stat().st_size - weights)
            if kind == "embedding":  # none takes another's outputs
                return beside[0]
        return beside[1] - beside[0]

    return int(_remembered(key, weigh))


def instructions_per_mac(layer: nn.Module, x: Tensor, candidate: Candidate, runtime: str, target: str) -> float:
    """ARM64 instructions, counted by the emulator.

    Args:
        x: (1, …) an input of the layer.
    """
    dense = isinstance(layer, nn.Linear)
    small, x = _stand_in(layer, _LARGE, x=x) if dense and max(layer.weight.shape) > _LARGE else (layer, x)
    geometry = [str(getattr(small, key, "")) for key in ("stride", "padding", "dilation")]
    shape = [type(small).__name__, *small.weight.shape, *geometry, *x.shape]  # type: ignore[misc]
    settings, version = _settings(candidate, _SIZES[:2]), _version(runtime)
    key = key_of("instructions", runtime, version, target, shape, candidate.method, settings, code=_CODE)

    def count() -> float:
        with temporary_folder() as folder:
            made, method = _made(small, candidate, runtime, x)
            macs = method.predict(small).macs if method else lowrank.cost(small, [small]).macs
            figures = probe.measured(
                _exported(nn.Sequential(made), x, runtime, folder), runtime, target, x, emulated=True
            )
            return figures["instructions"] / max(1, macs * lowrank.outputs_of(small))

    return _remembered(key, count)


def input_of(net: nn.Module, examples: tuple[Tensor, ...], layer: nn.Module) -> Tensor:
    """What the layer gets for the model's example inputs."""
    return next(calibration.inputs_of(net, layer, examples))


def _remembered(key: str, find: Callable[[], float]) -> float:
    with torch.no_grad():
        return remembered(cache_folder("single-layers"), key, find)


def _version(runtime: str) -> str:
    return discover.runtime(runtime).version()


def _settings(candidate: Candidate, without: tuple[str, ...]) -> list[tuple[str, Any]]:
    return sorted((k, v) for k, v in candidate.settings.items() if k.rpartition(".")[2] not in without)


def _stand_in(layer: nn.Module, most: int, seed: int = 0, x: Tensor | None = None) -> tuple[nn.Module, Tensor]:
    """A layer of the same kind with at most so many channels, and an input for it; without one as many as outputs."""
    torch.manual_seed(seed)
    bias = getattr(layer, "bias", None) is not None
    if isinstance(layer, nn.Linear):
        rows, columns = (most if x is None else min(most, size) for size in layer.weight.shape)
        return nn.Linear(columns, rows, bias).eval(), torch.randn(1, most) if x is None else x[..., :columns].clone()
    if isinstance(layer, nn.Embedding):
        return nn.Embedding(most, most).eval(), torch.zeros(1, 4, dtype=torch.long)
    groups = most if layer.groups > 1 else 1  # type: ignore[operator]
    geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation")}
    made = type(layer)(most, most, layer.kernel_size, groups=groups, bias=bias, **geometry).eval()  # type: ignore[operator, arg-type]
    axes = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)  # type: ignore[arg-type]
    x = torch.randn(1, most, *((k + 2) * (stride + 1) * dilation for k, stride, dilation in axes))  # twice is possible
    note_image_sizes(made, (x,))
    return made, x


def _made(layer: nn.Module, candidate: Candidate, runtime: str, x: Tensor) -> tuple[nn.Module, chain.Chain | None]:
    """What the candidate makes of the layer, and its method."""
    if candidate.method is None:
        return layer, None
    most = max(1, min(layer.weight.shape[:2]) // 2)  # type: ignore[index]
    settings = {k: min(v, most) if k.rpartition(".")[2] == "rank" else v for k, v in candidate.settings.items()}
    method = chain.restore(candidate.method, settings, runtime)
    made = replace_weights(copy.deepcopy(layer), method, None, 0)
    if static_parts(made):
        calibration.fix_ranges(nn.Sequential(layer), layer, made, x)
    return made, method


def _exported(net: nn.Module, x: Tensor, runtime: str, folder: str) -> Path:
    own = discover.runtime(runtime)
    path = Path(folder, f"layer{own.SUFFIX}")
    own.export(net.eval(), (x,), path)
    return path
