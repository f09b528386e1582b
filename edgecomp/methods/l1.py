"""Channel pruning by weight sums: those whose filters have the smallest sum of absolute weights go (Li et al. 2017)."""

from torch import Tensor

from ..pruning.groups import Group
from ..pruning.state import PruningState
from ..pruning.widths import Pruned

KINDS = ("conv",)
PRUNES = True
NEEDS_DATA = False


class Config(Pruned):
    """As of all pruning; without data nothing is trained."""


def score(job: PruningState, group: Group) -> Tensor:
    """Σ|w| of the filters that make each unit, (units,)."""
    return job.per_unit(group.side("out"), lambda layer: layer.weight.abs().flatten(1).sum(1))
