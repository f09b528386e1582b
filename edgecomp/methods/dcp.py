"""Discrimination-aware channel pruning: those along which the joint loss falls fastest stay (Zhuang et al. 2018).

See `pruning.discrimination`.
"""

from ..pruning import discrimination

KINDS = ("conv",)
PRUNES = True
stages, rank = discrimination.stages, discrimination.rank


class Config(discrimination.Discriminating):
    """As of `Discriminating`."""
