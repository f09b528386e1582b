"""Discrimination-aware channel pruning: those along which the joint loss falls fastest stay (Zhuang et al. 2018).

See `pruning.discrimination`.
"""

from ..pruning import discrimination

KINDS = ("conv",)
PRUNES = True
stages, rank = discrimination.stages, discrimination.rank


class Config(discrimination.Discriminating):
    """losses: P, put on evenly spaced layers. weight: λ of their loss against the error of the features. choosing:
    epochs of training while channels are chosen. rounds: they are chosen in so many steps. updates: steps of SGD after
    each."""
