"""Channel pruning as dcp does it, until a channel no longer lowers the loss: layers find their own widths.

DCP-Adapt stops choosing when |L(Wᵗ⁻¹) − L(Wᵗ)| / L(W⁰) ≤ ε (Zhuang et al. 2018, §3.4). ε is the one that meets the
criterion, or the one that is given: a first pass ranks all channels, and says where each layer would stop for any ε;
dcp then chooses among them as if it had stopped there, with weights that have seen no others.
"""

from typing import ClassVar

from pydantic import Field

from ..pruning import discrimination
from ..pruning.groups import Group
from ..pruning.state import PruningState
from . import dcp

KINDS = dcp.KINDS
PRUNES = True
FINDS_WIDTHS = True
CHOOSES_AGAIN_BY = "dcp"
stages = dcp.stages


class Config(dcp.Config):
    WISHES: ClassVar[tuple[str, ...]] = (*dcp.Config.WISHES, "eps")

    eps: float | None = Field(
        None, gt=0, description="ε itself: a layer gets channels while each lowers the loss by more."
    )


def rank(job: PruningState, groups: list[Group]) -> None:
    """Ranks all channels, by how much of the loss each takes away when its turn comes."""
    discrimination.rank(job, groups, everything=True)
