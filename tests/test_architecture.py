"""The layout of the package: few entries at the top, imports that run one way, no loop of files. Lazy imports count."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "edgecomp"
DATA = {"targets", "android_bench", "models"}  # beside the code in a wheel

# A file may import from its own rank and from lower ones. The longest name that fits is that of a file's rank.
RANKS = [
    {"errors"},
    {"records"},
    {"util"},
    {"engines", "report"},
    {"graph", "layers", "devices"},
    {"training"},
    {"fitting", "pruning", "train", "datasets"},
    {"discover", "methods", "runtimes"},
    {"chain"},
    {"load", "plan", "pruning.stage", "compress", "recover", "export", "measure"},
    {"auto"},
    {"pipeline"},
    {"sweep", "papers"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in DATA
}


def module_file(parts: list[str]) -> str | None:
    """The name in FILES of a module or package; None if it is neither."""
    names = (".".join(parts), ".".join([*parts, "__init__"]))
    return next((name for name in names if name in FILES), None)


def imports(name: str, source: str) -> set[str]:
    """The files that a file imports, wherever in it. A name from a package is its module, if there is one."""
    found, folder = set(), name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == "edgecomp"]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level == 0 and module[0] != "edgecomp":
                continue
            base = [*folder[: len(folder) + 1 - node.level], *module] if node.level else module[1:]
            targets = [[*base, alias.name] if module_file([*base, alias.name]) else base for alias in node.names]
        found |= {file for target in targets if (file := module_file(target))}
    return found - {name}


EDGES = {name: imports(name, path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def rank(name: str) -> int:
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    found = next((RANK[prefix] for prefix in prefixes if prefix in RANK), None)
    assert found is not None, f"{name} has no rank"
    return found


def test_the_top_is_short():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"} - DATA
    assert 1 + len(entries) <= 30, sorted(entries)  # as `find edgecomp -maxdepth 1 | wc -l` counts


def test_imports_run_one_way():
    wrong = [
        f"{name} imports {target}"
        for name, targets in EDGES.items()
        for target in targets
        if name != "__init__" and (target == "__init__" or rank(target) > rank(name))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_loop_of_files():
    try:
        list(graphlib.TopologicalSorter(EDGES).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" ← ".join(error.args[1]))


def test_methods_and_runtimes_do_not_know_each_other():
    for one, other in (("methods", "runtimes"), ("runtimes", "methods")):
        for name in (name for name in EDGES if name.startswith(f"{one}.")):
            assert not [target for target in EDGES[name] if target.startswith(f"{other}.")], name


def test_imports_are_all_seen():
    source = "import edgecomp.util.files\ndef f():\n    from . import base\n    from ..util import progress, units\n"
    source += "    from .. import discover\n    from ..report import report\n    from edgecomp.load import load\n"
    assert imports("devices.adb", source) == {
        *("util.files", "devices.base", "util.progress", "util.units", "discover", "report.report", "load"),
    }
    assert imports("devices.__init__", "from . import adb\nfrom .adb import Adb\nimport torch\n") == {"devices.adb"}


def test_only_one_file_splits_method_expressions():
    """`a+b` and `a:b` are read by `chain.split`."""
    pattern = re.compile(
        r"""split\((["'])[+]\1\)|(method|expression|name|chain)\w*\.\w*(split|partition)\((["']):\4\)"""
    )
    assert {name for name, path in FILES.items() if pattern.search(path.read_text(encoding="utf-8"))} == {"chain"}
