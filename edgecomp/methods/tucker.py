"""Tucker-2: a 1×1 convolution to fewer channels, the d×d one between fewer, a 1×1 back (Kim et al. 2016, §3).

K ≈ Σ C[p,q]·U[t,p]·V[s,q], by higher-order orthogonal iteration; one rank R for the larger side, the other in
proportion.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import lowrank
from ..calibration import Inputs
from ..layers import Factored
from ..records import Cost

KINDS = ("conv",)
_ROUNDS = 10


class Config(lowrank.Ranked):
    """rank: of the larger one of input and output channels; the other's is in proportion."""


def refuse(layer: nn.Module, config: Config) -> str:
    return lowrank.refusal(layer, lambda: structure(layer, config))


def predict(layer: nn.Module, config: Config) -> Cost:
    return lowrank.cost(structure(layer, config))


def structure(layer: nn.Module, config: Config) -> Factored:
    """The parts, without their weights."""
    channels, outputs = layer.in_channels, layer.out_channels

    def parts(rank: int) -> Factored:
        few, many = (-(-side * rank // max(channels, outputs)) for side in (channels, outputs))
        with torch.device("meta"):
            return Factored(
                lowrank.part(layer, channels, few),
                lowrank.part(layer, few, many, "hw"),
                lowrank.part(layer, many, outputs, last=True),
            )

    return parts(lowrank.choose_rank(layer, config, max(channels, outputs), parts))


def compress(
    layer: nn.Module,
    config: Config,
    inputs: Inputs | None,
    seed: int,
    code: Callable[[nn.Module, Inputs | None], nn.Module] | None = None,
) -> nn.Module:
    parts = structure(layer, config)
    kernel = layer.weight.detach().float().flatten(2)  # (T, S, d²)
    right = _basis(kernel.transpose(0, 1), parts[0].out_channels)
    for _ in range(_ROUNDS):
        left = _basis(torch.einsum("tsx,sq->tqx", kernel, right), parts[1].out_channels)
        right = _basis(torch.einsum("tsx,tp->spx", kernel, left), parts[0].out_channels)
    core = torch.einsum("tsx,tp,sq->pqx", kernel, left, right)
    return lowrank.code_parts(lowrank.filled(parts, layer, right.T, core, left), code)


def _basis(tensor: Tensor, rank: int) -> Tensor:
    """The strongest directions of the first axis, (size, R)."""
    rows = tensor.flatten(1)
    return torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -rank:]
