"""What the package promises to the outside: its names, its wheel, its import rules."""

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
        *("report/report.html.j2", "report/report.css", "report/report.js"),
    }
    assert {f"edgecomp/{name}" for name in expected} <= set(names)
    assert not any(name.startswith(("targets/", "models/")) for name in names)
