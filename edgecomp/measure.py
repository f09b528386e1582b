"""Stage 6, measure: accuracy of the exported files, their time and memory, and the check on the target's device."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from .devices import choose, protocol
from .devices.base import Device, DeviceOptions
from .devices.bundle import bench_program, host_bundle
from .devices.choose import make_device
from .devices.host import HOST_TARGET
from .devices.target import find_target
from .devices.tensors import outputs_of, write_records
from .errors import BuildError
from .export import file_outputs, module_outputs, proof_inputs, signature_of
from .graph.batches import Tensors, records
from .graph.given import distance, largest_difference
from .graph.trace import batch_of
from .records import Accuracy, Artifact, EmulatorCheck, Measured, Measurement, Model, OutputError, Plan, Request, Split
from .training.metrics import answers_agree
from .training.scores import compare_answers
from .util import progress
from .util.cache import key_of, remembered_tensors
from .util.files import cache_folder, sha256_file, temporary_folder
from .util.units import format_score

_EMULATED_SAMPLES, _DEVICE_SAMPLES = 32, 500  # of the test split, for the check
_EMULATED_INSTRUCTIONS = 5e9  # of the original on them; about a minute
_BROKEN = 10  # percent that outputs are off, where nothing tells what they are worth
_TOLERANCE = 0.01  # relative difference from the host's outputs; the same sums in another order


def measure(model: Model, plan: Plan, artifact: Artifact, request: Request) -> Measured:
    """All figures of this build.

    Raises:
        DeviceError: a program dies on the host or the device.
        BuildError: the device's outputs are not the host's.
    """
    target, place = find_target(plan.target), DeviceOptions.of(request)
    names = choose.chosen(target, request.on, place)
    with progress.stage("measure", " and ".join(names) or "nothing"):
        error = output_error(model, plan, artifact)
        if not names:
            return Measured((), None, None, ("nothing was measured: --on none", *_warnings(error, None)), error)
        accuracy = _accuracy(model, plan, artifact)
        notes = [] if accuracy else ["no data: accuracy was not measured, inputs of the timing are the example inputs"]
        measurements, check = [], None
        with temporary_folder() as temporary:
            records = Path(temporary, "inputs")
            what = write_timed_inputs(model, plan.runtime, artifact.path, records)
            for name in names:
                bundle = artifact.bundle
                if name == "host":
                    bundle = host_bundle(find_target(HOST_TARGET), plan.runtime)
                with make_device(name, target, place) as device:
                    scene = protocol.BenchInputs(plan.runtime, bundle, artifact.files, records, what)
                    measurements += protocol.measured(device, scene)
                    if name != "host":
                        check = _check(model, plan, artifact, device, _checked_samples(measurements))
                    notes += [f"{device.name}: {remark}" for remark in device.remarks()]
        notes += _warnings(error, accuracy if accuracy is not None and _tells(model, accuracy) else None)
        return Measured(tuple(measurements), accuracy, check, tuple(notes), error)


def _warnings(error: OutputError, accuracy: Accuracy | None) -> list[str]:
    """Where a metric was measured it says what the outputs are worth, however far they are from the original's."""
    if accuracy is not None or (error.percent is not None and error.percent <= _BROKEN):
        return []
    off = "not finite in other places than" if error.percent is None else f"{error.percent:.3g} % off"
    return [f"outputs are {off} those of {error.reference} on {error.inputs}: this model is probably broken"]


def _tells(model: Model, accuracy: Accuracy) -> bool:
    """Whether the metric says what outputs are worth: not where it is but their distance from the original's."""
    return accuracy.agreement is not None or (model.data is not None and model.data.test.targets is not None)


def _accuracy(model: Model, plan: Plan, artifact: Artifact) -> Accuracy | None:
    """Over the whole test split."""
    if model.data is None:
        return None
    files = (artifact.original_path, artifact.path)
    result = compare_answers(model.data, *(test_outputs(model, plan.runtime, path) for path in files), "host")
    before, after = (format_score(value, result.unit) for value in (result.original, result.compressed))
    progress.note(f"{result.metric} {before} → {after} on {result.samples:,} samples of {result.split}")
    return result


def test_outputs(model: Model, runtime: str, path: Path) -> Tensor:
    """Outputs of an exported file on the test split."""
    return outputs_on(model, runtime, path, model.data.test.inputs)


def outputs_on(model: Model, runtime: str, path: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    """The first output (N, …) of an exported file; computed once per file, inputs and kernels."""
    bench = bench_program(find_target(HOST_TARGET), runtime)

    def make() -> dict[str, Tensor]:
        batch, outputs = batch_of(model.example_inputs), []
        with progress.bar(f"outputs of {path.name}", len(inputs[0])) as advance:
            for part in Split("", inputs).batches(2000 // batch * batch or batch):
                outputs.append(file_outputs(model, runtime, path, part, torch.get_num_threads())[0])
                advance(len(part[0]))
        return {"outputs": torch.cat(outputs)}

    return remembered_tensors(cache_folder("outputs"), key_of(path, bench, inputs), make)["outputs"]


def output_error(model: Model, plan: Plan, artifact: Artifact) -> OutputError:
    """How far all outputs of the compressed file are from those of the user's module, on test samples, which no layer
    was fitted to, or where there are none on random or example inputs. A file has no module: then its own outputs are
    the reference."""
    inputs, _ = proof_inputs(model, model.data and model.data.test)
    got = file_outputs(model, plan.runtime, artifact.path, inputs)
    if model.given is None:
        reference = "the original's file"
        wanted = file_outputs(model, plan.runtime, artifact.original_path, inputs)
    else:
        reference, wanted = "the model as it was given", module_outputs(model, inputs)
    off = 100 * distance(got, wanted)
    samples = len(inputs[0])
    random = all(x.is_floating_point() for x in inputs)
    what = f"samples of {model.data.test.name}" if model.data else "random inputs" if random else "example inputs"
    percent = float(f"{off:.4g}") if math.isfinite(off) else None
    return OutputError(percent=percent, samples=samples, inputs=what, reference=reference, real=model.data is not None)


def write_timed_inputs(model: Model, runtime: str, file: Path, path: Path) -> str:
    """Writes the one record for `file` that is run over and over, and says what it is."""
    record, what = model.example_inputs, "the example inputs"
    if model.data is not None:
        count, test = batch_of(model.example_inputs), model.data.test
        (record,) = records(test.take(slice(count)), count)
        what = f"the first {'sample' if count == 1 else f'{count} samples'} of {test.name}"
    write_records(path, [x[None] for x in record], signature_of(model, runtime, file))
    return f"{what}, sha256 {sha256_file(path)[:16]}"


def _checked_samples(measurements: list[Measurement]) -> int:
    """How many samples the device that was measured last runs in reasonable time."""
    instructions = max((m.instructions or 0 for m in measurements), default=0)
    return (
        min(_EMULATED_SAMPLES, max(1, int(_EMULATED_INSTRUCTIONS // instructions))) if instructions else _DEVICE_SAMPLES
    )


def _check(model: Model, plan: Plan, artifact: Artifact, device: Device, count: int) -> EmulatorCheck:
    """All outputs of the compressed file on the device against the same file on the host, over the first `count`
    samples of the test split; without one over the inputs of the proof."""
    batch = batch_of(model.example_inputs)
    if model.data is None:
        (inputs, _), what = proof_inputs(model), "random inputs"
    else:
        inputs, what = model.data.test.take(slice(count)), "test samples"
    count, accuracy = len(inputs[0]), None

    def there(path: Path) -> Tensors:
        signature = signature_of(model, plan.runtime, path)
        return outputs_of(lambda *files: device.run(artifact.bundle, path, *files), signature, inputs, batch)

    with progress.bar(f"outputs on {device.name}", 2 if model.data else 1) as advance:
        expected = file_outputs(model, plan.runtime, artifact.path, inputs)
        got = there(artifact.path)
        advance()
        if model.data is not None:
            accuracy = compare_answers(model.data, there(artifact.original_path)[0], got[0], device.evidence)
            advance()
    difference = distance(got, expected)
    if not difference <= _TOLERANCE:
        raise BuildError(
            f"{artifact.path}: outputs on {device.name} differ from the host's by {100 * difference:.2f} % "
            f"(limit {100 * _TOLERANCE:.0f} %) over {count} {what}"
        )
    return EmulatorCheck(
        evidence=device.evidence,
        samples=count,
        inputs=what,
        max_abs_difference=largest_difference(got, expected),
        relative_difference=difference,
        agreement=answers_agree(got[0], expected[0]),
        accuracy=accuracy,
    )
