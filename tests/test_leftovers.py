"""Odd surroundings, killed processes, builds that fail: nothing half-written is used or stays, and what is wrong is
said."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgecomp.devices.bundle import add_model, make_bundle
from edgecomp.devices.host import HOST_TARGET
from edgecomp.devices.target import find_target
from edgecomp.errors import BuildError, UsageError
from edgecomp.util import compiler, leftovers
from edgecomp.util.files import sha256_file
from edgecomp.util.states import load_state, save_state
from edgecomp.util.units import parse_bytes
from edgecomp.util.workspace import Workspace


def test_numbers_that_no_computer_has():
    for text in ("9" * 400, "9" * 400 + "MB", "1e9999", "99999999999999999999GB"):
        with pytest.raises(UsageError, match="cannot read"):
            parse_bytes(text)


LONG = "x" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", LONG + ".py"),
        ("build", LONG + ".tflite"),
        ("build", "net.py", "--on", "none", "--dry-run", "-o", LONG),
        ("report", LONG),
        ("compare", LONG, LONG),
        ("bench", LONG),
    ],
    ids=lambda arguments: arguments[0],
)
def test_paths_of_5000_characters(edgecomp, tmp_path, arguments):
    (tmp_path / "net.py").write_text("")
    done = edgecomp(*arguments)
    assert done.returncode in (2, 3) and "unexpected" not in done.stderr and "Traceback" not in done.stderr
    assert "too long" in done.stderr.replace("\n", " "), done.stderr


def test_a_full_disk_behind_stdout_and_the_c_locale():
    """In processes of their own: it is about the ends of them."""
    command = [sys.executable, "-m", "edgecomp.cli", "methods"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 3 and "no space is left" in done.stderr and len(done.stderr.splitlines()) == 2
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*command, "pq"], env=ascii_only, capture_output=True)
    assert done.returncode == 0 and done.stdout.isascii(), done.stderr


def test_a_compiler_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "one.c"
    source.write_text("int one(void) { return 1; }")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(BuildError, match="the compiler gcc is not installed"):
            compiler.require("gcc")
    made = compiler.shared_library([source], "libone.so")
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler.require("gcc")
    assert compiler.shared_library([source], "libone.so") == made
    source.write_text("int one(void) { return 2; }")
    with pytest.raises(BuildError, match="the compiler gcc is not installed"):
        compiler.shared_library([source], "libone.so")


def test_a_missing_compiler_is_said_before_anything_begins(edgecomp, tiny_model, tmp_path):
    alone = {"EDGECOMP_CACHE": str(tmp_path / "cache"), "PATH": str(tmp_path)}
    done = edgecomp("build", tiny_model, "--on", "none", "-o", "out", **alone)
    assert done.returncode == 3 and "g++ is not installed" in done.stderr
    assert "▸ load" not in done.stderr and not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from edgecomp.util.files import atomic_file, atomic_folder, temporary_folder
out = Path(sys.argv[1])
with temporary_folder() as folder, atomic_file(out / "a") as file, atomic_folder(out / "b") as other:
    (folder / "x").touch()
    file.touch()
    (other / "y").touch()
    print("ready", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_goes_at_the_next_start_and_not_while_it_lives(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    out.mkdir()
    temporary.mkdir()
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    leftovers.clear()
    assert len(list(out.iterdir())) == 2 and len(list(temporary.iterdir())) == 1
    process.communicate()
    assert process.returncode == -signal.SIGKILL and len(list(out.iterdir())) == 2
    leftovers.clear()
    assert not [*out.iterdir(), *temporary.iterdir(), *(tmp_path / "cache/running").iterdir()]


def test_a_journal_removes_nothing_but_partial_files(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/running").mkdir(parents=True)
    names = ("mine", "mine.partial", ".mine")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "cache/running/dead").write_text("".join(f"{tmp_path / name}\n" for name in names))
    leftovers.clear()
    assert all((tmp_path / name).exists() for name in names)
    assert not (tmp_path / "cache/running/dead").exists()


def test_a_rebuild_that_fails_leaves_the_old_result_whole(edgecomp, tiny_model, tmp_path, monkeypatch):
    build = ("build", tiny_model, "--on", "none", "-o", "out", "--method")
    assert edgecomp(*build, "int8").returncode in (0, 1)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and ".stages" not in path.parts]
    before = {path: sha256_file(path) for path in files}

    def fail(*_: object) -> None:
        raise BuildError("the proof fails")

    with monkeypatch.context() as patch:
        patch.setattr("edgecomp.export._prove", fail)
        done = edgecomp(*build, "pq")
    assert done.returncode == 3 and "the proof fails" in done.stderr
    assert {path: sha256_file(path) for path in before} == before
    assert edgecomp(*build, "pq").returncode in (0, 1)
    assert sha256_file(tmp_path / "out/model.pte") != before[tmp_path / "out/model.pte"]
    assert not (tmp_path / "out/.stages/unpublished").exists()


def test_a_stage_or_a_state_that_is_damaged_is_done_again(tmp_path):
    with Workspace(tmp_path / "out") as work:
        work.record("one", "key", [], {"a": [0.5, None]})
        assert work.recall("one", "key") == {"a": [0.5, None]}
        path = work.stages / "one.json"
        for text in (path.read_text().replace("0.5", "0.25"), "[]", "{}", "[" * 5000, "\x00"):
            path.write_text(text)
            assert work.recall("one", "key") is None
    state = tmp_path / "state.safetensors"
    save_state(state, {"a": torch.ones(3)}, {"step": "1"})
    tensors, texts = load_state(state)
    assert torch.equal(tensors["a"], torch.ones(3)) and texts == {"step": "1"}
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    assert load_state(state) is None


def test_the_bench_program_gives_litert_only_what_the_bundle_was_made_for(tmp_path):
    """Another file is opened where that is asked for. Neither file is one: it is about what is said."""
    model, other = tmp_path / "model.tflite", tmp_path / "other.tflite"
    model.write_bytes(b"proven")
    other.write_bytes(b"another")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    make_bundle(find_target(HOST_TARGET), "litert", bundle)

    def said(path: Path, *more: str) -> str:
        command = [bundle / "run.sh", "--model", path, "--inputs", path, *more]
        return subprocess.run(command, capture_output=True, text=True).stdout

    assert "add --trust 1" in said(model)  # nothing is proven yet
    add_model(bundle, model)
    assert "LiteRT status" in said(model) and "LiteRT status" in said(bundle / "model.tflite")
    assert "add --trust 1" in said(other) and sha256_file(other) in said(other)
    assert "LiteRT status" in said(other, "--trust", "1")
