"""Listings of the command line: complete, as tables of 80 columns and as JSON, and without waiting for torch."""

import json
import subprocess
import sys

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from edgecomp import discover
from edgecomp.cli import app, catalog, complete

METHODS = discover.method_names()
LISTINGS = ("methods", "targets", "models", "devices", "doctor")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECOMP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def run(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "PATH": "/nowhere"})


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_a_description(name):
    bare = [key for key, field in discover.method(name).Config.model_fields.items() if not field.description]
    assert not bare, f"Field(description=…) is missing for {bare}"


@pytest.mark.parametrize("name", METHODS)
def test_settings_in_80_columns(name):
    done, config = run("methods", name), discover.method(name).Config
    assert done.exit_code == 0 and max(map(cell_len, done.output.splitlines())) <= 80
    listed = [line.split()[0] for line in done.output.splitlines() if line.strip()]
    assert {"kinds", *config.model_fields} <= set(listed)


def test_default_range_and_meaning():
    (k,) = (s for s in catalog.methods()["pq"]["settings"] if s["name"] == "k")
    assert k == {
        "name": "k",
        "default": 16,
        "range": "2 … 256",
        "description": "Codewords per codebook; a code takes ⌈log2 k⌉ bits.",
    }
    svd = catalog.methods()["svd"]
    ranges = {setting["name"]: setting["range"] for setting in svd["settings"]}
    assert ranges["rank"] == "≥ 1 | > 0, < 1" and ranges["energy"] == "> 0, ≤ 1" and ranges["fit"] == "inputs | plain"
    assert svd["one_of"] == ["rank", "macs", "bytes", "energy", "cosine"] and svd["default"] == {"rank": 0.1}
    assert "Without one: rank=0.1." in run("methods", "svd").output


@pytest.mark.parametrize("command", LISTINGS)
def test_json(command):
    table, done = run(command), run(command, "--json")
    rows = json.loads(done.output)
    assert done.exit_code == table.exit_code == (4 if command == "doctor" else 0)
    assert rows and len({frozenset(row) for row in rows}) == 1  # all have the same keys
    assert max(map(cell_len, table.output.splitlines())) <= 80


def test_json_of_one_method():
    assert json.loads(run("methods", "pq", "--json").output) == catalog.methods()["pq"]


def test_listings_without_torch():
    """Not even numpy and the client of adb: each takes longer than the listing."""
    catalog.methods()  # kept from now on
    script = f"""
import sys
for name in ("torch", "numpy", "scipy", "adbutils"):
    sys.modules[name] = None
from typer.testing import CliRunner
from edgecomp.cli import app
for command in [*{LISTINGS}, "methods pq", "--help", "--version", "build --help"]:
    done = CliRunner().invoke(app, command.split())
    if done.exit_code not in (0, 4):
        raise SystemExit(f"{{command}}: {{done.output}} {{done.exception!r}}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_listing_is_made_again_when_the_code_changes(monkeypatch):
    kept = catalog.cache_folder("listings") / "methods.json"
    whole = catalog.methods()
    text = kept.read_text(encoding="utf-8")
    kept.write_text(text.replace("Codewords per codebook", "What stood here before"), encoding="utf-8")
    assert catalog.methods() != whole  # read, not made
    monkeypatch.setattr(catalog, "code_digest", lambda: "another")
    assert catalog.methods() == whole
    kept.write_text(text[:100], encoding="utf-8")
    assert catalog.methods() == whole


def test_version():
    from importlib.metadata import version

    assert run("--version").output == f"edgecomp {version('edgecomp')}\n"


def test_completion():
    assert complete.method("p") == ["palettize", "pq"]
    assert complete.method("pq+int") == ["pq+int2", "pq+int4", "pq+int8"]
    assert complete.method("svd:r") == ["svd:random_dcp", "svd:rq"]
    assert complete.method("au") == ["auto"]
    assert "android-arm64" in complete.target("") and complete.model("zf") == ["zfnet"]
    assert complete.device("q") == ["qemu"] and complete.paper("gong") == ["gong2014"]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("build --method pq+kme", ["pq+kmeans"]),
        ("build --method tucker --set en", ["energy="]),
        ("build --target linux-a", ["linux-arm64"]),
        ("methods tuc", ["tucker"]),
        ("vers", []),
        ("doc", ["doctor"]),
    ],
)
def test_bash_completes(words, completed):
    environment = {
        "_EDGECOMP_COMPLETE": "complete_bash",
        "COMP_WORDS": f"edgecomp {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = CliRunner().invoke(app, [], prog_name="edgecomp", env=environment)
    assert done.output.split() == completed
