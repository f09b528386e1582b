"""Tensor train: a 1×1 convolution, d×1, 1×d and a 1×1, all of them dense (Oseledets 2011; Novikov et al. 2015).

K[t,s,i,j] ≈ Σ G1[s,a]·G2[a,i,b]·G3[b,j,c]·G4[c,t], by TT-SVD (see `tensor_train`). With inputs G4 is then fitted to
the outputs.
"""

from pydantic import Field
from torch import nn

from ..fitting import lowrank, tensor_train
from ..fitting.calibration import Inputs
from ..layers import Factored

KINDS = ("conv",)
CANDIDATES = ("macs=0.1", "macs=0.2", "macs=0.35")


class Config(lowrank.Reconstructing):
    rank: lowrank.Rank = Field(
        None, description="R: of the products between cores; below 1 a fraction of the largest one."
    )


def largest_rank(layer: nn.Conv2d) -> int:
    return max(tensor_train.bounds(layer.weight.shape))


def parts(layer: nn.Conv2d, rank: int, layers: int = 1) -> Factored:
    """`layers`: how many of that shape share the first three cores."""
    first, second, third = (min(rank, bound) for bound in tensor_train.bounds(layer.weight.shape, layers))
    return Factored(
        lowrank.part(layer, layer.in_channels, first),
        lowrank.part(layer, first, second, "h"),
        lowrank.part(layer, second, third, "w"),
        lowrank.part(layer, third, layer.out_channels, last=True),
    )


def ranks(parts: Factored) -> tuple[int, ...]:
    return tuple(part.out_channels for part in parts[:-1])


def compress(layer: nn.Module, config: lowrank.Reconstructing, inputs: Inputs | None, seed: int) -> Factored:
    empty = structure(layer, config)
    (train,) = tensor_train.decompose([layer.weight], ranks(empty))
    parts, inputs = lowrank.filled(empty, layer, *train), config.fitted_to(inputs)
    return parts if inputs is None else lowrank.refit_last(parts, layer, inputs)


refuse, predict, structure, settle = lowrank.interface(largest_rank, parts, compress)
