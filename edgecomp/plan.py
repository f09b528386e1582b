"""Stage 2, plan: decides for every group of layers which method it gets, with what settings, or why it is left alone.

Later stages see only the Plan. Nothing is skipped in silence: every entry without a method has a reason.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from typing import Any

from torch import nn

from . import devices, discover, graph, progress
from .errors import UsageError, unknown
from .files import write_text
from .layers.matrix import KINDS, kind_of
from .records import Model, Plan, PlanEntry, Request
from .units import format_bytes
from .workspace import Workspace


def check(request: Request) -> None:
    """Refuses unknown names, settings and kinds before anything long begins.

    Raises:
        UsageError, DeviceError: see `discover` and `devices.chosen`.
    """
    discover.runtime(request.runtime)
    method = discover.method(request.method)
    discover.configure(request.method, _split_settings(request, method)[0])
    devices.chosen(discover.target(request.target), request.on)


def plan(model: Model, request: Request, work: Workspace) -> Plan:
    """The plan for `model`, also written as `plan.json`.

    Raises:
        UsageError: an unknown method, setting or kind, or `--layers` that match nothing.
    """
    with progress.stage("plan", request.method):
        method = discover.method(request.method)
        settings, kinds = _split_settings(request, method)
        config = discover.configure(request.method, settings)
        groups = _tied_groups(model)
        _require_matches(request.layers, [name for names in groups for name in names])
        entries = tuple(_entry(model, names, method, config, kinds, request) for names in groups)
        taken = [entry for entry in entries if entry.method]
        progress.note(f"{len(taken)} of {len(entries)} layers: {', '.join(e.layers[0] for e in taken) or 'none'}")
        result = Plan(
            model=model.source,
            model_sha256=model.sha256,
            target=request.target,
            runtime=request.runtime,
            method=request.method,
            seed=request.seed,
            budget_bytes=request.budget_bytes,
            max_drop_points=request.max_drop,
            entries=entries,
        )
        write_text(work.path("plan.json"), result.model_dump_json(indent=1) + "\n")
        return result


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of the tensors a module owns itself."""
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _split_settings(request: Request, method: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """`--set` texts as a dict, with `kinds` taken out: it says which layers, not how."""
    settings: dict[str, str] = {}
    for text in request.settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"cannot read --set {text!r}", "Write it as KEY=VALUE, for example --set k=16.")
        settings[key] = value
    kinds = tuple(settings.pop("kinds").split(",")) if "kinds" in settings else method.KINDS
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind of layer", kind, KINDS)
    return settings, kinds


def _tied_groups(model: Model) -> list[tuple[str, ...]]:
    """Names of the modules that own parameters, in the order of execution; those that share a weight together."""
    owners = {name: m for name, m in model.net.named_modules() if any(True for _ in m.parameters(recurse=False))}
    order = graph.execution_order(graph.trace(model.net, model.example_inputs, model.name))
    ordered = [name for name in order if name in owners] + [name for name in owners if name not in order]
    by_weight: dict[int, list[str]] = defaultdict(list)
    for name in ordered:
        by_weight[id(next(owners[name].parameters(recurse=False)))].append(name)
    return [tuple(names) for names in by_weight.values()]


def _require_matches(globs: tuple[str, ...], names: list[str]) -> None:
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise unknown("layer", glob, names)


def _entry(
    model: Model, names: tuple[str, ...], method: Any, config: Any, kinds: tuple[str, ...], request: Request
) -> PlanEntry:
    layer = model.net.get_submodule(names[0])
    kind, size = kind_of(layer), parameter_bytes(layer)
    reason, predicted = _refusal(layer, names, kind, kinds, request), size
    if not reason:
        reason = method.refuse(layer, config)
    if not reason:
        predicted = method.predict(layer, config).bytes
        if predicted >= size:
            reason = f"{request.method} would take {format_bytes(predicted)}, no less than {format_bytes(size)}"
    return PlanEntry(
        layers=names,
        kind=kind,
        method=None if reason else request.method,
        settings={} if reason else config.model_dump(),
        reason=reason,
        original_bytes=size,
        predicted_bytes=size if reason else predicted,
    )


def _refusal(layer: nn.Module, names: tuple[str, ...], kind: str, kinds: tuple[str, ...], request: Request) -> str:
    if kind not in KINDS:
        return f"{type(layer).__name__} has no weight matrix to code"
    if kind not in kinds:
        return f"{request.method} takes {' and '.join(kinds)} layers; --set kinds={kind},… adds this kind"
    if request.layers and not any(fnmatch.fnmatch(name, glob) for name in names for glob in request.layers):
        return "not named by --layers"
    return ""
