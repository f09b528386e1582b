"""The shell part of the actions for users' CIs, with the real command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CI = Path(__file__).parent.parent / "docs/ci"


@pytest.mark.slow
def test_the_gate(tiny_model, tmp_path):
    def gate(baseline: str, *options: str) -> int:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        build = [tiny_model.name, "--method", "int8", "--on", "host", "--max-drop", "100", *options]
        return subprocess.run(
            [CI / "gate.sh", "out", baseline, *build], cwd=tmp_path, env={**os.environ, "PATH": path}
        ).returncode

    assert gate("none", "--budget", "1MB") == 0
    comment = (tmp_path / "out/comment.md").read_text()
    assert "tiny" in comment and "Against the baseline" not in comment
    shutil.copy(tmp_path / "out/report.json", tmp_path / "kept.json")
    assert gate("kept.json", "--budget", "1kB") == 1
    assert "Against the baseline" in (tmp_path / "out/comment.md").read_text()
    assert gate("none", "--set", "no_such=1") == 2


def test_the_files_of_the_services_call_it():
    action = yaml.safe_load((CI / "action.yml").read_text())
    steps = [step.get("run", "") for step in action["runs"]["steps"]]
    assert any("gate.sh" in step for step in steps)
    job = yaml.safe_load((CI / "gitlab.yml").read_text())["edgecomp"]
    assert any("gate.sh" in line for line in job["script"])
