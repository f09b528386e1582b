"""The files of the campaign, and what reads each: the same functions as in a build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import TINY_DATA, TINY_MODEL
from safetensors.torch import save_file
from tflite_files import keras_like
from torch import nn

from edgecomp import discover
from edgecomp.devices import bundle, download, target
from edgecomp.devices.host import HOST_TARGET
from edgecomp.devices.target import find_target
from edgecomp.devices.tensors import write_records
from edgecomp.errors import DeviceError
from edgecomp.graph import archive
from edgecomp.layers import checkpoint
from edgecomp.load import load
from edgecomp.pipeline import build
from edgecomp.plan import read_plan
from edgecomp.pruning import stage
from edgecomp.records import Request
from edgecomp.report import read_report
from edgecomp.runtimes.litert import flatbuffer
from edgecomp.util import cache
from edgecomp.util.cache import digest_path, key_of
from edgecomp.util.states import load_state, save_state
from edgecomp.util.weights import load_weights
from edgecomp.util.workspace import Workspace

SECONDS = 30  # what takes longer hangs


@dataclass(frozen=True)
class File:
    """A kind of file. `read` gives what was read as text. `every`: of so many rounds one has it. `digest`: nothing else
    than the good file may be read from it. `name`: what a case has to be called."""

    kind: str
    good: Path
    read: Callable[[Path], str]
    every: int = 1
    digest: bool = False
    name: str = ""

    def copied(self, folder: Path) -> Path:
        """The path of a case, which is the good file for now; what lies beside it is that beside the good one."""
        place = folder / "cases" / self.kind.replace(" ", "-").replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        case = place / (self.name or self.good.name)
        shutil.copyfile(self.good, case)
        if digest_path(self.good).exists():
            shutil.copyfile(digest_path(self.good), digest_path(case))
        return case


def good_files(folder: Path) -> list[File]:
    """All kinds, made in `folder`; SDKs and programs are those of this user's cache."""
    files = [*_models(folder), *_records(folder), *_kept(folder)]
    return [*files, *_of_builds(folder)]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(4 * 6 * 6, 3)).eval()


def _models(folder: Path) -> list[File]:
    def read_archive(path: Path) -> str:
        program = archive.load(path)
        return key_of(dict(program.state_dict)) + str(program.graph)

    def read_weights(path: Path) -> str:
        net = _net()
        load_weights(net, path)
        return key_of(dict(net.state_dict()))

    torch.export.save(torch.export.export(_net(), (torch.zeros(1, 1, 8, 8),)), folder / "net.pt2")
    save_file(_net().state_dict(), folder / "net.safetensors")
    torch.save(_net().state_dict(), folder / "net.pth")
    return [
        File("archive .pt2", folder / "net.pt2", read_archive),
        File("weights .safetensors", folder / "net.safetensors", read_weights),
        File("weights .pth", folder / "net.pth", read_weights),
    ]


def _records(folder: Path) -> list[File]:
    """Files of targets, of which the folder is given, and the stages of a build."""
    (folder / "targets").mkdir()
    good = folder / "targets" / "one.toml"
    shutil.copyfile(bundle.data_folder("targets") / "android-arm64.toml", good)

    def read_target(path: Path) -> str:
        known = target.data_folder
        try:
            target.data_folder = lambda name: path.parent
            return find_target("one").model_dump_json()
        finally:
            target.data_folder = known

    with Workspace(folder / "stages") as work:
        work.record("one", "key", [], {"errors": {"a": 0.5, "b": 0.25}, "note": "n"})

    def read_stage(path: Path) -> str:
        work = Workspace(folder / "stages")
        work.stages = path.parent
        return str(work.recall("one", "key") or {"errors": {"a": 0.5, "b": 0.25}, "note": "n"})  # else done again

    return [
        File("target .toml", good, read_target),
        File("stage .json", folder / "stages/.stages/one.json", read_stage, digest=True),
    ]


def _kept(folder: Path) -> list[File]:
    """What lies in the cache, and states of trainings: what is damaged is made again."""
    kept, tensors = folder / "kept", {"a": torch.arange(400.0), "b": torch.ones(3, 5).half()}
    cache.remembered(kept, "key", lambda: {"error": [0.5, None, "ä"]})
    cache.remembered_tensors(kept, "key", lambda: tensors)
    save_state(kept / "state.safetensors", tensors, {"step": "7"})

    def read_json(path: Path) -> str:
        return str(cache.remembered(path.parent, "key", lambda: {"error": [0.5, None, "ä"]}))

    def read_tensors(path: Path) -> str:
        return key_of(cache.remembered_tensors(path.parent, "key", lambda: tensors))

    def read_state(path: Path) -> str:
        return key_of(load_state(path) or (tensors, {"step": "7"}))  # else begun again

    return [
        File("cache .json", kept / "key.json", read_json, digest=True),
        File("cache .safetensors", kept / "key.safetensors", read_tensors, digest=True),
        File("state of a training", kept / "state.safetensors", read_state, digest=True),
    ]


def _of_builds(folder: Path) -> list[File]:
    (folder / "tiny.py").write_text(TINY_MODEL + TINY_DATA)
    (folder / "bare.py").write_text(TINY_MODEL)
    out = {runtime: folder / runtime for runtime in ("executorch", "litert")}
    for runtime, path in out.items():
        asked = {"method": "pq", "runtime": runtime, "target": HOST_TARGET, "on": "none", "out": path}
        build(Request(model=str(folder / "bare.py"), **asked))
    model = load(Request(model=str(folder / "bare.py")))
    base = stage.base(model, None)
    records = folder / "records"
    write_records(records, [x[None] for x in model.example_inputs])

    def run_in(runtime: str) -> Callable[[Path], str]:
        """The bench program of a build's bundle; what it says itself is an error, a signal is the file's."""
        script = out[runtime] / "bundle/run.sh"

        def read(path: Path) -> str:
            results = path.with_name(f"outputs-{os.getpid()}")
            command = [script, "--model", path, "--inputs", records, "--outputs", results]
            try:
                done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
                if done.returncode:
                    raise DeviceError(f"{path} is damaged: {done.stdout} {done.returncode}")
                return results.read_bytes().hex()
            except subprocess.TimeoutExpired:
                signal.raise_signal(signal.SIGALRM)  # which counts as a hang
                raise
            finally:
                results.unlink(missing_ok=True)

        return read

    def read_constants(path: Path) -> str:
        return str([(c.dtype, key_of(c.data)) for c in discover.runtime("executorch").constants(path)])

    def read_flatbuffer(path: Path) -> str:
        return key_of(flatbuffer_text(flatbuffer.verified(path.read_bytes(), str(path))))

    def read_tflite(path: Path) -> str:
        loaded = load(Request(model=str(path)))
        return key_of(dict(loaded.net.state_dict()), [tuple(x.shape) for x in loaded.example_inputs])

    def read_download(path: Path) -> str:
        return key_of(download.unpack(path, path.parent / f"out-{os.getpid()}").read_bytes())

    def read_checkpoint(path: Path) -> str:
        return key_of(dict(checkpoint.restore(base, path).state_dict()))

    return [
        File("report.json", out["executorch"] / "report.json", lambda path: read_report(path).model_dump_json()),
        File("plan.json", out["executorch"] / "plan.json", lambda path: read_plan(path).model_dump_json()),
        File("checkpoint", out["executorch"] / "model.safetensors", read_checkpoint),
        File(".pte in run.sh", out["executorch"] / "model.pte", run_in("executorch")),
        File("constants of a .pte", out["executorch"] / "model.pte", read_constants),
        File("download", out["executorch"] / download.NAME, read_download, digest=True),
        File(".tflite in run.sh", out["litert"] / "model.tflite", run_in("litert"), digest=True),
        File(".tflite of a build", out["litert"] / "model.tflite", read_flatbuffer, every=8),
        File(".tflite as MODEL", keras_like(folder / "plain.tflite"), read_tflite, every=8),
    ]


def flatbuffer_text(value: object) -> object:
    """A tree of the schema's objects as lists of what a key can be made of."""
    if hasattr(value, "__dict__"):
        return [type(value).__name__, *(flatbuffer_text(v) for v in vars(value).values())]
    if isinstance(value, list | tuple):
        return [flatbuffer_text(item) for item in value]
    return value
