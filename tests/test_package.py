"""What the package promises to the outside: its names, its wheel, its import rules."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgecomp

ROOT = Path(__file__).parent.parent


def test_public_names():
    assert edgecomp.__all__ == sorted(edgecomp.__all__)
    assert set(edgecomp.__all__) == {
        *("load", "plan", "compress", "recover", "export", "measure", "report", "build"),
        *("Data", "Model", "Plan", "Recipe", "Report", "Request", "Split"),
        *("BuildError", "DeviceError", "EdgecompError", "UsageError"),
    }
    for name in edgecomp.__all__:
        assert getattr(edgecomp, name) is not None
    with pytest.raises(AttributeError):
        edgecomp.no_such_name  # noqa: B018


def test_help_does_not_wait_for_torch():
    code = "import sys, edgecomp.cli as c; c.app(['--help'], standalone_mode=False); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_wheel_carries_its_data(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    expected = {
        *("targets/android-arm64.toml", "targets/kernels/coded_matrix.h", "targets/executorch/ops.cc"),
        *("android_bench/bench.cc", "models/fashion.py", "models/fashion.safetensors"),
        *("report.html.j2", "report.css", "report.js"),
    }
    assert {f"edgecomp/{name}" for name in expected} <= set(names)
    assert not any(name.startswith(("targets/", "models/")) for name in names)


# Imports run one way: a module may import from its own rank or a lower one.
RANKS = [
    {"errors", "intervals", "markdown", "units"},
    {"files", "records", "progress", "tflite", "sharing"},
    {"compiler", "explain", "layers", "graph", "workspace", "datasets", "characters", "feedback", "cpd"},
    {"file_net", "calibration", "checkpoint", "kmeans", "train", "trainable", "permute"},
    {"pruning"},
    {"tflite_model", "lookup", "lowrank", "rounding", "ttd"},
    {"coding"},
    {"tflite_rewrite"},
    {"methods", "runtimes"},
    {"discover"},
    {"chain"},
    {"prune"},
    {"native"},
    {"devices"},
    {"timing", "engines", "limits", "figures"},
    {"trial"},
    {"protocol", "plots", "junit", "summary"},
    {"page", "compare"},
    {"load", "plan", "auto", "compress", "recover", "export", "measure", "report", "doctor"},
    {"pipeline"},
    {"budgets", "sweep_point", "sweep_measure", "sweep_page", "sweep_plot"},
    {"papers", "sweep"},
    {"listings"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def test_imports_run_one_way():
    for path in (ROOT / "edgecomp").rglob("*.py"):
        parts = path.relative_to(ROOT / "edgecomp").with_suffix("").parts
        if parts[0] == "__init__":
            continue
        own = RANK[parts[0]]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == len(parts):
                targets = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                for target in targets:
                    assert RANK.get(target, -1) <= own, f"{path.name} imports {target}"


def test_methods_and_runtimes_do_not_know_each_other():
    for folder, other in (("methods", "runtimes"), ("runtimes", "methods")):
        for path in (ROOT / "edgecomp" / folder).glob("*.py"):
            assert f"import {other}" not in path.read_text() and f"..{other}" not in path.read_text()
