"""Pruning as part of a build: what the plan says about channels, and the net that comes out of it.

A method that prunes does not work on one layer. It comes before the methods that do, and they see the smaller net:
`dcp+pq` prunes, then codes. See `edgecomp.pruning`.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import discover
from ..chain import Chain, restore
from ..errors import UsageError
from ..graph.canonical import canonical, records_for
from ..graph.given import Given
from ..graph.order import note_image_sizes
from ..layers.layout import channels_last
from ..layers.matrix import kind_of
from ..records import ChannelGroup, Model, Pruning, Request
from ..util import progress
from ..util.files import atomic_file
from ..util.workspace import Workspace, stage_key
from .groups import Group, find_groups
from .state import PruningState
from .surgery import proven, removed
from .tuning import Tuning, steps_of
from .widths import LayerSize, cut_sizes, layer_sizes, rounded, uniform, widest

Meter = Callable[[nn.Module], float]  # what fraction of the original's time or instructions a net takes


def plan_channels(model: Model, chain: Chain, request: Request, work: Workspace, meter: Meter | None = None) -> Pruning:
    """Which channels go together, and how many of each group stay; or why all do.

    Methods that find the numbers themselves choose the channels here already; the choice is kept for `pruned`.

    Raises:
        UsageError: the method needs data, and the model has none.
    """
    method, config = discover.method(chain.name), chain.configs[0]
    if model.data is None and getattr(method, "NEEDS_DATA", True):
        raise UsageError(f"{chain.name} looks at data, and the model has none", "Give it a data(), or use l1.")
    if model.data is not None and not len(model.data.train) and (config.epochs or getattr(method, "NEEDS_DATA", True)):
        raise UsageError(
            f"{chain.name} trains what is left, and there are no samples to train on",
            "Give a Python file with data(), not a folder.",
        )
    net = _trained(model)
    groups = [_judged(model, group, chain, request) for group in find_groups(net, model.example_inputs)]
    groups = [proven(net, group, _random_like(model.example_inputs)) for group in groups]
    free = [group for group in groups if not group.reason]
    sizes = layer_sizes(model.net, model.example_inputs)

    def taken(keeps: dict[str, int]) -> float:
        assert meter is not None
        return meter(_first_units(model, free, keeps).net)

    if not free:
        keeps = {}
    elif getattr(method, "FINDS_WIDTHS", False):
        job = _selected(model, chain.name, config, free, _guessed(free, config, sizes), request.seed, work)
        keeps = _keeps_by_score(job, config, sizes, taken)
    else:
        keeps = uniform(free, config, sizes, taken)
    after = cut_sizes(sizes, free, keeps)
    entries = [
        ChannelGroup(
            layers=group.producers,
            into=group.consumers,
            channels=group.units,
            keep=keeps.get(group.name, group.units),
            reason=group.reason,
        )
        for group in groups
    ]

    def total(what: str) -> tuple[int, int]:
        before, left = (sum(getattr(size, what) for size in layers.values()) for layers in (sizes, after))
        return before, left

    result = Pruning(
        method=chain.name, settings=chain.settings, groups=tuple(entries), macs=total("macs"), bytes=total("bytes")
    )
    progress.note(result.text)
    return result


def shaped(model: Model, pruning: Pruning) -> Model:
    """The model with layers of the planned numbers of channels, whatever their weights."""
    groups = _groups(model, pruning)
    keeps = {group.layers[0]: group.keep for group in pruning.groups}
    return _first_units(model, groups, keeps)


def base(model: Model, pruning: Pruning | None) -> nn.Module:
    """The net that a checkpoint's layers go into: the model's, or what pruning makes of it, whatever its weights."""
    return shaped(model, pruning).net if pruning else model.net


def pruned(model: Model, pruning: Pruning, seed: int, work: Workspace) -> Model:
    """The model without the channels that are to go: chosen, taken out, trained and folded. What is done is kept."""
    key = stage_key("prune", model.sha256, pruning.model_dump_json(), seed)
    path = work.stages / "pruned.safetensors"
    small = shaped(model, pruning)
    with progress.stage("prune", pruning.method):
        if work.recall("prune", key) is not None:
            progress.note("cached")
            small.net.load_state_dict(load_file(path))
            return small
        small = _with_module(model, _cut_and_trained(model, pruning, seed, work))
        with atomic_file(path) as partial:
            save_file({name: tensor.contiguous() for name, tensor in small.net.state_dict().items()}, partial)
        work.record("prune", key, [path], {})
        return small


def _cut_and_trained(model: Model, pruning: Pruning, seed: int, work: Workspace) -> nn.Module:
    """The net with its norms, in evaluation mode."""
    groups, keeps = _groups(model, pruning), {group.layers[0]: group.keep for group in pruning.groups}
    chain = restore(pruning.method, pruning.settings)
    config, method = chain.configs[0], discover.method(chain.name)
    again: str | None = getattr(method, "CHOOSES_AGAIN_BY", None)
    chosen_at = keeps
    if getattr(method, "FINDS_WIDTHS", False) and not again:
        chosen_at = _guessed(groups, config, layer_sizes(model.net, model.example_inputs))
    job = _selected(model, again or chain.name, config, groups, chosen_at, seed, work)
    net = removed(job.net, groups, job.kept(keeps)).to(memory_format=torch.contiguous_format).eval()
    if model.data is None or not config.epochs:
        return net
    kept = work.stages / f"tuning-{stage_key(model.sha256, pruning.model_dump_json(), seed)[:16]}.safetensors"
    steps = steps_of(config.epochs, model.data.train)
    tuning = Tuning(channels_last(net), model.data.train, steps, config.rate, seed, job.loss, kept=kept)
    tuning.run("training what is left")
    kept.unlink(missing_ok=True)
    return net.to(memory_format=torch.contiguous_format)


def _selected(
    model: Model, method: str, config: Any, groups: list[Group], keeps: dict[str, int], seed: int, work: Workspace
) -> PruningState:
    """The channels of all groups ranked, and what that did to the net."""
    job = PruningState(model, groups, keeps, config, seed)
    names = [[group.name, group.units, keeps[group.name]] for group in groups]
    key = stage_key(model.sha256, method, config.model_dump_json(), names, seed)
    job.select(discover.method(method), work.stages / f"chosen-{key[:16]}.safetensors")
    return job


def _keeps_by_score(
    job: PruningState, config: Any, sizes: dict[str, LayerSize], meter: Callable[[dict[str, int]], float]
) -> dict[str, int]:
    """So many units of every group that those of the highest scores in the whole net stay, of equal ones those that
    come first in their groups."""

    def rounded_all(counts: dict[str, int]) -> dict[str, int]:
        return {g.name: rounded(counts.get(g.name, 0), g.units, config.multiple) for g in job.groups}

    if getattr(config, "eps", None):
        return rounded_all({name: int((scores > config.eps).sum()) for name, scores in job.scores.items()})
    ranked = sorted(
        (-score, place / group.units, group.name)
        for group in job.groups
        for place, score in enumerate(job.scores[group.name].tolist())
    )
    names = [name for _, _, name in ranked]
    choices = [float(count) for count in range(1, len(names) + 1)]
    return widest(choices, lambda count: rounded_all(Counter(names[: int(count)])), config, job.groups, sizes, meter)


def _guessed(groups: list[Group], config: Any, sizes: dict[str, LayerSize]) -> dict[str, int]:
    """Numbers of units to begin with, for methods that find them: the same fraction of all, by what can be counted."""
    criterion, value = config.criterion
    if criterion in (*config.MEASURED, "eps"):
        criterion, value = "macs", config.DEFAULT["macs"] if criterion == "eps" else value
    plain = type(config)(multiple=config.multiple, **{criterion: value})
    return uniform(groups, plain, sizes, None)


def _judged(model: Model, group: Group, chain: Chain, request: Request) -> Group:
    """The group, with a reason if it is not meant to be pruned."""
    config, refuse = chain.configs[0], getattr(discover.method(chain.name), "refuse", lambda group, net: "")
    net = _trained(model)
    kinds = {kind_of(net.get_submodule(name)) for name in group.producers}
    reason = group.reason
    if not reason and not kinds <= set(chain.kinds):
        reason = (
            f"{chain.name} takes channels of {' and '.join(chain.kinds)} layers; --set kinds=conv,dense adds others"
        )
    if not reason and len(group.producers) > 1 and not config.adds:
        reason = "its channels are added to others; --set adds=true prunes them too"
    globs = request.layers
    if not reason and globs and not any(fnmatch.fnmatch(name, glob) for name in group.producers for glob in globs):
        reason = "not named by --layers"
    return replace(group, reason=reason or refuse(group, net))


def _groups(model: Model, pruning: Pruning) -> list[Group]:
    """The groups that the plan prunes."""
    planned = {group.layers[0] for group in pruning.groups if not group.reason}
    return [group for group in find_groups(_trained(model), model.example_inputs) if group.name in planned]


def cut_to(model: Model, keeps: dict[str, int]) -> nn.Module:
    """The net with so many units of each group that is named; its weights are those of the first ones."""
    groups = [group for group in find_groups(_trained(model), model.example_inputs) if group.name in keeps]
    return _first_units(model, groups, keeps).net


def _trained(model: Model) -> nn.Module:
    assert model.trained is not None
    return model.trained


def _first_units(model: Model, groups: list[Group], keeps: dict[str, int]) -> Model:
    """The model cut to so many units of each group, the first ones."""
    kept = {group.name: torch.arange(keeps[group.name]) for group in groups}
    return _with_module(model, removed(_trained(model), groups, kept))


def _with_module(model: Model, module: nn.Module) -> Model:
    """The model with another module in the place of the user's, and the canonical net of that."""
    given = Given(module.eval(), model.given.names, model.given.dtypes)
    net = canonical(given, model.example_inputs, records_for(model.example_inputs), model.name)
    note_image_sizes(net, model.example_inputs)
    return replace(model, net=net, given=given)


def _random_like(examples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(x.shape, generator=generator) if x.is_floating_point() else x for x in examples)
