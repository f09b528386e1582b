"""Channel pruning as dcp does it, of channels drawn at random: the paper's Random DCP (Zhuang et al. 2018)."""

from ..pruning import discrimination
from ..pruning.groups import Group
from ..pruning.state import PruningState
from . import dcp

KINDS = dcp.KINDS
PRUNES = True
Config = dcp.Config
stages = dcp.stages


def rank(job: PruningState, groups: list[Group]) -> None:
    """The stages, losses and steps of SGD are those of dcp."""
    discrimination.rank(job, groups, randomly=True)
