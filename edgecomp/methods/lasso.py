"""Channel pruning by LASSO regression on the next layer's outputs, then least squares (He, Zhang & Sun 2017).

min_β ‖Y − Σ_c β_c Z_c‖²/2N + λ‖β‖₁, Z_c what channel c contributes to sampled outputs Y of the next layer; λ falls, by
least-angle regression, until as many β as wanted are not 0. Channels that stay get the weights that come nearest to
what the layer gave before pruning, given what it gets now.
"""

import torch
from sklearn.linear_model import lars_path_gram
from torch import Tensor, nn

from ..fitting import calibration
from ..layers.matrix import has_bias, kind_of, set_weight_matrix, weight_matrix
from ..pruning.groups import Group, Part
from ..pruning.reconstruction import contributions
from ..pruning.state import PruningState
from ..pruning.surgery import InputColumns
from ..pruning.widths import Pruned

KINDS = ("conv",)
PRUNES = True
_RIDGE, _TIE_BREAKER = 1e-3, 1e-9


class Config(Pruned):
    """As of all pruning."""


def rank(job: PruningState, groups: list[Group]) -> None:
    (group,) = groups
    with torch.no_grad():
        gram = contributions(job, group, outputs=0).double()
        gram = gram.T @ gram / len(gram)
        order = selected(gram, job.keeps[group.name])
        job.choose(group, order)
        for part in group.side("in"):
            if getattr(job.net.get_submodule(part.layer), "groups", 1) == 1:
                _refit(job, part, order)


def selected(gram: Tensor, keep: int) -> Tensor:
    """The `keep` units that LASSO leaves, given E[Z_a Z_b] (units, units); the largest β first. Y is their sum."""
    ridge = _TIE_BREAKER * gram.diagonal().mean().clamp(min=1e-30)  # equal channels share what one of them would get
    matrix = (gram + ridge * torch.eye(len(gram), dtype=gram.dtype)).numpy()
    steps = 8 * len(gram)  # β that come and go
    _, _, path = lars_path_gram(gram.sum(1).numpy(), matrix, n_samples=1, max_iter=steps, method="lasso")
    enough = (path != 0).sum(0) >= keep  # λ falls along the path
    beta = torch.from_numpy(path[:, enough.argmax() if enough.any() else -1].copy())
    strength = beta.abs() * gram.diagonal().sqrt()
    return strength.sort(descending=True, stable=True).indices[:keep]


def _refit(job: PruningState, part: Part, order: Tensor) -> None:
    """Gives the layer the weights that, on the channels x̂ it has left, come nearest to W·x of the original net:
    W·E[x x̂ᵀ]·E[x̂ x̂ᵀ]⁻¹; with a bias, of what deviates from the means."""
    layer, first = job.net.get_submodule(part.layer), job.original.get_submodule(part.layer)
    cross, mean = calibration.cross_moment(job.original, first, job.net, layer, job.samples, job.seed)
    inputs = calibration.gather(job.net, layer, job.samples, job.seed)
    moment = inputs.second_moment
    if has_bias(layer):
        moment = inputs.covariance
    else:
        cross = cross + torch.outer(mean, inputs.mean)
    kept = _columns(layer, part, order)
    own = moment[kept][:, kept]
    own.diagonal().add_(_RIDGE * own.diagonal().mean().clamp(min=1e-12))
    matrix = torch.zeros_like(weight_matrix(layer))
    matrix[:, kept] = torch.linalg.solve(own, (weight_matrix(first) @ cross[:, kept]).T).T
    if has_bias(layer):
        layer.bias.copy_(first.bias + weight_matrix(first) @ mean - matrix @ inputs.mean)
    set_weight_matrix(layer, matrix)


def _columns(layer: nn.Module, part: Part, units: Tensor) -> Tensor:
    """Where the units are in the layer's weight matrix."""
    index = InputColumns(layer, part, units).index
    if kind_of(layer) == "dense":
        return index
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    return (torch.arange(taps)[:, None] * layer.in_channels + index).flatten()
