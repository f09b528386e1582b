"""Stage 6, measure: accuracy of the exported files, their time and memory, and the check on the target's device.

Original and compressed run in the same session, in turns. What a device cannot tell stays None: the emulator never
gives a time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import devices, discover, native, progress, timing
from .devices import Device
from .devices.host import Host
from .errors import BuildError
from .export import HOST_TARGET, flat_output, output_values, proof_inputs, read_outputs, run_on_host, write_records
from .files import atomic_file, cache_folder, sha256_file
from .records import Accuracy, Artifact, Data, EmulatorCheck, Measured, Measurement, Model, Plan, Request

_EMULATED_SAMPLES = 32
_EMULATED_TOLERANCE = 0.01  # relative difference from the host's outputs; the same sums in another order


def measure(model: Model, plan: Plan, artifact: Artifact, request: Request) -> Measured:
    """All figures of this build.

    Raises:
        DeviceError: a program dies on the host or the device.
        BuildError: the device's outputs are not the host's.
    """
    target = discover.target(plan.target)
    names = devices.chosen(target, request.on)
    with progress.stage("measure", " and ".join(names) or "nothing"):
        if not names:
            return Measured((), None, None, ("nothing was run: --on none",))
        accuracy, outputs = _accuracy(model, plan, artifact)
        measurements = list(_on_host(model, plan, artifact))
        check = None
        for name in names:
            if name != "host":
                device = devices.make(name, target)
                measurements += _on_emulator(model, plan, artifact, device)
                check = _check(model, plan, artifact, device, outputs)
        notes = () if accuracy else ("no data: accuracy was not measured, inputs of the timing are the example inputs",)
        return Measured(tuple(measurements), accuracy, check, notes)


def answers_agree(a: Tensor, b: Tensor) -> float:
    """Percent of samples with the same largest output."""
    return 100 * (a.argmax(1) == b.argmax(1)).float().mean().item()


def score(data: Data, outputs: Tensor) -> float:
    """The model's metric on the test split, in percent."""
    if callable(data.metric):
        return float(data.metric(outputs, data.test.targets))
    if data.metric != "top1":
        raise BuildError(f"unknown metric {data.metric!r}", "Use 'top1' or a function (outputs, targets) → percent.")
    return 100 * (outputs.argmax(1) == data.test.targets).float().mean().item()


def _accuracy(model: Model, plan: Plan, artifact: Artifact) -> tuple[Accuracy | None, Tensor | None]:
    """Accuracy over the whole test split, and the compressed file's outputs."""
    if model.data is None:
        return None, None
    test = model.data.test
    original = test_outputs(model, plan.runtime, artifact.original_path)
    compressed = test_outputs(model, plan.runtime, artifact.path)
    before, after = score(model.data, original), score(model.data, compressed)
    metric = "custom" if callable(model.data.metric) else model.data.metric
    progress.note(f"{metric} {before:.2f} → {after:.2f} % on {len(test):,} samples of {test.name}")
    return Accuracy(
        metric=metric,
        split=test.name,
        samples=len(test),
        original=round(before, 4),
        compressed=round(after, 4),
        drop_points=round(before - after, 4),
        agreement=round(answers_agree(original, compressed), 4),
    ), compressed


def test_outputs(model: Model, runtime: str, path: Path) -> Tensor:
    """Outputs of an exported file on the test split; computed once per file, data and kernels."""
    inputs = model.data.test.inputs
    bench = native.bench_program(discover.target(HOST_TARGET), runtime)
    digest = hashlib.sha256(inputs.numpy().tobytes())
    digest.update((sha256_file(path) + sha256_file(bench)).encode())
    cached = cache_folder("outputs") / f"{digest.hexdigest()[:32]}.npy"
    if not cached.exists():
        with torch.inference_mode():
            values = flat_output(model.net(inputs[:1])).shape[1]
        outputs = []
        with progress.bar(f"accuracy of {path.name}", len(inputs)) as advance:
            for part in inputs.split(2000):
                outputs.append(run_on_host(runtime, path, [part], values, threads=os.cpu_count() or 1))
                advance(len(part))
        with atomic_file(cached) as partial, open(partial, "wb") as file:
            np.save(file, torch.cat(outputs).numpy())
    return torch.from_numpy(np.load(cached))


def _first_record(model: Model) -> list[Tensor]:
    return [model.data.test.inputs[:1]] if model.data else [x[None] for x in model.example_inputs]


def _on_host(model: Model, plan: Plan, artifact: Artifact) -> list[Measurement]:
    """Times and memory of all files, in turns, one thread."""
    host, bundle = Host(), native.host_bundle(discover.target(HOST_TARGET), plan.runtime)
    with tempfile.TemporaryDirectory() as temporary:
        records = Path(temporary, "inputs")
        write_records(records, _first_record(model))
        timings = timing.in_turns({name: timing.Job(bundle, path, records) for name, path in artifact.files.items()})
    return [
        Measurement(
            evidence=host.evidence,
            artifact=name,
            runtime=plan.runtime,
            threads=1,
            **dict(
                zip(("p50_ms", "p90_ms", "p99_ms"), np.percentile(found.samples_ms, (50, 90, 99)).round(4), strict=True)
            ),
            samples=found.samples_ms,
            load_ms=float(np.median(found.load_ms)),
            peak_rss_bytes=found.peak_rss_bytes,
            device=host.describe(),
        )
        for name, found in timings.items()
    ]


def _on_emulator(model: Model, plan: Plan, artifact: Artifact, device: Device) -> list[Measurement]:
    """Instructions of one warm inference, and peak memory. No times."""
    found = []
    with (
        tempfile.TemporaryDirectory() as temporary,
        progress.bar(f"running on {device.name}", len(artifact.files)) as advance,
    ):
        records = Path(temporary, "inputs")
        write_records(records, _first_record(model))
        for name, path in artifact.files.items():
            run = device.run(artifact.bundle, path, records, threads=1, warmup=1, repeat=3)
            found.append(
                Measurement(
                    evidence=device.evidence,
                    artifact=name,
                    runtime=plan.runtime,
                    threads=1,
                    peak_rss_bytes=run.peak_rss_bytes,
                    instructions=int(np.median(run.instructions[1:])),
                    device=device.describe(),
                )
            )
            advance()
    return found


def _check(model: Model, plan: Plan, artifact: Artifact, device: Device, host_outputs: Tensor | None) -> EmulatorCheck:
    """The compressed file on the device against the same file on the host, over a subset of the test split; without
    one over the inputs of the proof."""
    if host_outputs is None:
        inputs, what = proof_inputs(model)[0], "random inputs"
        expected = run_on_host(plan.runtime, artifact.path, inputs, output_values(model))
    else:
        inputs, what = [model.data.test.inputs[:_EMULATED_SAMPLES]], "test samples"
        expected = host_outputs[:_EMULATED_SAMPLES]
    with tempfile.TemporaryDirectory() as temporary:
        records, result = Path(temporary, "inputs"), Path(temporary, "outputs")
        write_records(records, inputs)
        device.run(artifact.bundle, artifact.path, records, result, threads=1)
        got = read_outputs(result, len(expected), expected.shape[1])
    difference = ((got - expected).norm() / expected.norm().clamp(min=1e-30)).item()
    if not difference <= _EMULATED_TOLERANCE:
        raise BuildError(
            f"{artifact.path}: outputs on {device.name} differ from the host's by {100 * difference:.2f} % "
            f"(limit {100 * _EMULATED_TOLERANCE:.0f} %) over {len(expected)} {what}"
        )
    return EmulatorCheck(
        evidence=device.evidence,
        samples=len(expected),
        inputs=what,
        max_abs_difference=(got - expected).abs().max().item(),
        relative_difference=difference,
        agreement=answers_agree(got, expected),
    )
