"""Channel pruning by the scales of batch norms, made sparse by training with an ℓ1 penalty (Liu et al. 2017).

The smallest scales of the whole net go, so that every group gets a width of its own.
"""

from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..pruning.groups import Group
from ..pruning.state import PruningState
from ..pruning.tuning import Tuning, steps_of
from ..pruning.widths import Pruned

KINDS = ("conv",)
PRUNES = True
FINDS_WIDTHS = True


class Config(Pruned):
    sparsity: float = Field(1e-4, ge=0, description="Weight of the ℓ1 penalty Σ|γ| on scales of batch norms.")
    choosing: float = Field(0.5, ge=0, description="Epochs of training with the penalty, before channels are chosen.")


def refuse(group: Group, net: nn.Module) -> str:
    return "" if _scales(group, net) else "no batch norm scales its channels"


def stages(job: PruningState) -> list[list[Group]]:
    return [job.groups]


def rank(job: PruningState, groups: list[Group]) -> None:
    """Trains with the penalty, then ranks by |γ|."""
    assert job.data is not None
    norms = [m for m in job.net.modules() if isinstance(m, _BatchNorm) and m.weight is not None]

    def loss(net: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        penalty = sum(norm.weight.abs().sum() for norm in norms)
        return job.loss(net, inputs, targets) + job.config.sparsity * penalty

    steps = steps_of(job.config.choosing, job.data.train)
    Tuning(job.net, job.data.train, steps, job.config.rate, job.seed * 1009 + 1, loss).run("training sparse scales")
    for group in groups:
        parts = tuple(part for part in group.side("both") if part.layer in _scales(group, job.net))
        scores = job.per_unit(parts, lambda norm: norm.weight.abs()) / len(parts)
        ranked = scores.sort(descending=True, stable=True)
        job.choose(group, ranked.indices, ranked.values)


def _scales(group: Group, net: nn.Module) -> list[str]:
    """The batch norms of a group."""
    names = [part.layer for part in group.side("both")]
    return [name for name in names if isinstance(net.get_submodule(name), _BatchNorm)]
