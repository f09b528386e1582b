"""The module for Android apps, without a phone: its Java and native sources in a JVM on this machine, and its native
sources for arm64. Of Android only `Context` and its assets are fakes (tests/android)."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import xml.dom.minidom
import zipfile

import numpy as np
import pytest
import torch
from android_module import FAKES, JNI, compiled, run_java
from pages import require_pages_of_16_kilobytes

from edgecomp.devices.android import write_module
from edgecomp.devices.bundle import host_bundle, sdk
from edgecomp.devices.host import HOST_TARGET, Host
from edgecomp.devices.target import find_target
from edgecomp.devices.tensors import write_records
from edgecomp.util.files import data_folder

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("android")]
ASSETS = {"executorch": "model.pte", "litert": "model.tflite"}


@pytest.fixture(scope="module", params=sorted(ASSETS))
def module(request, built, tmp_path_factory):
    """A runtime, its module, and a folder with the module's compiled classes and native library."""
    runtime, folder = request.param, tmp_path_factory.mktemp("android")
    _, build = built("pq", runtime)
    write_module([build], folder / "mylib")
    return runtime, folder / "mylib", compiled(runtime, folder / "mylib", folder)


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


@pytest.fixture(scope="module")
def sanitized(module, tmp_path_factory):
    """The module's classes, and its library with sanitizers that end the process."""
    runtime, folder, _ = module
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -g1"
    return compiled(runtime, folder, tmp_path_factory.mktemp("sanitized"), flags)


def test_the_c_api_under_the_sanitizers(module, sanitized, tmp_path):
    runtime, folder, _ = module
    libraries = sanitized / "libraries"
    source = data_folder("targets") / "api/test/test_api.c"
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", source]
    command += [*libraries.iterdir(), f"-Wl,-rpath,{libraries}", "-o", tmp_path / "test_api"]
    subprocess.run(command, check=True)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"no model at all, but long enough to be one" * 9)
    program = [tmp_path / "test_api", folder / "src/main/assets" / ASSETS[runtime], damaged]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("0 failures\n"), done.stdout + done.stderr[-3000:]


@pytest.mark.parametrize(("what", "said"), [("misuse", "kept 1"), ("threads", "wrong 0")])
def test_the_app_under_the_sanitizers(module, sanitized, tmp_path, what, said):
    """The JVM itself leaks, and uses SIGSEGV."""
    copy = tmp_path / "module"
    shutil.copytree(module[1], copy)
    preload = [
        subprocess.check_output(["gcc", f"-print-file-name={name}.so"], text=True) for name in ("libasan", "libubsan")
    ]
    options = {"LD_PRELOAD": ":".join(map(str.strip, preload)), "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0"}
    assert said in run_java(sanitized, copy, tmp_path / "files", what, **options)


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
    cmake = (folder / "src/main/cpp/CMakeLists.txt").read_text()
    assert "EDGECOMP_WITHOUT_TABLES8" in cmake and "EDGECOMP_WITHOUT_TABLES16" not in cmake  # the model's have 16 bits
    xml.dom.minidom.parse(str(folder / "src/main/AndroidManifest.xml"))
    text = (folder / "README.md").read_text()
    assert ASSETS[runtime] in text and "[1, 1, 12, 12]" in text and "{{" not in text
    assert {path.name for path in folder.iterdir()} == {"README.md", "build.gradle.kts", "consumer-rules.pro", "src"}
    assert not list(folder.rglob("*.so")) + list(folder.rglob("test_*"))


def test_kotlin_compiles(module, tmp_path):
    """The Gradle script as a function, and the README's lines in their order. Debian's compiler is too old."""
    kotlinc = os.environ.get("KOTLINC", "kotlinc")
    if not (shutil.which(kotlinc) and kotlin_version(kotlinc) >= (1, 8)):
        pytest.skip("needs kotlinc 1.8: npm install kotlin-compiler, and set KOTLINC")
    _, folder, made = module
    *gradle, usage = (block.split("```")[0] for block in (folder / "README.md").read_text().split("```kotlin\n")[1:])
    imports = [line for line in usage.splitlines() if line.startswith("import ")]
    body = "\n".join(line for line in usage.splitlines() if not line.startswith("import "))
    script = (folder / "build.gradle.kts").read_text()
    (tmp_path / "App.kt").write_text(
        "\n".join([*imports, f"fun classify(context: android.content.Context) {{ {body} }}"])
    )
    (tmp_path / "Script.kt").write_text("\n".join(["fun scripts() {", script, *gradle, "}"]))
    sources = [tmp_path / "App.kt", tmp_path / "Script.kt", FAKES / "Gradle.kt"]
    done = subprocess.run([kotlinc, "-cp", made, "-d", tmp_path / "out", *sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("AppKt.class"))


def kotlin_version(kotlinc: str) -> tuple[int, ...]:
    text = subprocess.run([kotlinc, "-version"], capture_output=True, text=True).stderr
    return tuple(map(int, re.search(r"kotlinc-jvm (\d+)\.(\d+)", text).groups()))


@pytest.mark.skipif(not shutil.which("aapt"), reason="needs aapt: sudo apt-get install aapt")
def test_assets_are_packed(module, tmp_path):
    """By Android's own tool. It wants the package's name in the manifest, where Gradle's plugin puts it."""
    _, folder, _ = module
    manifest = (folder / "src/main/AndroidManifest.xml").read_text()
    (tmp_path / "AndroidManifest.xml").write_text(
        manifest.replace("<manifest", '<manifest package="dev.edgecomp.mylib"')
    )
    assets = folder / "src/main/assets"
    for compressed in (True, False):
        command = ["aapt", "package", "-f", "-M", tmp_path / "AndroidManifest.xml", "-A", assets]
        command += ["-F", tmp_path / "app.apk"]
        subprocess.run(command + ["-0", ""] * (not compressed), check=True, capture_output=True)
        with zipfile.ZipFile(tmp_path / "app.apk") as apk:
            for path in assets.iterdir():
                assert apk.read(f"assets/{path.name}") == path.read_bytes()
                stored = apk.getinfo(f"assets/{path.name}").compress_type == zipfile.ZIP_STORED
                assert compressed or stored


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
    dynamic = subprocess.run(["aarch64-linux-gnu-readelf", "-dW", library], capture_output=True, text=True).stdout
    assert ("[libLiteRt.so]" in dynamic) == (runtime == "litert")
    require_pages_of_16_kilobytes(library)
    exported = subprocess.run(["aarch64-linux-gnu-nm", "-D", "--defined-only", library], capture_output=True, text=True)
    names = [line.split()[-1] for line in exported.stdout.splitlines()]
    assert names and all(name.startswith(("edgecomp_", "Java_dev_edgecomp_")) for name in names)
    assert library.stat().st_size <= 120_000
    kernels = {path.parent.name for path in (folder / "src/main/cpp/kernels").glob("*/*.cc")}
    assert kernels == {"codebook_linear"}  # what the model uses


def test_the_size_is_told(edgecomp, built, tmp_path):
    """Without jni.h, as an app in Rust, Dart or C++ builds it."""
    done = edgecomp("package", built("pq", "litert")[1], "-o", tmp_path / "lib", "--size")
    assert done.returncode == 0, done.stderr
    told = re.search(r"stripped: ([\d.]+) kB; the\s+runtime's\s+own\s+libraries:\s+([\d.]+)\s+MB", done.stderr)
    assert 40 < float(told[1]) <= 120 and float(told[2]) > 3


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
