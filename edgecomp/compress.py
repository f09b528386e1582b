"""Stage 3, compress: every layer of the plan becomes what its method makes of it."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from . import chain
from .chain import Chain, SharedFactors
from .engines import Engine
from .errors import UsageError
from .fitting import calibration, channel_order, tables
from .fitting.calibration import CALIBRATION_SAMPLES, ENERGY_SAMPLES, Inputs, pooled
from .graph.order import channel_producers, execution_order, upstream
from .graph.trace import batch_of, exported
from .graph.walk import Walk
from .layers import checkpoint
from .layers.layout import channels_last, contiguous
from .layers.matrix import bias_of, has_bias, kind_of, set_weight_matrix, weight_matrix
from .layers.quantized import static_parts
from .layers.twins import twin
from .pruning import stage as prune
from .records import Compressed, Model, Plan, PlanEntry
from .runtimes.litert.file_net import FileNet
from .util import progress
from .util.machine import processor
from .util.workspace import Workspace, stage_key

# With less, a layer with more inputs than there are samples moves far and then cannot be approximated: charnet, conv3.
_AIM_RIDGE = 0.3

# Of a plan, what later stages ask for, and what explains it.
_LATER: dict[str, Any] = {
    **dict.fromkeys(("target", "runtime", "stock", "budget_bytes", "max_drop_points", "limits"), True),
    **dict.fromkeys(("recover_epochs", "recover_codes"), True),
    **{"search": True, "entries": {"__all__": {"damage", "instructions", "runner_up", "reason"}}},
}


@dataclass(frozen=True)
class LayerJob:
    """One layer to compress, by all its names."""

    names: tuple[str, ...]
    entry: PlanEntry
    method: Chain | SharedFactors


@dataclass(frozen=True)
class FitContext:
    """What fitting a layer needs: the net as it is by now, and calibration inputs (N, …) if there are any; the same of
    the original where layers are to give what they gave there."""

    net: nn.Module
    samples: calibration.Samples | None
    seed: int
    original: nn.Module | None = None
    original_samples: calibration.Samples | None = None


@dataclass(frozen=True)
class LayerFit:
    """What takes the place of each layer; ‖W−Ŵ‖/‖W‖ and, with inputs, ‖X(W−Ŵ)ᵀ‖/‖XWᵀ‖; the tensors of the layers as
    later ones are to find them; and what there is to say."""

    layers: tuple[nn.Module, ...]
    weights: float
    outputs: float | None
    tensors: dict[str, dict[str, torch.Tensor]]
    note: str = ""


def compress(model: Model, plan: Plan, work: Workspace, engine: Engine | None = None) -> Compressed:
    """Applies the plan; the result is kept in the workspace and reused when nothing it depends on has changed.

    Layers are treated in the order of execution, each fitted to the inputs that the already compressed layers
    before it produce. With an engine, layers that do not depend on each other are fitted at the same time.
    """
    data_name = model.data.calibration.name if model.data else "data-free"
    # Sums in another order differ in their last bits: those of tasks, which have one thread, are kept apart.
    tasks = ["tasks"] * (engine is not None)
    data = calibration_samples(model) if model.data else None
    key = stage_key("compress", plan.model_dump_json(exclude=_LATER), data, *tasks)
    path = work.stages / "compressed.safetensors"
    with progress.stage("compress"):
        done = work.recall("compress", key)
        if done is not None:
            progress.note("cached")
            net = checkpoint.restore(prune.base(model, plan.pruning), path)
        else:
            start = time.monotonic()
            left = prune.pruned(model, plan.pruning, plan.seed, work) if plan.pruning else model
            net, errors = _compressed_net(left, plan, engine)
            threads = 1 if engine else torch.get_num_threads()
            done = {**errors, "calibration": data_name, "seconds": time.monotonic() - start}
            done["made_on"] = f"{threads} thread{'s' * (threads > 1)} of {processor()}"
            checkpoint.save(net, path)
            work.record("compress", key, [path], done)
        notes = plan.pruning.notes if plan.pruning else ()
        return Compressed(net=net, checkpoint=path, notes=notes, **done)


def calibration_samples(model: Model) -> tuple[torch.Tensor, ...]:
    """What layers are fitted to."""
    return model.data.calibration.take(slice(CALIBRATION_SAMPLES))


def _compressed_net(model: Model, plan: Plan, engine: Engine | None) -> tuple[nn.Module, dict[str, dict[str, float]]]:
    # Computes what the compressed net does, but from decoded weights, which is faster here.
    net = channels_last(copy.deepcopy(model.net))
    permute_channels(net, model, plan)
    samples = calibration_samples(model) if model.data else None
    jobs = _jobs(net, model, plan)
    if isinstance(net, FileNet) and samples is not None:
        engine = None  # the file runs as a whole, for several layers at a time, with all threads
    batch = batch_of(model.example_inputs)
    context = FitContext(net, _on_their_way(net, samples, jobs, batch, engine), plan.seed)
    if samples is not None and not isinstance(net, FileNet) and any(_joint(entry) for entry in plan.entries):
        original = copy.deepcopy(net)
        context = replace(
            context, original=original, original_samples=_on_their_way(original, samples, jobs, batch, engine)
        )
    with progress.bar("layers", len(jobs)) as advance:
        fits: dict[int, LayerFit] = {}
        shared: list[Any] = []
        for numbers in [[n] for n in range(len(jobs))] if engine is None else _waves(model, jobs):
            advance(0, text=jobs[numbers[0]].names[0])
            fits |= _fit_layers(context, jobs, numbers, engine, shared)
            advance(len(numbers))
    contiguous(net)
    errors: dict[str, dict[str, float]] = {"weight_errors": {}, "output_errors": {}}
    for number, job in enumerate(jobs):
        errors["weight_errors"][job.names[0]] = fits[number].weights
        if (outputs := fits[number].outputs) is not None:
            errors["output_errors"][job.names[0]] = outputs
        for name, layer in zip(job.names, fits[number].layers, strict=True):
            net.set_submodule(name, layer)
    return net, errors


def _on_their_way(
    net: nn.Module, samples: tuple[torch.Tensor, ...] | None, jobs: list[LayerJob], batch: int, engine: Engine | None
) -> calibration.Samples | None:
    """Calibration samples as layers of `net` are fitted to them in turn. Workers of an engine get them as they are."""
    if samples is None or engine is not None:
        return samples
    if isinstance(net, FileNet):
        from .runtimes.litert.recording import FileRecording

        return FileRecording(net, samples, batch, [name for job in jobs for name in job.names])
    return Walk(net, samples)


def _jobs(net: nn.Module, model: Model, plan: Plan) -> list[LayerJob]:
    """What there is to do, in the order of execution, also where layers that share parts are far from each other."""
    jobs = []
    for entry in (entry for entry in plan.entries if entry.method):
        method: Chain | SharedFactors = chain.restore(entry.method, entry.settings, plan.runtime)
        if entry.coupled:
            method = method.together([net.get_submodule(name) for name in entry.layers])
        jobs += [LayerJob(names, entry, method) for names in entry.units]
    if any(entry.coupled for entry in plan.entries):
        order = execution_order(exported(model.net, model.example_inputs, model.name))
        jobs.sort(key=lambda job: order.index(job.names[0]) if job.names[0] in order else len(order))
    return jobs


def permute_channels(net: nn.Module, model: Model, plan: Plan) -> None:
    """Orders input channels by energy where the method wants it and the producer can give them out so."""
    alone = {entry.layers[0]: entry for entry in plan.entries if len(entry.layers) == 1}
    wanted = {name for name, entry in alone.items() if entry.method and entry.settings.get("permute")}
    if model.data is None or not wanted or isinstance(net, FileNet):
        return
    all_producers = channel_producers(exported(model.net, model.example_inputs, model.name))
    producers = {name: all_producers[name] for name in alone if name in wanted and all_producers.get(name) in alone}
    channel_order.order_by_energy(net, producers, model.data.calibration.take(slice(ENERGY_SAMPLES)))
    for name, producer in producers.items():
        progress.note(f"{name}: input channels in the order of their energy, which {producer} takes on")


def _waves(model: Model, jobs: list[LayerJob]) -> list[list[int]]:
    """The numbers of the jobs, those together whose inputs do not depend on each other; after those they depend on."""
    inputs_from: dict[str, set[str]] = {}
    if model.data is not None:
        inputs_from = upstream(exported(model.net, model.example_inputs, model.name))
    depth: list[int] = []
    for number, job in enumerate(jobs):
        before = set().union(*(inputs_from.get(name, set()) for name in job.names))
        unknown = model.data is not None and not inputs_from.keys() & set(job.names)
        needed = [d for d, other in zip(depth, jobs[:number], strict=True) if unknown or before & set(other.names)]
        depth.append(1 + max(needed, default=-1))
    return [[n for n, d in enumerate(depth) if d == wave] for wave in range(max(depth, default=-1) + 1)]


def _fit_layers(
    context: FitContext, jobs: list[LayerJob], numbers: list[int], engine: Engine | None, shared: list[Any]
) -> dict[int, LayerFit]:
    """Fits some layers to the net as it is, and leaves it as later layers are to find it.

    Args:
        shared: what the engine's workers have got so far: the context, once, and then what has changed of its net.
    """
    fits: dict[int, LayerFit] = {}
    apart = [n for n in numbers if engine is not None and isinstance(jobs[n].method, Chain)]
    if engine is not None and apart:
        shared[:0] = [] if shared else [engine.share(context)]
        outcomes = engine.run(_fit_apart, [jobs[n] for n in apart], *shared)
        for number, outcome in zip(apart, outcomes, strict=True):
            fits[number] = outcome.get()
            for name, tensors in fits[number].tensors.items():
                context.net.get_submodule(name).load_state_dict(tensors)
    # Layers that share parts are fitted here: the parts are made for all of them when the first one comes up.
    fits |= {number: _fit(jobs[number], context) for number in numbers if number not in fits}
    if engine is not None and shared:
        shared.append(engine.share({k: v for number in numbers for k, v in fits[number].tensors.items()}))
    for number in numbers:
        job, fit = jobs[number], fits[number]
        text = f"relative error {fit.weights:.3f}"
        text += "" if fit.outputs is None else f", of the outputs {fit.outputs:.3f}"
        text += f"; {fit.note}" if fit.note else ""
        shape = tuple(weight_matrix(context.net.get_submodule(job.names[0])).shape)
        progress.note(f"{', '.join(job.names)}: {shape} by {job.entry.method}, {text}")
    return fits


def _fit_apart(job: LayerJob, context: FitContext, *changes: dict[str, dict[str, torch.Tensor]]) -> LayerFit:
    """The task of fitting one layer of the context's net with what has changed of it since."""
    net = copy.deepcopy(context.net)
    for name, tensors in (item for change in changes for item in change.items()):
        net.get_submodule(name).load_state_dict(tensors)
    return _fit(job, replace(context, net=net))


def _fit(job: LayerJob, context: FitContext) -> LayerFit:
    """Fits a layer, whose weights in `context.net` become what takes their place, and those that share its weight."""
    net, samples, seed = context.net, context.samples, context.seed
    layers = [net.get_submodule(name) for name in job.names]
    layer, others = layers[0], layers[1:]
    before, note = weight_matrix(layer).clone(), ""
    fitted = not isinstance(job.method, Chain) or job.method.fitted
    statistics = _statistics(layers, context, fitted)
    inputs = pooled(statistics) if statistics else None
    aimed = context.original is not None and _joint(job.entry) and len(layers) == 1
    if inputs is not None and not inputs.unfit and aimed:
        aim_at_original(net, context.original, job.names[0], context.original_samples, inputs, seed, samples)
    if inputs is not None and inputs.unfit and fitted:
        note = f"{inputs.unfit}, so that it was coded without them"
    means = [inputs.mean for inputs in statistics] or [None] * len(layers)
    with torch.no_grad():
        made = replace_weights(layer, job.method, inputs, seed)
        difference = before - made.decode()
        for other, mean in zip(others, means[1:], strict=True):
            if mean is not None and has_bias(other):
                other.bias.add_(difference @ mean)
    replacements = (made, *(twin(made, other) for other in others))
    for layer, replacement in zip(layers, replacements, strict=True):
        _fix_ranges(net, samples, layer, replacement)
        if samples is not None:
            tables.choose_tables(net, layer, replacement, samples, seed)
    outputs = None
    if inputs is not None:
        seen = inputs.centered() if has_bias(layers[0]) else inputs
        outputs = _ratio(seen.sample @ difference.T, inputs.sample @ before.T)
    tensors = {name: layer.state_dict() for name, layer in zip(job.names, layers, strict=True)}
    return LayerFit(replacements, _ratio(difference, before), outputs, tensors, note)


def _statistics(layers: list[nn.Module], context: FitContext, second: bool) -> list[Inputs]:
    """Moments of the inputs of each layer, second ones if wanted; none without data, or where one is looked up
    in instead of multiplied with."""
    if context.samples is None or any(kind_of(one) == "embedding" or getattr(one, "groups", 1) > 1 for one in layers):
        return []
    return [calibration.gather(context.net, layer, context.samples, context.seed, second) for layer in layers]


def _fix_ranges(net: nn.Module, samples: calibration.Samples | None, layer: nn.Module, compressed: nn.Module) -> None:
    """Fixes the scales of int8 layers that do not choose theirs at run time.

    Raises:
        UsageError: the model has no data to fix them by.
    """
    if not static_parts(compressed):
        return
    if samples is None:
        raise UsageError(
            "activations=static fixes scales by calibration data, and the model has none",
            "Give the model file a data(), or leave out --set activations=static.",
        )
    calibration.fix_ranges(net, layer, compressed, samples)


def _joint(entry: PlanEntry) -> bool:
    return any(key.endswith("reconstruction") and value == "joint" for key, value in entry.settings.items())


@torch.no_grad()
def aim_at_original(
    net: nn.Module,
    original: nn.Module,
    name: str,
    samples: calibration.Samples,
    inputs: Inputs,
    seed: int = 0,
    seen_samples: calibration.Samples | None = None,
) -> None:
    """Gives a layer of `net` the weights and bias that, on the inputs x̂ it has there, come nearest to what the layer
    gave in the original on x (Jaderberg et al. 2014, §2.3): W + W·(cov(x, x̂) − cov(x̂))·cov(x̂)⁻¹.

    Args:
        samples, seen_samples: of the original and, where they are on their way, of `net`.
    """
    layer, first = net.get_submodule(name), original.get_submodule(name)
    cross, mean = calibration.cross_moment(original, first, net, layer, samples, seed, seen_samples)
    moment = inputs.covariance
    ridge = moment + _AIM_RIDGE * moment.diagonal().mean() * torch.eye(len(moment))
    matrix = weight_matrix(first)
    aim = matrix + torch.linalg.solve(ridge, (matrix @ (cross - moment)).T).T
    set_weight_matrix(layer, aim)
    if has_bias(layer):
        layer.bias.copy_(first.bias + matrix @ mean - aim @ inputs.mean)


@torch.no_grad()
def replace_weights(layer: nn.Module, method: Chain | SharedFactors, inputs: Inputs | None, seed: int) -> nn.Module:
    """What takes the place of `layer`, whose weights become Ŵ.

    A bias makes up for the mean error of the outputs, so that weights need only be fitted to inputs less their mean.
    """
    corrected = inputs is not None and has_bias(layer)
    fitted_to = None if inputs is None or inputs.unfit else inputs.centered() if corrected else inputs
    compressed = method.compress(layer, fitted_to, seed)
    after = compressed.decode()
    if corrected:
        bias_of(compressed).add_((weight_matrix(layer) - after) @ inputs.mean)
        layer.bias.copy_(bias_of(compressed))
    set_weight_matrix(layer, after)
    return compressed


def _ratio(difference: torch.Tensor, reference: torch.Tensor) -> float:
    return (difference.norm() / reference.norm().clamp(min=1e-30)).item()
