"""Channel pruning by activity: those that are zero most often on calibration inputs go (Hu et al. 2016, APoZ)."""

import torch
from torch import Tensor

from ..fitting.calibration import inputs_of
from ..pruning.groups import Group
from ..pruning.state import PruningState
from ..pruning.widths import Pruned

KINDS = ("conv",)
PRUNES = True


class Config(Pruned):
    """As of all pruning."""


def score(job: PruningState, group: Group) -> Tensor:
    """The fraction of what the next layers get of each unit that is not zero, (units,)."""
    active = torch.zeros(group.units)
    for part in group.side("in"):
        layer = job.net.get_submodule(part.layer)
        batches = [(x != 0).float().movedim(1, 0).flatten(1).mean(1) for x in inputs_of(job.net, layer, job.samples)]
        active += torch.stack(batches).mean(0)[part.index].mean(1)
    return active
