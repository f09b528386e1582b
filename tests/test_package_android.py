"""The module for Android apps, without a phone: its Java and native sources in a JVM on this machine, and its native
sources for arm64. Of Android only `Context` and its assets are fakes (tests/android)."""

import hashlib
import json
import os
import shutil
import subprocess
import xml.dom.minidom
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecomp.devices.android import write_module
from edgecomp.devices.bundle import host_bundle, sdk
from edgecomp.devices.host import HOST_TARGET, Host
from edgecomp.devices.target import find_target
from edgecomp.devices.tensors import write_records

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("android")]
FAKES = Path(__file__).parent / "android"
JAVA = Path(shutil.which("javac") or "/usr/bin/javac").resolve().parents[1] / "include"
JNI = f"-DJNI_INCLUDE={JAVA};{JAVA / 'linux'}"
ASSETS = {"executorch": "model.pte", "litert": "model.tflite"}


@pytest.fixture(scope="module", params=sorted(ASSETS))
def module(request, built, tmp_path_factory):
    """A runtime, its module, and a folder with the module's compiled classes and native library."""
    runtime, folder = request.param, tmp_path_factory.mktemp("android")
    _, build = built("pq", runtime)
    write_module([build], folder / "mylib")
    return runtime, folder / "mylib", compiled(runtime, folder / "mylib", folder)


def compiled(runtime: str, module: Path, folder: Path, flags: str = "") -> Path:
    """Compiles a module's classes and library for a JVM on this machine."""
    made = folder / f"made{bool(flags)}"
    sources = [*(module / "src/main/java").rglob("*.java"), *FAKES.rglob("*.java")]
    subprocess.run(["javac", "-Xlint:all", "-Werror", "-d", made, *sources], check=True)
    configure = ["cmake", "-S", module / "src/main/cpp", "-B", made / "native", JNI, f"-DCMAKE_CXX_FLAGS={flags}"]
    root, info = sdk(find_target(HOST_TARGET), runtime), find_target(HOST_TARGET).runtimes[runtime]
    libraries = [root / info.folder / name for name in info.libraries]
    if runtime == "executorch":
        configure += [
            f"-DEXECUTORCH_INCLUDE={root / 'include'}",
            f"-DEXECUTORCH_LIBRARIES={';'.join(map(str, libraries))}",
        ]
    subprocess.run(configure, check=True, capture_output=True)
    done = subprocess.run(["cmake", "--build", made / "native", "-j2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    (made / "libraries").mkdir()
    shutil.copy(made / "native/libedgecomp.so", made / "libraries")
    for library in libraries:
        (made / "libraries" / library.name).symlink_to(library)
    return made


def run_java(made: Path, module: Path, files: Path, *arguments: object, **environment: str) -> list[str]:
    """What tests/android/Check.java prints."""
    files.mkdir(exist_ok=True)
    what, *rest = map(str, arguments)
    heap = ("-Xms24m", "-Xmx24m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC")  # which does not grow
    command = ["java", "-Xcheck:jni", *heap, f"-Djava.library.path={made / 'libraries'}", "-cp", made, "Check", what]
    (asset,) = (path.name for path in (module / "src/main/assets").iterdir() if path.suffix != ".sha256")
    command += [module / "src/main/assets", files, asset, *rest]
    more = {"LD_LIBRARY_PATH": str(made / "libraries"), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more}, cwd=files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING in native method" not in done.stdout + done.stderr
    return done.stdout.splitlines()


def test_outputs_are_those_of_the_bench_program(module, tmp_path):
    runtime, folder, made = module
    records, expected, given = (tmp_path / name for name in ("inputs", "expected", "given"))
    file = folder / "src/main/assets" / ASSETS[runtime]
    write_records(records, [torch.randn(5, 1, 1, 12, 12)])
    Host().run(host_bundle(find_target(HOST_TARGET), runtime), file, records, expected, threads=1)
    lines = run_java(made, folder, tmp_path / "files", "run", records, given)
    assert [line.split(":")[1] for line in lines] == [" float32 [1, 1, 12, 12]", " float32 [1, 10]"]
    assert given.read_bytes() == expected.read_bytes()
    assert np.isfinite(np.fromfile(given, np.float32)).all()


def test_misuse_is_an_exception(module, tmp_path):
    _, folder, made = module
    copy = tmp_path / "module"
    shutil.copytree(folder, copy)
    told = dict(line.split(": ", 1) for line in run_java(made, copy, tmp_path / "files", "misuse") if ": " in line)
    kinds = {what: text.partition(":")[0] for what, text in told.items()}
    assert kinds == {
        "too few inputs": "IllegalArgumentException",
        "a wrong size": "IllegalArgumentException",
        "wrong bytes": "IllegalArgumentException",
        "no threads": "IllegalArgumentException",
        "closed": "IllegalStateException",
        "a missing asset": "EdgecompException",
        "a missing file": "EdgecompException",
        "a damaged asset": "EdgecompException",
        "a damaged file": "EdgecompException",
        "no model": "EdgecompException",
    }
    assert "takes" in told["a wrong size"] and "not 12" in told["a wrong size"]
    assert "SHA-256" in told["a damaged asset"]


def test_threads_share_a_model(module, tmp_path):
    _, folder, made = module
    assert run_java(made, folder, tmp_path / "files", "threads") == ["wrong 0"]


def test_loading_leaks_nothing(module, tmp_path):
    _, folder, made = module
    (line,) = run_java(made, folder, tmp_path / "files", "leak", 1000)
    assert int(line.split()[1]) < 8e6  # 750 loads of a model of 60 kB, and code that the JVM has compiled


def test_the_assets_are_what_was_proven(module):
    runtime, folder, _ = module
    asset = folder / "src/main/assets" / ASSETS[runtime]
    digest = hashlib.sha256(asset.read_bytes()).hexdigest()
    assert (asset.parent / f"{asset.name}.sha256").read_text().split() == [digest, asset.name]


def test_the_files_of_gradle_say_what_is_needed(module):
    runtime, folder, _ = module
    gradle = (folder / "build.gradle.kts").read_text()
    assert gradle.count("{") == gradle.count("}") and "{{" not in gradle and "{%" not in gradle
    assert ("com.google.ai.edge.litert:litert:" in gradle) == (runtime == "litert")
    assert ("executorch.root" in gradle) == (runtime == "executorch")
    xml.dom.minidom.parse(str(folder / "src/main/AndroidManifest.xml"))
    text = (folder / "README.md").read_text()
    assert ASSETS[runtime] in text and "[1, 1, 12, 12]" in text and "{{" not in text
    assert {path.name for path in folder.iterdir()} == {"README.md", "build.gradle.kts", "consumer-rules.pro", "src"}
    assert not list(folder.rglob("*.so")) + list(folder.rglob("test_*"))


def test_native_code_for_arm64_is_small(module, tmp_path):
    """Against LiteRT by the names alone, as with an NDK; ExecuTorch's own libraries are not counted."""
    runtime, folder, _ = module
    target = find_target("android-arm64")
    configure = ["cmake", "-S", folder / "src/main/cpp", "-B", tmp_path, "-DCMAKE_SYSTEM_NAME=Linux", JNI]
    configure += [f"-DCMAKE_CXX_COMPILER={target.compiler.command}", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    if runtime == "executorch":
        root, info = sdk(target, runtime), target.runtimes[runtime]
        names = ";".join(str(root / info.folder / name) for name in info.libraries)
        configure += [f"-DEXECUTORCH_INCLUDE={root / 'include'}", f"-DEXECUTORCH_LIBRARIES={names}"]
    subprocess.run(configure, check=True, capture_output=True)
    done = subprocess.run(["cmake", "--build", tmp_path, "-j2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    library = tmp_path / "libedgecomp.so"
    subprocess.run(["aarch64-linux-gnu-strip", library], check=True)
    dynamic = subprocess.run(["aarch64-linux-gnu-readelf", "-dlW", library], capture_output=True, text=True).stdout
    assert ("[libLiteRt.so]" in dynamic) == (runtime == "litert")
    assert "0x4000" in dynamic  # pages of 16 KB
    assert library.stat().st_size <= 120_000
    kernels = {path.parent.name for path in (folder / "src/main/cpp/kernels").glob("*/*.cc")}
    assert kernels == {"codebook_linear"}  # what the model uses


def test_bad_requests(edgecomp, built, tmp_path):
    build = tmp_path / "build"
    shutil.copytree(built("pq", "litert")[1], build, ignore=shutil.ignore_patterns("bundle"))
    done = edgecomp("package", build, "-o", tmp_path / "1 lib")
    assert done.returncode == 2 and "cannot be a module's name" in done.stderr
    (tmp_path / "taken").mkdir()
    done = edgecomp("package", build, "-o", tmp_path / "taken")
    assert done.returncode == 2 and "taken exists" in done.stderr
    done = edgecomp("package", build, built("pq", "executorch")[1], "-o", tmp_path / "lib")
    assert done.returncode == 2 and "executorch and litert" in done.stderr
    done = edgecomp("package", tmp_path / "none", "-o", tmp_path / "lib")
    assert done.returncode == 2 and "none" in done.stderr
    with open(build / "model.tflite", "ab") as file:
        file.write(b"1")
    done = edgecomp("package", build, "-o", tmp_path / "lib")
    assert done.returncode == 2 and "Build it again" in done.stderr
    assert not (tmp_path / "lib").exists()
    report = json.loads((build / "report.json").read_text())
    assert report["runtime"] == "litert"
