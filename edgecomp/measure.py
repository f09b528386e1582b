"""Stage 6, measure: accuracy of the exported files, their time and memory, and the check on the target's device."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .devices import choose, protocol
from .devices.base import Device, Place
from .devices.bench import read_outputs, write_records
from .devices.bundle import bench_program, host_bundle
from .devices.choose import make_device
from .devices.host import HOST_TARGET, run_on_host
from .devices.target import find_target
from .errors import BuildError
from .export import output_values, proof_inputs
from .records import Accuracy, Artifact, Data, EmulatorCheck, Evidence, Measured, Model, Plan, Request, Split
from .training.outputs import flat_output
from .util import progress, statistics
from .util.files import atomic_file, cache_folder, sha256_file

_EMULATED_SAMPLES, _DEVICE_SAMPLES = 32, 500  # of the test split, for the check
_TOLERANCE = 0.01  # relative difference from the host's outputs; the same sums in another order


def measure(model: Model, plan: Plan, artifact: Artifact, request: Request) -> Measured:
    """All figures of this build.

    Raises:
        DeviceError: a program dies on the host or the device.
        BuildError: the device's outputs are not the host's.
    """
    target, place = find_target(plan.target), Place.of(request)
    names = choose.chosen(target, request.on, place)
    with progress.stage("measure", " and ".join(names) or "nothing"):
        if not names:
            return Measured((), None, None, ("nothing was run: --on none",))
        accuracy, outputs = _accuracy(model, plan, artifact)
        notes = [] if accuracy else ["no data: accuracy was not measured, inputs of the timing are the example inputs"]
        measurements, check = [], None
        with tempfile.TemporaryDirectory() as temporary:
            records = Path(temporary, "inputs")
            what = write_timed_inputs(model, records)
            for name in names:
                bundle = artifact.bundle
                if name == "host":
                    bundle = host_bundle(find_target(HOST_TARGET), plan.runtime)
                with make_device(name, target, place) as device:
                    scene = protocol.Scene(plan.runtime, bundle, artifact.files, records, what)
                    measurements += protocol.measured(device, scene)
                    if name != "host":
                        check = _check(model, plan, artifact, device, outputs)
                    notes += [f"{device.name}: {remark}" for remark in device.remarks()]
        return Measured(tuple(measurements), accuracy, check, tuple(notes))


def answers_agree(a: Tensor, b: Tensor) -> float:
    """Percent of samples with the same largest output."""
    return 100 * (a.argmax(1) == b.argmax(1)).float().mean().item()


def score(data: Data, outputs: Tensor) -> float:
    """The model's metric on the test split, in percent."""
    return _score(data.metric, outputs, data.test.targets)


def _score(metric: str | Callable[[Tensor, Tensor], float], outputs: Tensor, targets: Tensor) -> float:
    if callable(metric):
        return float(metric(outputs, targets))
    if metric != "top1":
        raise BuildError(f"unknown metric {metric!r}", "Use 'top1' or a function (outputs, targets) → percent.")
    return 100 * (outputs.argmax(1) == targets).float().mean().item()


def _accuracy(model: Model, plan: Plan, artifact: Artifact) -> tuple[Accuracy | None, Tensor | None]:
    """Accuracy over the whole test split, and the compressed file's outputs."""
    if model.data is None:
        return None, None
    test = model.data.test
    original = test_outputs(model, plan.runtime, artifact.original_path)
    compressed = test_outputs(model, plan.runtime, artifact.path)
    result = compare_answers(model.data, original, compressed, "host")
    progress.note(
        f"{result.metric} {result.original:.2f} → {result.compressed:.2f} % on {len(test):,} samples of {test.name}"
    )
    return result, compressed


def compare_answers(
    data: Data, original: Tensor, compressed: Tensor, evidence: Evidence, split: Split | None = None
) -> Accuracy:
    """Accuracy of both nets from their outputs on the first samples of a split, that for tests unless told, as many as
    there are outputs."""
    split = split or data.test
    count, metric = len(original), data.metric
    targets = split.targets[:count]
    before, after = _score(metric, original, targets), _score(metric, compressed, targets)
    if callable(metric):

        def drop(chosen: np.ndarray) -> float:
            a, b = (_score(metric, outputs[chosen], targets[chosen]) for outputs in (original, compressed))
            return a - b

        interval, method = statistics.drop_of_scores(drop, count), "95 %, paired bootstrap"
    else:
        right = [(outputs.argmax(1) == targets).numpy() for outputs in (original, compressed)]
        interval, method = statistics.drop_of_rights(*right), "95 %, Newcombe's for paired proportions"
    return Accuracy(
        metric="custom" if callable(metric) else metric,
        split=split.name,
        samples=count,
        original=round(before, 4),
        compressed=round(after, 4),
        drop_points=round(before - after, 4),
        agreement=round(answers_agree(original, compressed), 4),
        interval=interval,
        interval_method=method,
        evidence=evidence,
    )


def test_outputs(model: Model, runtime: str, path: Path) -> Tensor:
    """Outputs of an exported file on the test split."""
    return outputs_on(model, runtime, path, model.data.test.inputs)


def outputs_on(model: Model, runtime: str, path: Path, inputs: Tensor) -> Tensor:
    """Outputs of an exported file; computed once per file, inputs and kernels."""
    bench = bench_program(find_target(HOST_TARGET), runtime)
    digest = hashlib.sha256(inputs.numpy().tobytes())
    digest.update((sha256_file(path) + sha256_file(bench)).encode())
    cached = cache_folder("outputs") / f"{digest.hexdigest()[:32]}.npy"
    if not cached.exists():
        with torch.inference_mode():
            values = flat_output(model.net(inputs[:1])).shape[1]
        outputs = []
        with progress.bar(f"accuracy of {path.name}", len(inputs)) as advance:
            for part in inputs.split(2000):
                outputs.append(run_on_host(runtime, path, [part], values, threads=torch.get_num_threads()))
                advance(len(part))
        with atomic_file(cached) as partial, open(partial, "wb") as file:
            np.save(file, torch.cat(outputs).numpy())
    return torch.from_numpy(np.load(cached))


def write_timed_inputs(model: Model, path: Path) -> str:
    """Writes the one record that is run over and over, and says what it is."""
    record = [model.data.test.inputs[:1]] if model.data else [x[None] for x in model.example_inputs]
    write_records(path, record)
    what = f"the first sample of {model.data.test.name}" if model.data else "the example inputs"
    return f"{what}, sha256 {sha256_file(path)[:16]}"


def _check(model: Model, plan: Plan, artifact: Artifact, device: Device, host_outputs: Tensor | None) -> EmulatorCheck:
    """The compressed file on the device against the same file on the host, over a subset of the test split; without
    one over the inputs of the proof."""
    if host_outputs is None:
        inputs, what = proof_inputs(model)[0], "random inputs"
        expected = run_on_host(plan.runtime, artifact.path, inputs, output_values(model))
    else:
        count = _DEVICE_SAMPLES if device.tells_time else _EMULATED_SAMPLES
        inputs, what = [model.data.test.inputs[:count]], "test samples"
        expected = host_outputs[:count]
    values, accuracy = expected.shape[1], None
    with progress.bar(f"outputs on {device.name}", 2 if model.data else 1) as advance:
        got = _outputs(device, artifact.bundle, artifact.path, inputs, values)
        advance()
        if host_outputs is not None:
            original = _outputs(device, artifact.bundle, artifact.original_path, inputs, values)
            accuracy = compare_answers(model.data, original, got, device.evidence)
            advance()
    difference = ((got - expected).norm() / expected.norm().clamp(min=1e-30)).item()
    if not difference <= _TOLERANCE:
        raise BuildError(
            f"{artifact.path}: outputs on {device.name} differ from the host's by {100 * difference:.2f} % "
            f"(limit {100 * _TOLERANCE:.0f} %) over {len(expected)} {what}"
        )
    return EmulatorCheck(
        evidence=device.evidence,
        samples=len(expected),
        inputs=what,
        max_abs_difference=(got - expected).abs().max().item(),
        relative_difference=difference,
        agreement=answers_agree(got, expected),
        accuracy=accuracy,
    )


def _outputs(device: Device, bundle: Path, path: Path, inputs: list[Tensor], values: int) -> Tensor:
    """Outputs of a file for every record on a device, (N, values)."""
    with tempfile.TemporaryDirectory() as temporary:
        records, result = Path(temporary, "inputs"), Path(temporary, "outputs")
        write_records(records, inputs)
        device.run(bundle, path, records, result, threads=1)
        return read_outputs(result, len(inputs[0]), values)
