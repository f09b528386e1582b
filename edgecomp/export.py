"""Stage 5, export: writes the compressed and the original network for the runtime, and proves what was written.

The proof re-opens the file, finds every layer's packed codes or integer weights in it, and compares the runtime's
outputs with those of the torch module. A mismatch is an error.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from . import discover
from .devices import download
from .devices.bundle import add_model, make_bundle
from .devices.host import outputs_on_host
from .devices.target import find_target
from .devices.tensors import Signature
from .errors import BuildError, UsageError
from .fitting.tables import LIMIT
from .graph.batches import Tensors, joined, records
from .graph.canonical import HALF, given_outputs, records_for
from .graph.given import as_tuple, distance, largest_difference
from .graph.precision import other_precision
from .graph.put_back import decoded_parameters, outputs_with
from .graph.trace import batch_of
from .layers.builtin import Builtin, without_custom_ops
from .layers.codebook import Coded
from .layers.ledger import ledger
from .layers.quantized import Quantized
from .layers.recurrent import inside_recurrences
from .layers.transposed import with_plain_transposed
from .records import Artifact, Compressed, Model, Plan, Proof, Report, Split
from .runtimes.litert.file_net import FileNet
from .util import progress
from .util.cache import remembered_folder
from .util.files import atomic_folder, cache_folder, sha256_file, temporary_folder
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
    path, custom_op_path = work.new(f"model{runtime.SUFFIX}"), work.new(f"custom-op{runtime.SUFFIX}")
    download_path = work.new(download.NAME)
    nets = {path: compressed.net}
    if plan.stock:
        nets = {path: without_custom_ops(compressed.net, model.example_inputs)}
        if any(isinstance(layer, Builtin) for layer in nets[path].modules()):
            nets[custom_op_path] = compressed.net
    if custom_op_path not in nets:
        custom_op_path.unlink(missing_ok=True)  # of a build that was not finished
    digest = sha256_file(compressed.checkpoint)
    key = stage_key("export", digest, plan.runtime, runtime.version(), _shapes(model), plan.stock)
    with progress.stage("export", plan.runtime):
        original = original_file(model, plan.runtime)
        done = work.recall("export", key)
        if done is not None:
            progress.note("cached")
        else:
            for file, net in nets.items():
                runtime.export(with_plain_transposed(net), model.example_inputs, file)
            proofs = [_prove(model, plan.runtime, net, file).model_dump() for file, net in nets.items()]
            done = {"proof": proofs[0]}
            download.pack(path, download_path, _tensors(runtime, nets[path], path))
            work.record("export", key, [*nets, download_path], done)
        return Artifact(
            path=path,
            original_path=original,
            bundle=_bundle(plan, path, work.new("bundle")),
            layers=ledger(plan, model, replace(compressed, net=nets[path]), path, original),
            proof=Proof(**done["proof"]),
            runtime_version=runtime.version(),
            custom_op_path=custom_op_path if custom_op_path in nets else None,
            download_path=download_path,
        )


def _tensors(runtime: ModuleType, net: nn.Module, path: Path) -> list[download.Tensor]:
    """What the file holds and an entropy coder should look at on its own: packed codes, and every constant."""
    coded = [layer for layer in net.modules() if isinstance(layer, Coded)]
    codes = [
        download.Tensor(layer.codes.numpy().tobytes(), form.bits, form.tile, form.blocks * form.stages)
        for layer in coded
        for form in [layer.format]
    ]
    return codes + [download.Tensor(constant.data) for constant in runtime.constants(path)]


def reopen(model: Model, plan: Plan, result: Report, work: Workspace) -> Artifact:
    """What an earlier build exported into this folder, to measure it again with the bench program of today.

    Raises:
        UsageError: the file is not the one that the report tells of.
        BuildError: it is a damaged .tflite.
    """
    suffix = discover.runtime(plan.runtime).SUFFIX
    path, custom_op_path = work.path(f"model{suffix}"), work.path(f"custom-op{suffix}")
    if not path.is_file() or sha256_file(path) != (result.artifact_sha256 or sha256_file(path)):
        raise UsageError(f"{path} is not the file that report.json tells of", "Build it again.")
    for file in (path, custom_op_path):
        if suffix == ".tflite" and file.is_file():  # LiteRT itself would die of a damaged one
            from .runtimes.litert import flatbuffer

            flatbuffer.verified(file.read_bytes(), str(file))
    return Artifact(
        path=path,
        original_path=original_file(model, plan.runtime),
        bundle=_bundle(plan, path, work.path("bundle")),
        layers=tuple(result.layers),
        proof=result.proof,
        runtime_version=discover.runtime(plan.runtime).version(),
        custom_op_path=custom_op_path if custom_op_path.is_file() else None,
        download_path=download.of_file(work.path(download.NAME), path),
    )


def _bundle(plan: Plan, path: Path, bundle: Path) -> Path:
    """Fills the folder with all that runs on the device, the model among it."""
    with atomic_folder(bundle) as partial:
        make_bundle(find_target(plan.target), plan.runtime, partial)
        add_model(partial, path)
    return bundle


def original_file(model: Model, runtime_name: str) -> Path:
    """The uncompressed export, made once per model, runtime and version, and compared with the user's module."""
    runtime = discover.runtime(runtime_name)
    key = stage_key("original", model.sha256, _shapes(model), runtime_name, runtime.version())[:16]
    name = f"original{runtime.SUFFIX}"

    def make(folder: Path) -> None:
        progress.note("exporting the original")
        runtime.export(with_plain_transposed(model.net), model.example_inputs, folder / name)
        prove_original(model, runtime_name, folder / name)

    return remembered_folder(cache_folder("originals") / f"{model.name}-{key}", make) / name


def _shapes(model: Model) -> str:
    return str([(tuple(x.shape), str(x.dtype)) for x in model.example_inputs])


def file_outputs(model: Model, runtime_name: str, path: Path, inputs: Tensors, threads: int = 1) -> Tensors:
    """All outputs of an exported file of this model on this machine, for samples (N, …), as a net would give them."""
    signature = signature_of(model, runtime_name, path)
    return outputs_on_host(runtime_name, path, signature, inputs, batch_of(model.example_inputs), threads)


def signature_of(model: Model, runtime_name: str, path: Path) -> Signature:
    """What a file of this model takes and gives."""
    with torch.inference_mode():
        outputs = as_tuple(model.net(*model.example_inputs))
    return discover.runtime(runtime_name).signature(path, model.example_inputs, outputs)


# --- the proof --------------------------------------------------------------------------------------------


def prove_original(model: Model, runtime_name: str, path: Path) -> None:
    """Compares all outputs of the uncompressed file with those of the user's module.

    Raises:
        BuildError: they differ.
    """
    if model.given is None:  # it is a file itself
        return
    inputs, _ = proof_inputs(model)
    wanted = module_outputs(model, inputs)
    off = distance(file_outputs(model, runtime_name, path, inputs), wanted)
    limit = HALF if other_precision(model.given) else _EXACT
    if not off <= limit:
        raise BuildError(
            f"{model.name}: uncompressed, the file of {runtime_name} gives other outputs than the model "
            f"({100 * off:.2f} % off, limit {100 * limit:.2f} %)",
            "The runtime does not compute what this model does; try the other one with --runtime.",
        )


def module_outputs(model: Model, inputs: Tensors) -> Tensors:
    """What the user's module gives for samples, so many at a time as its examples have."""
    batch = batch_of(model.example_inputs)
    outputs = [given_outputs(model.given, record) for record in records(inputs, batch)]
    return tuple(joined(output, batch, len(inputs[0])) for output in zip(*outputs, strict=True))


def _prove(model: Model, runtime_name: str, net: nn.Module, path: Path) -> Proof:
    runtime = discover.runtime(runtime_name)
    coded, rounded, stock = _find_codes(runtime, net, path)
    inputs, what = proof_inputs(model)
    expected, reference = _expected(model, runtime_name, net, inputs, exact=not rounded)
    got = file_outputs(model, runtime_name, path, inputs)
    # What one layer rounds the other way the next ones may make more of.
    limit = _EXACT + math.hypot(*map(_lookup_error, coded)) + min(rounded * _ROUNDING, _ROUNDED)
    off = distance(got, expected)
    if not off <= limit:
        raise BuildError(
            f"{path}: outputs differ from the torch module's by {100 * off:.2f} % (limit {100 * limit:.2f} %)"
        )
    return Proof(
        codes_stored=len(coded) + stock + rounded > 0,
        max_abs_difference=largest_difference(got, expected),
        relative_difference=off,
        reference=f"{reference} on {what}",
    )


def _find_codes(runtime: ModuleType, net: nn.Module, path: Path) -> tuple[list[Coded], int, int]:
    """The codebook layers, and the numbers of integer ones and of such without custom ops, whose codes are all in the
    file.

    Raises:
        BuildError: some are not, or the file needs custom ops that it should not need.
    """
    stored = {hashlib.sha256(c.data).digest() for c in runtime.constants(path)}
    coded: list[Coded] = []
    stock = rounded = 0
    apart = inside_recurrences(net)
    for name, layer in net.named_modules():
        if isinstance(layer, (Coded, Builtin)):
            coded += [layer] if isinstance(layer, Coded) else []
            stock += isinstance(layer, Builtin)
            _find(stored, [layer.codes], f"{path}: the codes of {name}")
            _find(stored, [layer.codebook], f"{path}: the codebook of {name}")
        elif isinstance(layer, Quantized):
            rounded += 1
            forms = [layer.codes] if layer in apart else runtime.stored(layer)
            _find(stored, forms, f"{path}: the int{layer.bits} weights of {name}")
    ours = sorted(name for name in runtime.operators(path) if "edgecomp" in name) if stock else []
    if ours:
        raise BuildError(f"{path} should need no custom op, and needs {', '.join(ours)}")
    return coded, rounded, stock


def _lookup_error(layer: Coded) -> float:
    """At most, of the layer's outputs."""
    tables = layer.effective_tables
    known = tables.error is not None and tables.error <= LIMIT
    return _LOOKUP if tables.bits > 8 or known else _BYTES


def _expected(model: Model, runtime_name: str, net: nn.Module, inputs: Tensors, exact: bool) -> tuple[Tensors, str]:
    """What the file should give for samples, and of what: the user's module with the decoded weights put into it; a
    file with its weights in place of their codes. Where weights cannot be put back, or inputs are rounded too, the
    traced net, which `load` has compared with the module.

    Args:
        exact: no layer rounds its inputs.
    """
    batch = batch_of(model.example_inputs)
    parameters = decoded_parameters(model.given, model.net, net) if exact and model.given is not None else None
    if parameters is not None:
        return outputs_with(model.given, parameters, inputs, batch), "the model with decoded weights"
    if isinstance(net, FileNet):
        with temporary_folder() as temporary:
            path = Path(temporary, "decoded")
            discover.runtime(runtime_name).export(net.decoded(), model.example_inputs, path)
            return file_outputs(model, runtime_name, path, inputs), "the file with decoded weights"
    with torch.inference_mode():
        outputs = [as_tuple(net(*record)) for record in records(inputs, batch)]
    return tuple(joined(output, batch, len(inputs[0])) for output in zip(*outputs, strict=True)), "the traced net"


def _find(stored: set[bytes], forms: list[Tensor], what: str) -> None:
    """Raises a BuildError if none of the forms of a tensor is stored."""
    forms_bytes = [form.contiguous().numpy().tobytes() for form in forms]
    if not any(hashlib.sha256(data).digest() in stored for data in forms_bytes):
        raise BuildError(f"{what} ({len(forms_bytes[0])} bytes) are not in the exported file")


def proof_inputs(model: Model, split: Split | None = None) -> tuple[Tensors, str]:
    """Samples (N, …) that fill whole records, and what they are: of the split, else of calibration, else random."""
    batch = batch_of(model.example_inputs)
    count = -(-_PROOF_SAMPLES // batch) * batch
    split = split or (model.data and model.data.calibration)
    if split is not None and len(split) >= batch:
        count = min(count, len(split) // batch * batch)
        return split.take(slice(0, count)), f"{count} samples of {split.name}"
    made = records_for(model.example_inputs, count=count // batch)
    return tuple(torch.cat(x) for x in zip(*made, strict=True)), f"{count} random inputs"
