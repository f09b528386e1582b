"""The contract every target keeps, and the native code that runs there, on this machine and under the emulator."""

import functools
import shutil
import subprocess
import tomllib

import pytest
from conftest import ROOT
from pages import require_pages_of_16_kilobytes

from edgecomp import discover
from edgecomp.devices import bundle
from edgecomp.devices import target as target_file
from edgecomp.devices.target import find_target, target_names
from edgecomp.errors import BuildError, UsageError
from edgecomp.util.files import data_folder

KERNELS = data_folder("targets") / "kernels"
LITERT = data_folder("targets") / "litert"
EXECUTORCH = data_folder("targets") / "executorch"
DOWNLOAD = data_folder("targets") / "download"
SOURCES = {  # beside the kernels
    "kernels": [KERNELS / "test_kernels.cc"],
    "dot": [KERNELS / "test_dot.cc"],
    "litert_op": [LITERT / "op.cc", LITERT / "test/test_op.cc"],
    "litert_op_fuzz": [LITERT / "op.cc", LITERT / "test/fuzz_op.cc"],
    "download_fuzz": [DOWNLOAD / name for name in ("decode.cc", "inflate.cc", "encode.cc", "test/fuzz_decode.cc")],
    "executorch_ops_fuzz": [EXECUTORCH / "ops.cc", EXECUTORCH / "test/fuzz_ops.cc"],
}
WARN = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
FLAVOURS = {
    "sanitized": ["g++", *WARN, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"],
    "arm64": ["aarch64-linux-gnu-g++", *WARN, "-O2"],
}
TARGETS = {"sanitized": "linux-x86_64", "arm64": "android-arm64"}


@pytest.mark.parametrize("name", target_names())
def test_target_file_is_complete(name):
    target = find_target(name)
    assert target.description
    assert set(target.runtimes) <= set(discover.runtime_names())
    for sdk in target.runtimes.values():
        assert bool(sdk.wheel) == bool(sdk.sha256) == bool(sdk.platform)
        assert sdk.version in (sdk.wheel or sdk.version)


@pytest.mark.parametrize("name", target_names())
def test_bench_program_is_built_for_the_target(name):
    target = find_target(name)
    for runtime in target.runtimes:
        header = subprocess.run(
            ["readelf", "-h", bundle.bench_program(target, runtime)], capture_output=True, text=True
        )
        machine = {"aarch64": "AArch64", "x86_64": "X86-64"}[target.machine]
        assert machine in header.stdout


@pytest.fixture(scope="module")
def app_libraries(tmp_path_factory):
    """What an app makes with `targets/CMakeLists.txt`, as docs/android.md says, by the cross compiler of the target."""
    target, folder = find_target("android-arm64"), tmp_path_factory.mktemp("app")
    configure = ["cmake", "-S", data_folder("targets"), "-B", folder, "-DCMAKE_SYSTEM_NAME=Linux"]
    configure += [f"-DCMAKE_CXX_COMPILER={target.compiler.command}", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    configure += [f"-DEXECUTORCH_INCLUDE={bundle.sdk(target, 'executorch') / 'include'}"]
    for command in (configure, ["cmake", "--build", folder, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.xdist_group("app")
def test_what_runs_on_android_is_aligned_to_16_kilobytes(app_libraries):
    target = find_target("android-arm64")
    made = [bundle.bench_program(target, runtime) for runtime in target.runtimes]
    shipped = [
        bundle.sdk(target, r) / info.folder / lib for r, info in target.runtimes.items() for lib in info.libraries
    ]
    found = list(app_libraries.glob("*.so"))
    assert [path.name for path in found] == ["libedgecomp_delegate.so"]
    for path in [*made, *shipped, *found]:
        require_pages_of_16_kilobytes(path)


@pytest.mark.xdist_group("app")
def test_an_app_finds_the_functions_it_calls(app_libraries):
    def symbols(name):
        return subprocess.run(["nm", "-C", app_libraries / name], capture_output=True, text=True).stdout

    assert " T edgecomp_add_litert_ops" in symbols("libedgecomp_litert.a")
    assert " T tflite_plugin_create_delegate" in symbols("libedgecomp_delegate.so")
    assert " T edgecomp_unpack" in symbols("libedgecomp_download.a")
    assert list(app_libraries.rglob("executorch/ops.cc.o"))


@pytest.mark.parametrize("runtime", discover.runtime_names())
def test_the_code_for_apps_in_the_documentation_compiles_and_links(runtime, tmp_path):
    text = (ROOT / "docs" / "android.md").read_text()
    target = find_target("android-arm64")
    info, sdk = target.runtimes[runtime], bundle.sdk(target, runtime)
    (tmp_path / "CMakeLists.txt").write_text(text.split("```cmake\n")[1].split("```")[0])
    (tmp_path / "app.cc").write_text(text.split(f"```cpp {runtime}\n")[1].split("```")[0])
    (tmp_path / "edgecomp").symlink_to(data_folder("targets"))
    headers = [str(sdk / header) for header in info.headers]
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": target.compiler.command,
        "CMAKE_CXX_FLAGS": " ".join([*info.flags, *(f"-isystem {header}" for header in headers)]),
        "RUNTIME_INCLUDE": headers[0] if headers else "",
        "EDGECOMP_OPS": f"edgecomp_{runtime}",
        "RUNTIME_LIBRARIES": ";".join(str(sdk / info.folder / library) for library in info.libraries),
    }
    options = [f"-D{name}={value}" for name, value in settings.items()]
    build = tmp_path / "build"
    for command in (["cmake", "-S", tmp_path, "-B", build, *options], ["cmake", "--build", build, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "edgecomp_linear" in subprocess.run(["nm", build / "libapp.so"], capture_output=True, text=True).stdout


def runtime_flags(name, flavour):
    """What a test program needs of a runtime; those without one are static where they are emulated."""
    if not name.startswith("executorch"):
        return ["-static"] if flavour == "arm64" else []
    target = find_target(TARGETS[flavour])
    info, sdk = target.runtimes["executorch"], bundle.sdk(target, "executorch")
    flags = [argument for header in info.headers for argument in ("-isystem", sdk / header)]
    flags += [flag for flag in info.flags if "THREADPOOL" not in flag]
    library = sdk / info.folder
    return [*flags, f"-L{library}", "-l:libexecutorch.so", f"-Wl,-rpath,{library}"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """`program(name, flavour)`: a test program; the kernels are compiled once for all programs of a flavour."""
    folder = tmp_path_factory.mktemp("programs")

    @functools.cache
    def kernels(flavour):
        objects = {path: folder / f"{flavour}-{path.parent.name}-{path.stem}.o" for path in KERNELS.glob("*/*.cc")}
        for path, made in objects.items():
            subprocess.run([*FLAVOURS[flavour], "-c", path, "-o", made], check=True)
        return sorted(objects.values())

    @functools.cache
    def made(name, flavour):
        path = folder / f"{name}-{flavour}"
        command = [*FLAVOURS[flavour], *SOURCES[name], *kernels(flavour), "-o", path]
        subprocess.run(command + runtime_flags(name, flavour), check=True)
        return path

    return made


@pytest.mark.xdist_group("sanitized")
@pytest.mark.parametrize("name", SOURCES)
def test_native_code_is_right_under_the_sanitizers(name, program):
    done = subprocess.run([program(name, "sanitized")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert " 0 failures" in done.stdout


@pytest.mark.xdist_group("arm64")
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76", "max"])
def test_native_code_is_right_on_arm64(program, name, cpu):
    """The emulator is slow; the fuzzer makes fewer calls, others on each CPU."""
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu, program(name, "arm64")]
    command += ["4000", str(sum(cpu.encode()))] if name.endswith("fuzz") else []
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failures" in done.stdout


def test_malformed_target_file(tmp_path, monkeypatch):
    shutil.copytree(data_folder("targets"), tmp_path / "targets")
    monkeypatch.setattr(target_file, "data_folder", lambda name: tmp_path / name)
    path = tmp_path / "targets" / "android-arm64.toml"
    text = path.read_text()
    for broken in (text.replace("[compiler]", "[compilr]"), text + "\n= 3"):
        path.write_text(broken)
        with pytest.raises(UsageError, match=r"android-arm64\.toml"):
            find_target("android-arm64")


def test_sdk_with_another_hash_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path))
    target = find_target("android-arm64")
    changed = target.runtimes["executorch"].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(BuildError, match="unexpected SHA-256"):
        bundle.sdk(target.model_copy(update={"runtimes": {"executorch": changed}}), "executorch")
    assert not [path for path in (tmp_path / "sdk").glob("*") if path.is_dir()]


def test_sdk_that_cannot_be_fetched_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path))
    target = find_target("android-arm64")
    missing = target.runtimes["executorch"].model_copy(update={"version": "0.0.1", "wheel": "executorch-0.0.1.whl"})
    with pytest.raises(BuildError, match="PIP_FIND_LINKS"):
        bundle.sdk(target.model_copy(update={"runtimes": {"executorch": missing}}), "executorch")


def test_missing_compiler_names_its_package():
    target = find_target("android-arm64")
    absent = target.model_copy(
        update={"compiler": target.compiler.model_copy(update={"command": "aarch64-absent-g++"})}
    )
    with pytest.raises(BuildError, match=r"aarch64-absent-g\+\+ is not installed"):
        bundle.bench_program(absent, "executorch")


def test_every_data_file_of_a_target_is_that_target():
    paths = sorted(data_folder("targets").glob("*.toml"))
    assert [path.stem for path in paths] == target_names()
    for path in paths:
        stated, target = tomllib.loads(path.read_text()), find_target(path.stem)
        assert target.name == path.stem and set(stated["runtimes"]) == set(target.runtimes)
