"""A Gradle library module for Android from builds: models as assets, a Java class, the kernels as sources."""

from __future__ import annotations

import importlib.metadata
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ..errors import UsageError
from ..layers.codebook import INT8_PRODUCTS
from ..records import Report
from ..report import read_report
from ..util.files import atomic_folder, data_folder, sha256_file, temporary_folder, write_text
from ..util.units import format_bytes
from .bench import run_bench
from .bundle import kept_bundle
from .host import HOST_TARGET
from .target import find_target

# The folders of kernels that a model may do without: what its file calls the op; codebook_linear is what others use.
_PARTS = {"conv2d": b"codebook_conv2d", "embedding": b"codebook_embedding", "recurrence": b"recurrence"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class AndroidModel:
    """A model of a module; inputs and outputs are what the runtime says: name, dtype, shape. `sample`: how its first
    output begins if all inputs are 0."""

    file: Path
    asset: str
    report: Report
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    sample: str

    @property
    def floats(self) -> bool:
        """It can be run with arrays of floats."""
        return all(tensor["dtype"] == "float32" for tensor in (*self.inputs, *self.outputs))

    @property
    def size(self) -> str:
        return format_bytes(self.file.stat().st_size)


def write_module(builds: Sequence[Path], out: Path) -> list[AndroidModel]:
    """Writes the module's folder; one that this function has written before is replaced.

    Args:
        builds: folders of builds for one runtime. The asset of one is `model.tflite` or `model.pte`; several have the
            names of their folders.

    Raises:
        UsageError: a folder is no build, or not as it was built; runtimes differ; `out` is something else.
    """
    if not _NAME.fullmatch(out.name):
        raise UsageError(f"{out.name!r} cannot be a module's name", "Take letters, digits, - and _, a letter first.")
    if out.exists() and not (out / "consumer-rules.pro").exists():
        raise UsageError(f"{out} exists, and is no module of edgecomp", "Name another folder with -o.")
    reports = [read_report(build / "report.json") for build in builds]
    runtimes = {report.runtime for report in reports}
    if len(runtimes) > 1:
        raise UsageError(f"the builds are for {' and '.join(sorted(runtimes))}", "Make a module for each runtime.")
    (runtime,) = runtimes
    models = [
        _model(build, report, build.resolve().name if len(builds) > 1 else "model")
        for build, report in zip(builds, reports, strict=True)
    ]
    if len({model.asset for model in models}) < len(models):
        raise UsageError("two builds have folders of the same name", "Name them apart: the assets are called so.")
    with atomic_folder(out) as folder:
        _fill(folder, out.name, runtime, models)
    return models


def _model(build: Path, report: Report, name: str) -> AndroidModel:
    file = next((path for path in build.glob("model.*") if sha256_file(path) == report.artifact_sha256), None)
    if file is None:
        raise UsageError(f"{build} does not hold the file that its report.json tells of", "Build it again.")
    bundle = kept_bundle(find_target(HOST_TARGET), report.runtime)
    command = [str(bundle / "run.sh"), "--model", str(file), "--trust", "1", "--info", "1"]
    told = run_bench([*command, "--inputs", "/dev/null"], "this machine", file)
    takes, gives = _named(told["takes"], "input"), _named(told["gives"], "output")
    return AndroidModel(file, f"{name}{file.suffix}", report, takes, gives, _sample(command, file, takes, gives[0]))


def _sample(command: list[str], file: Path, takes: list[dict[str, Any]], output: dict[str, Any]) -> str:
    with temporary_folder() as folder:
        zeros, outputs = Path(folder, "zeros"), Path(folder, "outputs")
        zeros.write_bytes(bytes(sum(map(_bytes_of, takes))))
        run_bench([*command, "--inputs", str(zeros), "--outputs", str(outputs)], "this machine", file)
        first = np.fromfile(outputs, output["dtype"], min(4, _count_of(output["shape"])))
    return ", ".join(f"{value:.4g}" for value in first)


def _count_of(shape: Sequence[int]) -> int:
    return math.prod(shape)


def _bytes_of(tensor: dict[str, Any]) -> int:
    return _count_of(tensor["shape"]) * np.dtype(tensor["dtype"]).itemsize


def _named(tensors: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Those without a name, or with one that is none in Kotlin, get one."""
    names = [re.sub(r"\W+", "_", tensor["name"]).strip("_") for tensor in tensors]
    plain = what if len(tensors) == 1 else ""
    return [
        tensor | {"name": name if name.isidentifier() and name.isascii() else plain or f"{what}{i}"}
        for i, (tensor, name) in enumerate(zip(tensors, names, strict=True))
    ]


def _fill(folder: Path, name: str, runtime: str, models: list[AndroidModel]) -> None:
    targets = data_folder("targets")
    android, native = targets / "android", folder / "src/main/cpp"
    version = find_target(HOST_TARGET).runtimes[runtime].version
    idle = _idle(models)
    known = {
        "name": name,
        "namespace": f"dev.edgecomp.{re.sub(r'[^a-z0-9]', '', name.lower())}",
        "runtime": runtime,
        "version": version,
        "edgecomp": importlib.metadata.version("edgecomp"),
        "models": models,
        "idle": idle + _idle_tables(models),
    }
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(android / "module"), keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    templates.filters |= {"bytes": format_bytes, "count_of": _count_of, "bytes_of": _bytes_of}
    for template in templates.list_templates():
        path = folder / template
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, templates.get_template(template).render(known))
    shutil.copytree(android / "java", folder / "src/main/java")
    for part in ("kernels", "api", runtime):
        ignored = shutil.ignore_patterns("test", "test_*", "delegate", "reference.cc", "README.md")
        shutil.copytree(targets / part, native / part, ignore=ignored)
    for part in idle:  # the headers are named by others
        (folder_of,) = (native / "kernels").glob(f"*{part}")
        for source in folder_of.glob("*.cc"):
            source.unlink()
    (native / "android").mkdir()
    for name in ("jni.cc", "exported.map"):
        shutil.copy(android / name, native / "android" / name)
    shutil.copy(targets / "runtime.h", native / "runtime.h")
    if runtime == "litert":
        (native / "names").mkdir()
        write_text(native / "names/litert.cc", _names(targets / "litert/litert.h"))
    assets = folder / "src/main/assets"
    assets.mkdir()
    for model in models:
        shutil.copy(model.file, assets / model.asset)
        write_text(assets / f"{model.asset}.sha256", f"{model.report.artifact_sha256}  {model.asset}\n")


def _idle(models: list[AndroidModel]) -> list[str]:
    """The kernels that no model uses, by the last word of their folders."""
    files = [model.file.read_bytes() for model in models]
    idle = [part for part, name in _PARTS.items() if not any(name in file for file in files)]
    layers = [layer for model in models for layer in model.report.layers]
    return idle + ([] if any(INT8_PRODUCTS in layer.tables for layer in layers) else ["dot"])


def _idle_tables(models: list[AndroidModel]) -> list[str]:
    """The kinds of tables that no model uses. Kernels for ARM64 are written anew for each: half of the library."""
    told = [layer.tables for model in models for layer in model.report.layers if layer.tables]
    if not told:  # reports of older builds say nothing
        return []
    return [f"tables{bits}" for bits in (8, 16) if not any(f"{bits}-bit" in text for text in told)]


def _names(header: Path) -> str:
    """Source with LiteRT's functions that a header declares, for the linker alone."""
    names = re.findall(r"^(?:LiteRtStatus|void) (LiteRt\w+)\(", header.read_text(), re.MULTILINE)
    return "// Names for the linker; the functions are in LiteRT's AAR.\n" + "".join(
        f'extern "C" void {name}() {{}}\n' for name in names
    )
