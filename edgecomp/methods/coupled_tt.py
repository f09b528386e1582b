"""Coupled tensor trains: convolutions of equal shape share cores (Sun et al. 2020).

K_l[t,s,i,j] ≈ Σ G1_l[s,a]·G2[a,i,b]·G3[b,j,c]·G4_l[c,t], or with one G1 for all (see `tensor_train`). The layers share
modules: the net, its checkpoint and its file hold their weights once. With inputs each G4_l is then fitted to its
layer's outputs. A layer whose shape no other has becomes a tensor train of its own.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ..fitting import lowrank, tensor_train
from ..fitting.calibration import Inputs
from ..layers import Factored
from ..layers.matrix import has_bias
from ..records import Cost
from . import tt

KINDS = tt.KINDS
SHARES_FACTORS = True
CANDIDATES = ("bytes=0.1", "bytes=0.25", "bytes=0.5")
refuse, predict, structure, settle, compress = tt.refuse, tt.predict, tt.structure, tt.settle, tt.compress


class Config(lowrank.Reconstructing):
    rank: lowrank.Rank = Field(
        None, description="R: of the products between cores; below 1 a fraction of the largest one."
    )
    own: Literal["t", "st"] = Field(  # for the same bytes st was nearer to the weights, with less work, wherever tried
        "st", description="Cores that every layer has for itself: G4 (t), or G1 and G4 (st)."
    )


def settle_together(layers: list[nn.Conv2d], config: Config) -> Config:
    """The config with its criterion turned into one rank for all the layers. An energy or a cosine is met with G1
    shared: with a G1 for each the kernels are nearer yet."""
    stacked, (criterion, value) = _stacked(layers), config.criterion
    if criterion not in ("macs", "bytes"):
        return tt.settle(stacked, config)
    count = _macs if criterion == "macs" else _bytes

    def fits(rank: int) -> bool:
        return count(layers, structure_together(layers, config.settled(rank))) <= value * count(layers, layers)

    return config.settled(max(1, config.least_rank, lowrank.last_rank(tt.largest_rank(stacked), fits)))


def structure_together(layers: list[nn.Conv2d], config: Config) -> list[Factored]:
    """The parts of all layers, without weights; shared ones are the same modules. The config is settled."""
    with torch.device("meta"):
        first, *others = made = [tt.parts(layer, config.rank, len(layers)) for layer in layers]
    for parts in others:
        for place in (1, 2) if config.own == "st" else (0, 1, 2):
            parts[place] = first[place]
    return made


def refuse_together(layers: list[nn.Conv2d], config: Config) -> str:
    """Why the layers had better not be coupled; empty if they can be."""
    pairs = zip(layers, structure_together(layers, config), strict=True)
    return next(filter(None, (lowrank.not_worth(layer, parts, config) for layer, parts in pairs)), "")


def predict_together(layers: list[nn.Conv2d], config: Config) -> Cost:
    parts = structure_together(layers, config)
    macs = sum(lowrank.cost(layer, own).macs for layer, own in zip(layers, parts, strict=True))
    return Cost(bytes=_bytes(layers, parts), macs=macs)


def compress_together(layers: list[nn.Conv2d], config: Config, seed: int) -> list[Factored]:
    """What nears the weights of all layers together most; `fit_outputs` then does for each what it can."""
    empty = structure_together(layers, config)
    trains = tensor_train.decompose([layer.weight for layer in layers], tt.ranks(empty[0]), config.own)
    return [lowrank.filled(parts, layer, *train) for parts, layer, train in zip(empty, layers, trains, strict=True)]


def fit_outputs(parts: Factored, layer: nn.Conv2d, config: Config, inputs: Inputs | None) -> Factored:
    """The parts with the layer's bias, which may have changed since they were made, and a G4 that suits its inputs."""
    inputs = config.fitted_to(inputs)
    if inputs is None:
        return parts
    if has_bias(layer):
        parts[-1].bias.data.copy_(layer.bias)
    return lowrank.refit_last(parts, layer, inputs)


def _stacked(layers: list[nn.Conv2d]) -> nn.Conv2d:
    """One convolution with the outputs of all: what the layers are if only G4 is their own."""
    first = layers[0]
    geometry = (first.kernel_size, first.stride, first.padding, first.dilation)
    with torch.device("meta"):
        stacked = nn.Conv2d(first.in_channels, len(layers) * first.out_channels, *geometry, bias=False)
    stacked.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
    return stacked


def _macs(layers: list[nn.Conv2d], replacements: list[nn.Module]) -> int:
    pairs = zip(layers, replacements, strict=True)
    return sum(lowrank.total_macs(layer, new if isinstance(new, Factored) else [new]) for layer, new in pairs)


def _bytes(layers: list[nn.Conv2d], replacements: list[nn.Module]) -> int:
    return sum(4 * parameter.numel() for parameter in nn.ModuleList(replacements).parameters())  # shared ones once
