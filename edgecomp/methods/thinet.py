"""Channel pruning by the next layer's outputs: those go, one by one, whose sum says least about them (Luo et al. 2017).

ThiNet looks at sampled outputs y = Σ_c x̂_c of the next layer, grows the set T of channels to remove by the one that
keeps Σ(Σ_T x̂_c)² smallest, and gives each channel that stays a factor by least squares.
"""

import torch
from torch import Tensor

from ..pruning.groups import Group
from ..pruning.reconstruction import contributions
from ..pruning.state import PruningState
from ..pruning.surgery import InputColumns
from ..pruning.widths import Pruned

KINDS = ("conv",)
PRUNES = True
_RIDGE = 1e-3


class Config(Pruned):
    """As of all pruning."""


def rank(job: PruningState, groups: list[Group]) -> None:
    (group,) = groups
    with torch.no_grad():
        gram = contributions(job, group, outputs=1).double()
        gram = gram.T @ gram
        order = removal_order(gram).flip(0)
        _scale(job, group, gram, order[: job.keeps[group.name]])
        job.choose(group, order)


def removal_order(gram: Tensor) -> Tensor:
    """Channels in the order in which they go, from Σ x̂_a x̂_b (units, units)."""
    order: list[int] = []
    together = torch.zeros(len(gram), dtype=gram.dtype)  # Σ_{c∈T} x̂_c x̂_j for every j
    for _ in range(len(gram)):
        growth = 2 * together + gram.diagonal()
        growth[order] = torch.inf
        order.append(int(growth.argmin()))
        together += gram[order[-1]]
    return torch.tensor(order)


def _scale(job: PruningState, group: Group, gram: Tensor, kept: Tensor) -> None:
    """Multiplies weights of kept channels by the factors with which they make up best for the others."""
    own = gram[kept][:, kept]
    ridge = _RIDGE * own.diagonal().mean().clamp(min=1e-12)
    own.diagonal().add_(ridge)
    factors = torch.linalg.solve(own, gram[kept].sum(1) + ridge).float()
    for part in group.side("in"):
        layer = job.net.get_submodule(part.layer)
        for unit, factor in zip(kept, factors, strict=True):
            layer.weight[:, InputColumns(layer, part, unit[None]).index] *= factor
