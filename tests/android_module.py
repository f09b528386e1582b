"""A module for Android apps in a JVM on this machine: compiled, and run with tests/android/Check.java."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgecomp.devices.bundle import sdk
from edgecomp.devices.host import HOST_TARGET
from edgecomp.devices.target import find_target

FAKES = Path(__file__).parent / "android"
JAVA = Path(shutil.which("javac") or "/usr/bin/javac").resolve().parents[1] / "include"
JNI = f"-DJNI_INCLUDE={JAVA};{JAVA / 'linux'}"


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


def java_command(
    made: Path, module: Path, files: Path, what: str, *arguments: object, flags: Sequence[str] = ()
) -> list[str]:
    """Runs tests/android/Check.java; `files` is the app's own folder."""
    files.mkdir(exist_ok=True)
    (asset,) = (path.name for path in (module / "src/main/assets").iterdir() if path.suffix != ".sha256")
    command = ["java", *flags, f"-Djava.library.path={made / 'libraries'}", "-cp", made, "Check", what]
    return [str(part) for part in (*command, module / "src/main/assets", files, asset, *arguments)]


def run_java(made: Path, module: Path, files: Path, *arguments: object, **environment: str) -> list[str]:
    """What tests/android/Check.java prints; what CheckJNI warns of is an error."""
    heap = ("-Xms24m", "-Xmx24m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC")  # which does not grow
    command = java_command(made, module, files, *arguments, flags=("-Xcheck:jni", *heap))
    more = {"LD_LIBRARY_PATH": str(made / "libraries"), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more}, cwd=files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING in native method" not in done.stdout + done.stderr
    return done.stdout.splitlines()
