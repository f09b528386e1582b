"""Stage 5, export: writes the compressed and the original network for the runtime, and proves what was written.

The proof re-opens the file, finds every layer's packed codes or integer weights in it, and compares the runtime's
outputs with those of the torch module. A mismatch is an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from . import discover
from .devices.bundle import make_bundle
from .devices.host import run_on_host
from .devices.target import find_target
from .errors import BuildError, UsageError
from .fitting.tables import LIMIT
from .layers.codebook import CodebookEmbedding, Coded
from .layers.matrix import parameter_bytes
from .layers.quantized import Quantized
from .layers.stock import Stock, without_custom_ops
from .records import Artifact, Compressed, LayerReport, Model, Plan, Proof, Report
from .runtimes.litert.file_net import FileNet
from .training.outputs import flat_output
from .util import progress
from .util.files import atomic_folder, cache_folder, sha256_file
from .util.workspace import Workspace, stage_key

_PROOF_SAMPLES = 32
_EXACT = 1e-3  # relative difference between runtimes that both compute in fp32
_LOOKUP = 0.01  # what the tables of one coded layer may add: half of it on calibration inputs, see `tables`
_BYTES = 0.05  # the same where bytes were asked for, whatever they add
_ROUNDING = 0.01  # what one int8 layer may: where sums differ in the last bit, inputs round to neighbouring levels
_ROUNDED = 0.2  # what all of them may; a wrong file is off by more


def export(model: Model, plan: Plan, compressed: Compressed, work: Workspace) -> Artifact:
    """Writes `model.<suffix>`, its bundle, and (once per user) the original's export.

    With `plan.stock` the model needs no custom op, and `custom-op.<suffix>` is the same net with them, to compare with.

    Raises:
        BuildError: the runtime cannot express the net, or the proof fails.
    """
    runtime = discover.runtime(plan.runtime)
    path = work.path(f"model{runtime.SUFFIX}")
    custom_op_path = work.path(f"custom-op{runtime.SUFFIX}")
    nets = {path: compressed.net}
    if plan.stock:
        nets = {path: without_custom_ops(compressed.net, model.example_inputs)}
        if any(isinstance(layer, Stock) for layer in nets[path].modules()):
            nets[custom_op_path] = compressed.net
    else:
        custom_op_path.unlink(missing_ok=True)  # of an earlier build
    digest = sha256_file(compressed.checkpoint)
    key = stage_key("export", digest, plan.runtime, runtime.version(), _shapes(model), plan.stock)
    with progress.stage("export", plan.runtime):
        original = original_file(model, plan.runtime)
        done = work.recall("export", key)
        if done is not None:
            progress.note("cached")
        else:
            for file, net in nets.items():
                runtime.export(net, model.example_inputs, file)
            proofs = [_prove(model, plan.runtime, net, file).model_dump() for file, net in nets.items()]
            done = {"proof": proofs[0]}
            work.record("export", key, list(nets), done)
        return Artifact(
            path=path,
            original_path=original,
            bundle=_bundle(plan, path, work),
            layers=_ledger(plan, model, replace(compressed, net=nets[path]), path, original),
            proof=Proof(**done["proof"]),
            runtime_version=runtime.version(),
            custom_op_path=custom_op_path if custom_op_path in nets else None,
        )


def reopen(model: Model, plan: Plan, result: Report, work: Workspace) -> Artifact:
    """What an earlier build exported into this folder, to measure it again with the bench program of today.

    Raises:
        UsageError: the file is not the one that the report tells of.
    """
    suffix = discover.runtime(plan.runtime).SUFFIX
    path, custom_op_path = work.path(f"model{suffix}"), work.path(f"custom-op{suffix}")
    if not path.is_file() or sha256_file(path) != (result.artifact_sha256 or sha256_file(path)):
        raise UsageError(f"{path} is not the file that report.json tells of", "Build it again.")
    return Artifact(
        path=path,
        original_path=original_file(model, plan.runtime),
        bundle=_bundle(plan, path, work),
        layers=tuple(result.layers),
        proof=result.proof,
        runtime_version=discover.runtime(plan.runtime).version(),
        custom_op_path=custom_op_path if custom_op_path.is_file() else None,
    )


def _bundle(plan: Plan, path: Path, work: Workspace) -> Path:
    """The folder with all that runs on the device, the model among it."""
    bundle = work.path("bundle")
    with atomic_folder(bundle) as partial:
        make_bundle(find_target(plan.target), plan.runtime, partial)
        (partial / path.name).hardlink_to(path)
    return bundle


def output_values(model: Model) -> int:
    """How many numbers of a record's outputs are compared."""
    if isinstance(model.net, FileNet):
        return model.net.outputs
    with torch.inference_mode():
        return flat_output(model.net(*model.example_inputs)).numel()


def original_file(model: Model, runtime_name: str) -> Path:
    """The uncompressed export, made once per model, runtime and version."""
    runtime = discover.runtime(runtime_name)
    identity = [model.sha256, repr(model.net), _shapes(model), runtime_name, runtime.version()]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    path = cache_folder("originals", f"{model.name}-{key}") / f"original{runtime.SUFFIX}"
    if not path.exists():
        progress.note("exporting the original")
        runtime.export(model.net, model.example_inputs, path)
    return path


def _shapes(model: Model) -> str:
    return str([(tuple(x.shape), str(x.dtype)) for x in model.example_inputs])


def _prove(model: Model, runtime_name: str, net: nn.Module, path: Path) -> Proof:
    runtime = discover.runtime(runtime_name)
    stored = {hashlib.sha256(c.data).digest() for c in runtime.constants(path)}
    looked_up: list[float] = []
    stock = rounded = 0
    for name, layer in net.named_modules():
        if isinstance(layer, (Coded, Stock)):
            if isinstance(layer, Coded):
                looked_up.append(_lookup_error(layer))
            stock += isinstance(layer, Stock)
            _find(stored, [layer.codes], f"{path}: the codes of {name}")
            _find(stored, [layer.codebook], f"{path}: the codebook of {name}")
        elif isinstance(layer, Quantized):
            rounded += 1
            _find(stored, runtime.stored(layer), f"{path}: the int{layer.bits} weights of {name}")
    ours = sorted(name for name in runtime.operators(path) if "edgecomp" in name) if stock else []
    if ours:
        raise BuildError(f"{path} should need no custom op, and needs {', '.join(ours)}")
    inputs, reference = proof_inputs(model)
    expected = _expected(model, runtime_name, net, inputs)
    got = run_on_host(runtime_name, path, inputs, expected.shape[1])
    difference = (got - expected).norm() / expected.norm().clamp(min=1e-30)
    # What one layer rounds the other way the next ones may make more of.
    limit = _EXACT + math.hypot(*looked_up) + min(rounded * _ROUNDING, _ROUNDED)
    if not difference <= limit:
        raise BuildError(
            f"{path}: outputs differ from the torch module's by {100 * difference:.2f} % (limit {100 * limit:.2f} %)"
        )
    return Proof(
        codes_stored=len(looked_up) + stock + rounded > 0,
        max_abs_difference=(got - expected).abs().max().item(),
        relative_difference=difference.item(),
        reference=reference,
    )


def _lookup_error(layer: Coded) -> float:
    """At most, of the layer's outputs."""
    tables = layer.lookup
    known = tables.error is not None and tables.error <= LIMIT
    return _LOOKUP if tables.bits > 8 or known else _BYTES


def _expected(model: Model, runtime_name: str, net: nn.Module, inputs: list[Tensor]) -> Tensor:
    """What the net gives for every record, (N, values); that of a file with its weights in place of their codes."""
    if isinstance(net, FileNet):
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, "decoded")
            discover.runtime(runtime_name).export(net.decoded(), model.example_inputs, path)
            return run_on_host(runtime_name, path, inputs, net.outputs)
    with torch.inference_mode():
        return torch.cat([flat_output(net(*record)) for record in zip(*inputs, strict=True)]).reshape(
            len(inputs[0]), -1
        )


def _find(stored: set[bytes], forms: list[Tensor], what: str) -> None:
    """Raises a BuildError if none of the forms of a tensor is stored."""
    forms_bytes = [form.contiguous().numpy().tobytes() for form in forms]
    if not any(hashlib.sha256(data).digest() in stored for data in forms_bytes):
        raise BuildError(f"{what} ({len(forms_bytes[0])} bytes) are not in the exported file")


def proof_inputs(model: Model) -> tuple[list[Tensor], str]:
    """Records, each of the shapes of the example inputs, and what the outputs are compared with."""
    if model.data is not None:
        split = model.data.calibration
        return [split.inputs[:_PROOF_SAMPLES, None]], f"torch module on {_PROOF_SAMPLES} samples of {split.name}"
    what = "the file with decoded weights" if isinstance(model.net, FileNet) else "torch module"
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for example in model.example_inputs:
        if not example.is_floating_point():
            return [x[None] for x in model.example_inputs], f"{what} on the example inputs"
        inputs.append(torch.randn((_PROOF_SAMPLES, *example.shape), generator=generator))
    return inputs, f"{what} on {_PROOF_SAMPLES} random inputs"


def _ledger(plan: Plan, model: Model, compressed: Compressed, path: Path, original: Path) -> tuple[LayerReport, ...]:
    lines = []
    for entry in plan.entries:
        names = [names[0] for names in entry.units]
        made = nn.ModuleList([compressed.net.get_submodule(name) for name in names])  # counts what they share once
        size = parameter_bytes(made if entry.method else made[0], recurse=entry.method is not None)
        found = [getattr(model.net.get_submodule(name), "weight", None) for name in names]
        weights = sum(w.numel() if isinstance(w, Tensor) else entry.original_bytes // 4 for w in found)
        lines.append(
            LayerReport(
                name=", ".join(entry.layers) or "(model)",
                kind=entry.kind,
                method="+".join(filter(None, [entry.pruned, entry.method])) or None,
                settings=entry.settings,
                weights=weights,
                original_bytes=entry.original_bytes,
                bytes=size,
                bits_per_weight=8 * size / max(1, weights),
                relative_error=_mean([compressed.weight_errors[n] for n in names if n in compressed.weight_errors]),
                output_error=_mean([compressed.output_errors[n] for n in names if n in compressed.output_errors]),
                tables=_tables(made),
                reason="; ".join(dict.fromkeys(filter(None, [entry.reason, *_remarks(made)]))),
            )
        )
    container = path.stat().st_size - sum(line.bytes for line in lines)
    if container < 0:
        raise BuildError(f"{path} is {-container} bytes smaller than the tensors it should hold")
    lines.append(
        LayerReport(
            name="container",
            kind="container",
            method=None,
            weights=0,
            original_bytes=original.stat().st_size - sum(line.original_bytes for line in lines),
            bytes=container,
            bits_per_weight=0,
            relative_error=None,
            reason="graph, names and alignment of the file itself",
        )
    )
    return tuple(lines)


def _tables(made: nn.Module) -> str:
    coded = [part for part in made.modules() if isinstance(part, Coded) and not isinstance(part, CodebookEmbedding)]
    return "; ".join(dict.fromkeys(part.lookup.text for part in coded))


def _remarks(made: nn.Module) -> list[str]:
    """What became of codebook layers in a file without custom ops."""
    return [layer.remark for layer in made.modules() if isinstance(layer, Stock)]


def _mean(errors: list[float]) -> float | None:
    """The root mean square of the errors of several layers; None for none."""
    return math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else None
