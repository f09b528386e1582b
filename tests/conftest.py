"""Small real models, builds of them that tests share, and the command line, in this process or in one of its own."""

import contextlib
import fcntl
import functools
import gc
import hashlib
import io
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from starts import Starter

from edgecomp.devices import bundle, timing
from edgecomp.util import compiler
from edgecomp.util.files import cache_folder

ROOT = Path(__file__).parent.parent

# What a shell starts in the background ignores Ctrl-C, and so would every program that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Half of an export is the collector's walks over all that the exporters import, which stays anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch) -> None:
    """No test in this process asks how steady times are: the samples of a round need not last."""
    monkeypatch.setattr(timing, "_LEAST_MS", 10)


@pytest.fixture(autouse=True, scope="session")
def _one_compiles(tmp_path_factory):
    """Of two workers of pytest-xdist one compiles or fetches; the other one waits, and finds it in the cache."""
    folder = tmp_path_factory.getbasetemp().parent

    def locked(function):
        @functools.wraps(function)
        def run(*arguments, **more):
            digest = hashlib.sha256(repr((function.__name__, arguments, more)).encode()).hexdigest()
            with open(folder / f"lock-{digest[:16]}", "w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                return function(*arguments, **more)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "build", locked(compiler.build))
        patch.setattr(bundle, "sdk", locked(bundle.sdk))
        yield


def run_here(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`edgecomp …` in this process, as if started in `folder`: its exit code and what it printed."""
    from edgecomp.cli import main

    out, err, code = io.StringIO(), io.StringIO(), None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["edgecomp", *map(str, arguments)])
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if code == 130:
        raise KeyboardInterrupt  # Ctrl-C was meant for the tests
    return subprocess.CompletedProcess(sys.argv, code or 0, out.getvalue(), err.getvalue())


@pytest.fixture
def edgecomp(tmp_path: Path):
    """Runs `edgecomp …` in a fresh folder, in this process; returns what a finished process would be."""
    return functools.partial(run_here, tmp_path)


@pytest.fixture
def started_edgecomp(tmp_path: Path):
    """The same in a process that is started for it."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgecomp.cli", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
        )

    return run


@pytest.fixture(scope="session")
def starter():
    """Starts processes of the command line that can be interrupted: `starter.popen(…)`."""
    starter = Starter()
    yield starter
    starter.close()


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


# Its labels are its own answers: it is right everywhere, whatever its weights, and loses what codes do to it.
RIGHT_MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    head = nn.Linear(128, 10)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(400, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), head,
    ).eval()
    with torch.no_grad():  # no class is the answer to all, and it is sure of what it says
        head.bias -= net(torch.randn(256, 1, 12, 12)).mean(0)
        head.weight *= 100
        head.bias *= 100
    return net

def example_inputs():
    return (torch.zeros(1, 1, 12, 12),)

def data():
    generator, net = torch.Generator().manual_seed(1), build()
    def split(n):
        x = torch.randn(n, 1, 12, 12, generator=generator)
        with torch.no_grad():
            return x, net(x).argmax(1)
    return {"train": split(256), "calibration": split(2048), "test": split(1000)}
"""


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A model file with random weights and random data."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY_MODEL + TINY_DATA)
    return path


@pytest.fixture
def right_model(tmp_path: Path) -> Path:
    """A model file with random weights that is right about its data."""
    path = tmp_path / "right.py"
    path.write_text(RIGHT_MODEL)
    return path


@pytest.fixture
def keras(tmp_path: Path) -> Path:
    """A .tflite with every layer that can be coded, and every reason why one cannot."""
    from tflite_files import keras_like

    return keras_like(tmp_path / "keras.tflite")


@pytest.fixture
def fresh_cache(tmp_path: Path):
    """`fresh_cache("weights")`: a folder for EDGECOMP_CACHE in which nothing is known but the programs and SDKs that
    other tests compiled and fetched, and what is named."""

    def make(*known: str) -> Path:
        folder = tmp_path / "cache"
        folder.mkdir()
        for name in ("native", "sdk", *known):
            (folder / name).symlink_to(cache_folder(name))
        return folder

    return make


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """`built(method, runtime, stock=False)`: the report and the folder of a build of the tiny model without measuring.
    It is made once: whoever looks at it leaves it as it is."""
    from edgecomp.pipeline import build
    from edgecomp.records import Request

    folder = tmp_path_factory.mktemp("builds")
    (folder / "tiny.py").write_text(TINY_MODEL + TINY_DATA)

    @functools.cache
    def made(method: str, runtime: str, stock: bool = False):
        out = folder / f"{method}-{runtime}{'-stock' * stock}".replace(":", "-of-")
        torch.manual_seed(0)
        model = str(folder / "tiny.py")
        return build(Request(model=model, method=method, runtime=runtime, on="none", out=out, stock=stock)), out

    return made


def of_build(method: str, runtime: str, *values: object) -> object:
    """A case (`values`) of a test that looks at this build: one worker makes it and does all of them."""
    return pytest.param(*values, marks=pytest.mark.xdist_group(f"{method} {runtime}"))


@pytest.fixture(scope="session")
def judged(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a real build that misses one of its limits, `tiny.py` beside it, and how the command ended."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "tiny.py").write_text(TINY_MODEL + TINY_DATA)
    limits = ("--budget", "1MB", "--max-drop", "100", "--max-installed", "100MB")
    limits += ("--max-ram", "1kB", "--max-instructions", "1G")
    done = run_here(folder, "build", "tiny.py", *limits, "--on", "qemu", "-o", "out")
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
