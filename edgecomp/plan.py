"""Stage 2, plan: decides for every group of layers which method it gets, with what settings, or why it is left alone.

Later stages see only the Plan. Nothing is skipped in silence: every entry without a method has a reason.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from pathlib import Path

from torch import nn

from . import chain, discover
from .chain import Chain
from .devices import probe
from .errors import UsageError, unknown
from .graph.order import layer_order
from .layers.matrix import KINDS, explicit_padding, kind_of, parameter_bytes
from .layers.twins import own_bytes
from .pruning import stage as prune
from .records import Model, Plan, PlanEntry, Pruning, Request
from .util import progress
from .util.files import write_text
from .util.units import format_bytes
from .util.workspace import Workspace

DEFAULT_RUNTIME = "executorch"
AUTO = "auto"  # the method that chooses methods


def plan(model: Model, request: Request, work: Workspace) -> Plan:
    """The plan for `model` by the method that the request names, also written as `plan.json`. For `auto` see there.

    Raises:
        UsageError: an unknown method, setting or kind, or `--layers` that match nothing.
    """
    with progress.stage("plan", request.method):
        runtime, chains = runtime_and_chains(request)
        groups = named_groups(model, request)
        pruning, left = None, model
        if chains[0].prunes:
            criterion, _ = chains[0].configs[0].criterion
            meter = probe.meter(criterion, runtime, request.target, model, discover.runtime(runtime).export)
            pruning = prune.plan_channels(model, chains[0], request, work, meter)
            left, chains = prune.shaped(model, pruning), chains[1:]
        entries = decide(left, groups, chains, request)
        if pruning:
            entries = tuple(_since_pruned(model, left, entry, pruning) for entry in entries)
        result = without_entries(model, request, runtime).model_copy(update={"pruning": pruning, "entries": entries})
        return written(result, groups, work, bool(chains))


def without_entries(model: Model, request: Request, runtime: str) -> Plan:
    """What a plan says beside what becomes of the layers."""
    return Plan(
        model=model.source,
        model_sha256=model.sha256,
        target=request.target,
        runtime=runtime,
        method=request.method,
        seed=request.seed,
        budget_bytes=request.budget_bytes,
        max_drop_points=request.max_drop,
        max_error_percent=request.max_error,
        limits=request.limits,
        recover_epochs=request.recover_epochs,
        recover_codes=request.recover_codes,
        stock=request.stock,
        pruning=None,
        entries=(),
    )


def written(plan: Plan, groups: list[tuple[str, ...]], work: Workspace, tell: bool = True) -> Plan:
    """The plan, now also in `plan.json`; says which layers it takes."""
    taken = [names[0] for entry in plan.entries if entry.method for names in entry.units]
    if tell:
        progress.note(f"{len(taken)} of {len(groups)} layers: {', '.join(taken) or 'none'}")
    write_text(work.new("plan.json"), plan.model_dump_json(indent=1) + "\n")
    return plan


def read_plan(path: Path) -> Plan:
    """A `plan.json`, validated.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is not the plan of a build", "Name the folder that `edgecomp build -o` wrote."
        ) from error


def runtime_and_chains(request: Request) -> tuple[str, list[Chain]]:
    """The runtime and the methods (none for `auto`); where the model is a runtime's file, they must work on it."""
    own = discover.runtime_of_file(request.model or "")
    asked = request.runtime or own or DEFAULT_RUNTIME
    discover.runtime(asked)
    if request.method == AUTO:
        return asked, []
    chains = chain.parse(request.method, request.settings, asked)
    if own is None:
        return asked, chains
    if asked != own:
        raise UsageError(f"{request.model} is a file of {own}; it cannot become one of {asked}", "Leave out --runtime.")
    if request.stock:
        raise UsageError(
            f"--no-custom-ops cannot build {request.model}: layers of a finished file are replaced by custom ops alone",
            "Build from the torch model, or leave out --no-custom-ops.",
        )
    if request.recover_epochs:
        raise UsageError(
            f"--recover trains nets of torch, and {request.model} is a finished file",
            "Build from the torch model, or leave out --recover.",
        )
    for name in (candidate.name for candidate in chains if not candidate.codes):
        fitting = [known for known in discover.method_names() if chain.parse(known)[0].codes]
        raise UsageError(
            f"{name} would put other layers into {request.model}; those of a finished file are coded in place, or stay",
            f"Use one of {', '.join(fitting)}.",
        )
    return own, chains


def tied_groups(model: Model) -> list[tuple[str, ...]]:
    """Names of the modules that own parameters, in the order of execution; those that share a weight together, an
    embedding before what multiplies with it."""
    by_weight: dict[int, list[str]] = defaultdict(list)
    for name in layer_order(model.net):
        layer = model.net.get_submodule(name)
        weight = layer.weight if kind_of(layer) in KINDS else next(layer.parameters(recurse=False))
        by_weight[id(weight)].append(name)
    groups = by_weight.values()
    return [tuple(sorted(names, key=lambda n: kind_of(model.net.get_submodule(n)) != "embedding")) for names in groups]


def named_groups(model: Model, request: Request) -> list[tuple[str, ...]]:
    """`tied_groups`, where every `--layers` names some of them.

    Raises:
        UsageError: one does not.
    """
    groups = tied_groups(model)
    names = [name for names in groups for name in names]
    for glob in request.layers:
        if not fnmatch.filter(names, glob):
            raise unknown("layer", glob, names)
    return groups


def decide(model: Model, groups: list[tuple[str, ...]], chains: list[Chain], request: Request) -> tuple[PlanEntry, ...]:
    """What becomes of every group of layers."""
    return _coupled(model, [_entry(model, names, chains, request) for names in groups], chains)


def _entry(model: Model, names: tuple[str, ...], chains: list[Chain], request: Request) -> PlanEntry:
    """The first chain that takes the group, or the reasons of all of them."""
    layer, others = model.net.get_submodule(names[0]), [model.net.get_submodule(name) for name in names[1:]]
    kind, beside = kind_of(layer), own_bytes(others, layer)
    size = parameter_bytes(layer) + beside
    reasons = []
    for candidate in chains:
        reason, predicted = _filtered(names, layer, kind, candidate, request), size
        if not reason:
            candidate = _rounding(candidate, model, names[0]).settled(layer)
            reason = candidate.refuse(layer) or candidate.refuse_twins(layer, others)
        if not reason:
            predicted = candidate.predict(layer).bytes + beside
            named = any(fnmatch.fnmatch(name, glob) for name in names for glob in request.layers)
            if predicted < size and candidate.codes and 2 * predicted > size and not named:
                reason = (
                    f"{candidate.name} would still take {format_bytes(predicted)} of {format_bytes(size)}, and be "
                    f"slower for it; --layers '{names[0]}' asks for it"
                )
            elif predicted < size:
                return PlanEntry(
                    layers=names,
                    kind=kind,
                    method=candidate.name,
                    settings=candidate.settings,
                    reason=candidate.remark(layer),
                    original_bytes=size,
                    predicted_bytes=predicted,
                )
            else:
                reason = f"{candidate.name} would take {format_bytes(predicted)}, no less than {format_bytes(size)}"
        reasons.append(reason)
    reason = "; ".join(dict.fromkeys(reasons))
    return PlanEntry(layers=names, kind=kind, method=None, reason=reason, original_bytes=size, predicted_bytes=size)


def _rounding(candidate: Chain, model: Model, name: str) -> Chain:
    """The chain with scales of inputs chosen at run time, where there are no data to fix them by, or where calls of one
    layer share them, whose inputs may differ in size."""
    layer, several = model.net.get_submodule(name), getattr(model.net, "calls", {}).get(name, 1) > 1
    dynamic = candidate.without_data()
    return dynamic if not model.data or (several and not dynamic.refuse(layer)) else candidate


def _since_pruned(model: Model, left: Model, entry: PlanEntry, pruning: Pruning) -> PlanEntry:
    """The entry of a layer as it is before channels are taken out, from that of what is left of it."""
    names = [names[0] for names in entry.units]
    before, after = (sum(parameter_bytes(m.net.get_submodule(name)) for name in names) for m in (model, left))
    if before != after:
        return entry.model_copy(update={"pruned": pruning.method, "original_bytes": before})
    reasons = [group.reason for group in pruning.groups if group.reason and set(names) & set(group.layers)]
    reason = "; ".join(dict.fromkeys(filter(None, [entry.reason, *reasons])))
    return entry if entry.method else entry.model_copy(update={"reason": reason})


def _coupled(model: Model, entries: list[PlanEntry], chains: list[Chain]) -> tuple[PlanEntry, ...]:
    """The entries, with one in the place of the first for all layers of equal shape that can share parts."""
    coupling = {candidate.name: candidate for candidate in chains if candidate.couples}
    alike: dict[object, list[PlanEntry]] = defaultdict(list)
    for entry in entries:
        if entry.method in coupling and len(entry.layers) == 1:
            layer = model.net.get_submodule(entry.layers[0])
            geometry = (layer.stride, explicit_padding(layer), layer.dilation)  # type: ignore[arg-type]
            alike[entry.method, layer.weight.shape, geometry].append(entry)
    result: dict[int, PlanEntry] = {id(entry): entry for entry in entries}
    for members in alike.values():
        together = coupling[members[0].method].together([model.net.get_submodule(e.layers[0]) for e in members])
        if len(members) > 1 and not together.refuse():
            result[id(members[0])] = members[0].model_copy(
                update={
                    "layers": tuple(entry.layers[0] for entry in members),
                    "coupled": True,
                    "settings": together.config.model_dump(),
                    "original_bytes": sum(entry.original_bytes for entry in members),
                    "predicted_bytes": together.predict().bytes,
                }
            )
            for entry in members[1:]:
                del result[id(entry)]
    return tuple(result.values())


def _filtered(names: tuple[str, ...], layer: nn.Module, kind: str, candidate: Chain, request: Request) -> str:
    """Why the chain is not meant for a group of layers; empty if it is."""
    if kind in KINDS and kind not in candidate.kinds:
        return f"{candidate.name} takes {' and '.join(candidate.kinds)} layers; --set kinds={kind},… adds this kind"
    return not_meant(names, layer, kind, request)


def not_meant(names: tuple[str, ...], layer: nn.Module, kind: str, request: Request) -> str:
    """Why no method may take a group of layers; empty if one may."""
    return _not_a_layer(layer, kind) or _not_named(names, request)


def _not_a_layer(layer: nn.Module, kind: str) -> str:
    if kind in KINDS:
        return ""
    return getattr(layer, "reason", "neither multiplied as a matrix nor looked up")


def _not_named(names: tuple[str, ...], request: Request) -> str:
    named = not request.layers or any(fnmatch.fnmatch(name, glob) for name in names for glob in request.layers)
    return "" if named else "not named by --layers"
