"""Stage 3, compress: every layer of the plan becomes what its method makes of it."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from . import calibration, checkpoint, discover, progress
from .layers.matrix import weight_matrix
from .records import Compressed, Model, Plan, PlanEntry
from .workspace import Workspace, stage_key

CALIBRATION_SAMPLES = 4096


def compress(model: Model, plan: Plan, work: Workspace) -> Compressed:
    """Applies the plan; the result is kept in the workspace and reused when nothing it depends on has changed.

    Layers are treated in the order of execution, each fitted to the inputs that the already compressed layers
    before it produce.
    """
    data_name = model.data.calibration.name if model.data else "data-free"
    key = stage_key("compress", plan.model_dump_json(exclude={"target", "budget_bytes", "max_drop_points"}), data_name)
    path = work.stages / "compressed.safetensors"
    with progress.stage("compress"):
        done = work.recall("compress", key)
        if done is not None:
            progress.note("cached")
            net = checkpoint.restore(model.net, path)
        else:
            start = time.monotonic()
            net, errors = _compressed_net(model, plan)
            done = {"relative_errors": errors, "calibration": data_name, "seconds": time.monotonic() - start}
            checkpoint.save(net, path)
            work.record("compress", key, [path], done)
        return Compressed(net=net, checkpoint=path, **done)


def _compressed_net(model: Model, plan: Plan) -> tuple[nn.Module, dict[str, float]]:
    net, errors = copy.deepcopy(model.net), {}
    entries = [entry for entry in plan.entries if entry.method]
    with progress.bar("layers", len(entries)) as advance:
        for entry in entries:
            advance(0, text=entry.layers[0])
            errors[entry.layers[0]] = _replace(net, model, entry, plan.seed)
            advance(1)
    return net, errors


def _replace(net: nn.Module, model: Model, entry: PlanEntry, seed: int) -> float:
    """Compresses one group of layers in place; returns ‖W−Ŵ‖/‖W‖."""
    layer = net.get_submodule(entry.layers[0])
    method = discover.method(entry.method)
    inputs = None
    if model.data is not None:
        samples = model.data.calibration.inputs[:CALIBRATION_SAMPLES]
        inputs = calibration.gather(net, layer, samples, seed)
    with torch.no_grad():
        compressed = method.compress(layer, method.Config(**entry.settings), inputs, seed)
        before, after = weight_matrix(layer), compressed.decode()
        error = ((before - after).norm() / before.norm().clamp(min=1e-30)).item()
    for name in entry.layers:
        net.set_submodule(name, compressed)
    progress.note(f"{', '.join(entry.layers)}: {tuple(before.shape)} by {entry.method}, relative error {error:.3f}")
    return error
