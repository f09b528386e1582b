"""The figures of a sweep's files that depend on where they run: all of them in turns, in one run."""

from __future__ import annotations

import json
from pathlib import Path

from .. import measure
from ..devices import choose, protocol
from ..devices.base import DeviceOptions
from ..devices.bundle import host_bundle, make_bundle
from ..devices.choose import make_device
from ..devices.host import HOST_TARGET
from ..devices.target import find_target
from ..records import Measurement, Model, Request
from ..util import progress
from ..util.files import atomic_folder, sha256_file, temporary_folder
from ..util.workspace import Workspace, stage_key


def measured_files(
    model: Model, runtime: str, request: Request, files: dict[str, Path], work: Workspace
) -> dict[str, list[Measurement]]:
    """Measurements by name of the file, the first of them `original`; kept while the files stay what they are.

    Raises:
        DeviceError: a program dies on the host or the device.
    """
    target, place = find_target(request.target), DeviceOptions.of(request)
    digests = json.dumps({name: sha256_file(path) for name, path in files.items()})
    measurements: dict[str, list[Measurement]] = {name: [] for name in files}
    with temporary_folder() as temporary:
        records = Path(temporary, "inputs")
        what = measure.write_timed_inputs(model, runtime, files["original"], records)
        for name in choose.chosen(target, request.on, place):
            key = stage_key("measured", digests, name, place, make_device("host", target).describe())
            done = work.recall(f"on-{name}", key)
            if done is None:
                bundle = _bundle(request.target if name != "host" else HOST_TARGET, runtime, work)
                with make_device(name, target, place) as device:
                    inputs = protocol.BenchInputs(runtime, bundle, files, records, what)
                    lines = protocol.measured(device, inputs)
                    for remark in device.remarks():
                        progress.note(f"{device.name}: {remark}")
                done = {file: line.model_dump() for file, line in zip(files, lines, strict=True)}
                work.record(f"on-{name}", key, [], done)
            for file, line in done.items():
                measurements[file].append(Measurement(**line))
    return measurements


def _bundle(target: str, runtime: str, work: Workspace) -> Path:
    """What runs the files on a target."""
    if target == HOST_TARGET:
        return host_bundle(find_target(target), runtime)
    with atomic_folder(work.path("bundle")) as partial:
        make_bundle(find_target(target), runtime, partial)
    return work.path("bundle")
