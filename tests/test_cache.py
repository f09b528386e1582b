"""What was made once is kept, found again, and checked; an edit of code that does not compute costs nothing."""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_architecture import EDGES, FILES

from edgecomp.errors import BuildError
from edgecomp.util import cache
from edgecomp.util.cache import digest_path, keep, key_of, recall, remembered, remembered_file, remembered_folder

PACKAGE = Path(cache.__file__).parents[1]

# What computes nothing that is kept: how things are written, shown, found or handed to other processes.
COMPUTES_NOTHING = ("errors", "engines", "util")
# What of these is imported by files that keep something decides nothing: a record that is itself in the key, and text.
UNUSED = {"auto.candidates", "report.markdown"}


def test_keys_tell_apart_what_differs(tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    parts = [None, 0, False, "0", b"0", 0.0, [], ["0"], ["", "0"], [["0"]], {"a": 1}, {"a": 2}, {"a"}, file]
    parts += [torch.zeros(2), torch.zeros(2).double(), torch.zeros(1, 2), torch.tensor([0.0, -0.0]), np.zeros(2)]
    keys = [key_of(part) for part in parts]
    assert len(set(keys)) == len(parts)
    assert keys == [key_of(part) for part in parts]
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of(torch.ones(4).bfloat16()[::2]) == key_of(torch.ones(2).bfloat16())
    file.write_text("2")
    assert key_of(file) != keys[13]


def test_a_key_is_never_made_of_an_address():
    with pytest.raises(TypeError, match="object"):
        key_of(object())
    with pytest.raises(TypeError, match="function"):
        key_of({"metric": [test_a_key_is_never_made_of_an_address]})


def test_code_that_is_not_named_does_not_count(monkeypatch, tmp_path):
    for name in ("cli", "fitting"):
        shutil.copytree(PACKAGE / name, tmp_path / name)
    (tmp_path / "chain.py").write_text("")
    monkeypatch.setattr(cache, "_PACKAGE", tmp_path)
    code_of = cache.code_of.__wrapped__
    before = code_of("fitting", "chain")
    (tmp_path / "cli" / "main.py").write_text("# edited")
    assert code_of("fitting", "chain") == before == code_of("chain", "fitting")
    for path in ("fitting/kmeans.cc", "fitting/lowrank.py", "chain.py"):
        (tmp_path / path).write_text("# edited")
        assert code_of("fitting", "chain") != before
        before = code_of("fitting", "chain")
    with pytest.raises(BuildError, match="'fiting'"):
        code_of("fiting")


def covered(name: str, code: set[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in (*code, *COMPUTES_NOTHING))


@pytest.mark.parametrize("name", sorted(n for n, path in FILES.items() if "_CODE = " in path.read_text()))
def test_the_code_in_a_key_is_all_that_can_compute(name):
    """Every file that the one which keeps something imports, over any way, is in its key, or computes nothing."""
    tree = ast.parse(FILES[name].read_text())
    module = __import__(f"edgecomp.{name}", fromlist=["_CODE"])
    named = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in ast.walk(n) if isinstance(t, ast.Name)]
    for constant in (c for c in dict.fromkeys(named) if c.endswith("_CODE")):
        code, seen, waiting = set(getattr(module, constant)), set(), {name}
        while waiting:
            file = waiting.pop()
            seen.add(file)
            waiting |= {n for n in EDGES[file] if n not in UNUSED and not covered(n, set())} - seen
        missing = sorted(n for n in seen if not covered(n, code) and not n.endswith("__init__"))
        assert not missing, f"{name}.{constant} does not name {missing}"


def test_what_was_made_is_found_again_and_what_is_damaged_is_made_again(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"a": [1, None, "ä"]}

    assert [remembered(tmp_path, "key", make) for _ in range(3)] == [{"a": [1, None, "ä"]}] * 3
    assert len(calls) == 1 and recall(tmp_path, "key") == {"a": [1, None, "ä"]}
    path = tmp_path / "key.json"
    path.write_text(path.read_text().replace("1", "2"))  # as valid as before, and wrong
    assert recall(tmp_path, "key") is None
    assert remembered(tmp_path, "key", make) == {"a": [1, None, "ä"]} and len(calls) == 2
    digest_path(path).unlink()
    assert remembered(tmp_path, "key", make) and len(calls) == 3
    keep(tmp_path, "key", 5)
    assert remembered(tmp_path, "key", make) == 5 and recall(tmp_path, "other") is None


def test_tensors_files_and_folders(tmp_path):
    made = cache.remembered_tensors(tmp_path, "key", lambda: {"x": torch.arange(3)})
    assert torch.equal(made["x"], torch.arange(3))
    assert torch.equal(cache.remembered_tensors(tmp_path, "key", dict)["x"], torch.arange(3))
    file = remembered_file(tmp_path / "new" / "program", lambda path: path.write_text("1"))
    assert remembered_file(file, lambda path: path.write_text("2")).read_text() == "1"

    def fill(folder):
        (folder / "lib").mkdir()
        (folder / "lib" / "a").write_text("a")
        (folder / "run").write_text("run")

    folder = remembered_folder(tmp_path / "bundle", fill)
    for damage in (
        lambda: (folder / "lib" / "a").write_text("b"),
        lambda: (folder / "run").unlink(),
        lambda: (folder / "run").chmod(0o755),
        lambda: (folder / "more").touch(),
    ):
        damage()
        remembered_folder(folder, fill)
        assert sorted(p.name for p in folder.rglob("*")) == ["a", "lib", "run"]
        assert (folder / "lib" / "a").read_text() == "a" and not (folder / "run").stat().st_mode & 0o111


def test_what_fails_leaves_nothing_that_is_used(tmp_path):
    def fail(path):
        path.write_text("half")
        raise BuildError("no")

    with pytest.raises(BuildError, match="no"):
        remembered_file(tmp_path / "file", fail)
    assert not (tmp_path / "file").exists()
    assert remembered_file(tmp_path / "file", lambda path: path.write_text("whole")).read_text() == "whole"


def test_processes_that_want_the_same_make_it_once(tmp_path):
    code = f"""
import time
from pathlib import Path
from edgecomp.util.cache import remembered

def make():
    with open({str(tmp_path / "calls")!r}, "a") as file:
        file.write("x")
    time.sleep(0.5)
    return 7

print(remembered(Path({str(tmp_path)!r}), "key", make))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == ["7\n"] * 3
    assert (tmp_path / "calls").read_text() == "x"


def test_a_process_that_was_killed_leaves_nothing_that_is_used(tmp_path):
    code = f"""
import time
from pathlib import Path
from edgecomp.util.cache import remembered_file

def make(path):
    path.write_text("half")
    Path({str(tmp_path / "began")!r}).touch()
    time.sleep(60)

remembered_file(Path({str(tmp_path / "file")!r}), make)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "began").exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert remembered_file(tmp_path / "file", lambda path: path.write_text("whole")).read_text() == "whole"


def test_a_search_of_auto_survives_an_edit_of_the_command_line(right_model, fresh_cache, tmp_path):
    """A copy of the package searches, its command line and report are edited, and it searches again: every candidate
    and every plan is found where it was. After an edit of what fits codes nothing is."""
    root = tmp_path / "root"
    shutil.copytree(PACKAGE, root / "edgecomp", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("targets", "android_bench", "models"):
        (root / name).symlink_to(PACKAGE.parent / name)
    environment = {**os.environ, "EDGECOMP_CACHE": str(fresh_cache()), "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "edgecomp.cli", "build", str(right_model), "--method", "auto", "--budget", "100kB"]
    command += ["--set", "auto.samples=64", "--set", "auto.methods=kmeans,int8", "--set", "auto.rounds=1"]
    command += ["--on", "none", "--dry-run", "-o", str(tmp_path / "out")]

    def search() -> dict[str, int]:
        """When each file that is kept was written."""
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        kept = [p for f in ("auto", "single-layers") for p in (tmp_path / "cache" / f).rglob("*") if p.is_file()]
        kept += (tmp_path / "out" / ".stages").glob("evaluation-*.json")
        return {str(path): path.stat().st_mtime_ns for path in kept}

    first = search()
    assert [path for path in first if "/evaluation-" in path] and [path for path in first if "/auto/" in path]
    for name in ("cli/main.py", "report/report.py", "papers/gong2014.py", "sweep/page.py"):
        with (root / "edgecomp" / name).open("a") as file:
            file.write("\n# edited\n")
    assert search() == first
    with (root / "edgecomp" / "fitting" / "kmeans.py").open("a") as file:
        file.write("\n# edited\n")
    third = search()
    assert len(third) > len(first) and all(third[path] != first[path] for path in first if "/evaluation-" in path)
