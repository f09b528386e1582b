"""Small real models, and the command line as a user starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent

# What a shell starts in the background ignores Ctrl-C, and so would every program that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def edgecomp(tmp_path: Path):
    """Runs `edgecomp …` in a fresh folder; returns the finished process."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgecomp.cli", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
        )

    return run


TINY_MODEL = '''
import torch
from torch import nn

class Tiny(nn.Module):
    """A net with every kind of layer a plan can meet."""
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 32, 3, stride=2)
        self.depthwise = nn.Conv2d(32, 32, 3, groups=32)
        self.dense1 = nn.Linear(32 * 3 * 3, 256)
        self.dense2 = nn.Linear(256, 256)
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        x = self.norm(self.conv1(x)).relu()
        x = self.depthwise(self.conv2(x).relu()).relu()
        x = self.dense1(x.flatten(1)).relu()
        return self.head(self.dense2(x).relu())

def build():
    torch.manual_seed(0)
    net = Tiny()
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.5, 2)
    return net

def example_inputs():
    return (torch.zeros(1, 1, 12, 12),)
'''

TINY_DATA = """
def data():
    generator = torch.Generator().manual_seed(1)
    def split(n):
        return torch.rand(n, 1, 12, 12, generator=generator), torch.randint(0, 10, (n,), generator=generator)
    return {"train": split(256), "calibration": split(512), "test": split(100)}
"""


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A model file with random weights and random data."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY_MODEL + TINY_DATA)
    return path


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a real build that misses one of its limits, `tiny.py` beside it, and the finished process."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "tiny.py").write_text(TINY_MODEL + TINY_DATA)
    limits = ("--budget", "1MB", "--max-drop", "100", "--max-installed", "100MB")
    limits += ("--max-ram", "1kB", "--max-instructions", "1G")
    command = [sys.executable, "-m", "edgecomp.cli", "build", "tiny.py", *limits, "--on", "qemu", "-o", "out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    return folder / "out", done


def export_tiny(folder: Path) -> tuple[Path, Path]:
    """The net above as a file of ExecuTorch, and a file of inputs for it."""
    from edgecomp.devices.tensors import write_records
    from edgecomp.load import load
    from edgecomp.records import Request
    from edgecomp.runtimes import executorch

    (folder / "tiny.py").write_text(TINY_MODEL)
    model = load(Request(model=str(folder / "tiny.py")))
    executorch.export(model.net, model.example_inputs, folder / "m.pte")
    write_records(folder / "inputs", [model.example_inputs[0][None]])
    return folder / "m.pte", folder / "inputs"


@pytest.fixture
def two_nodes(monkeypatch):
    """A real Ray cluster of two nodes on this machine, and the second one of them."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        yield cluster, cluster.add_node(**options)
    finally:
        cluster.shutdown()
