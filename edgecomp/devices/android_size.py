"""What the native code of a module takes on a phone: compiled here for arm64, as an app's release build would."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..errors import BuildError
from ..util import progress
from ..util.files import temporary_folder
from .bundle import sdk
from .target import find_target

_TARGET = "android-arm64"


def library_bytes(module: Path, runtime: str) -> int:
    """Size of a module's libedgecomp.so, stripped. Without JNI, which takes some 3 kB: its header comes with a JDK.

    Raises:
        BuildError: CMake or the compiler for arm64 is not installed, or refuses.
    """
    target = find_target(_TARGET)
    info = target.runtimes[runtime]
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": target.compiler.command,
        "CMAKE_SHARED_LINKER_FLAGS": "-s",
        "EDGECOMP_JNI": "OFF",
    }
    if runtime == "executorch":
        root = sdk(target, runtime)
        settings["EXECUTORCH_INCLUDE"] = str(root / "include")
        settings["EXECUTORCH_LIBRARIES"] = ";".join(str(root / info.folder / name) for name in info.libraries)
    progress.note(f"compiling the module for arm64 with {target.compiler.command}")
    with temporary_folder() as folder:
        options = [f"-D{name}={value}" for name, value in settings.items()]
        _run(["cmake", "-S", str(module / "src/main/cpp"), "-B", str(folder), *options])
        _run(["cmake", "--build", str(folder), "--parallel", "2"])
        return Path(folder, "libedgecomp.so").stat().st_size


def runtime_bytes(runtime: str) -> int:
    """Size of the runtime's own libraries for arm64: the floor under every app that uses it."""
    target = find_target(_TARGET)
    root, info = sdk(target, runtime), target.runtimes[runtime]
    return sum((root / info.folder / name).stat().st_size for name in info.libraries)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise BuildError("cmake is not installed", "sudo apt-get install cmake") from None
    if done.returncode:
        package = find_target(_TARGET).compiler.debian
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[:1]
        raise BuildError(f"the module does not compile for arm64: {''.join(said)}", f"sudo apt-get install {package}")
