"""Tasks in other processes: order, failures, what is shared, bounded threads, and that nothing stays behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from edgecomp import compress, engines
from edgecomp.engines import pickling
from edgecomp.errors import BuildError, DeviceError, UsageError
from edgecomp.load import load
from edgecomp.plan import plan as make_plan
from edgecomp.records import Request
from edgecomp.util.workspace import Workspace


def scaled(task, base):
    """What several tests run: it fails, dies or lasts as the task says."""
    what, value = task
    if what == "raise":
        raise ValueError(value)
    if what == "refuse":
        raise UsageError(value, "Do otherwise.")
    if what == "die once" and not os.path.exists(value):
        open(value, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "last":
        subprocess.run(["sleep", "600"])
    return (
        torch.get_num_threads(),
        os.environ.get("OMP_NUM_THREADS"),
        base["weights"] * (value if what == "scale" else 1),
    )


pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture(scope="module")
def local():
    """An engine whose workers all tests share, as far as they live."""
    with engines.opened("local", workers=2) as engine:
        yield engine


def test_packed_tensors_keep_bits_order_and_ties():
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).requires_grad_(False)
    net[2].weight = net[0].weight
    value = {"image": image, "slice": image[:, 1], "none": torch.empty(0, 7), "half": torch.randn(3).half(), "net": net}
    parts = [bytes(part) for part in pickling.pack(value)]
    again = pickling.unpack(parts)
    assert torch.equal(again["image"], image) and again["image"].stride() == image.stride()
    assert torch.equal(again["slice"], image[:, 1]) and torch.equal(again["half"], value["half"])
    assert again["none"].shape == (0, 7) and again["net"][0].weight is again["net"][2].weight
    assert len(parts[0]) < 4000 and len(parts) == 1 + 6  # tensors lie apart


def test_outcomes_come_in_order_each_with_its_own_failure(local, tmp_path):
    base = local.share({"weights": torch.arange(6.0).reshape(2, 3).T})
    tasks = [("scale", 2), ("raise", "broken"), ("refuse", "not so"), ("die once", str(tmp_path / "died")), ("die", "")]
    seen = {}
    found = local.run(scaled, tasks, base, done=lambda index, outcome: seen.setdefault(index, outcome))
    assert found[0].get()[:2] == (1, "1") and torch.equal(found[0].get()[2], 2 * torch.arange(6.0).reshape(2, 3).T)
    with pytest.raises(BuildError, match="ValueError: broken .*test_engines.py"):
        found[1].get()
    with pytest.raises(UsageError, match="Do otherwise"):
        found[2].get()
    assert found[3].error is None
    assert "killed by SIGKILL" in str(found[4].error)
    assert seen == dict(enumerate(found))
    assert local.run(scaled, [("scale", 3)], base)[0].error is None  # and goes on


def _descendants(pid):
    out = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    children = {}
    for line in out.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, todo = [], [pid]
    while todo:
        todo += (new := children.get(todo.pop(), []))
        found += new
    return found


def _alive(pid):
    with contextlib.suppress(OSError):
        return open(f"/proc/{pid}/stat").read().split()[2] != "Z"
    return False


PROGRAM = """
import sys, torch
sys.path.insert(0, {folder!r})
from edgecomp import engines
from test_engines import scaled
with engines.opened("local", workers=2) as engine:
    engine.run(scaled, [("last", 0)] * 3, engine.share({{"weights": torch.ones(1)}}))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_program(sent):
    program = PROGRAM.format(folder=os.path.dirname(__file__))
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(found := _descendants(process.pid)) < 4 and time.monotonic() < deadline:  # two workers, each asleep
        time.sleep(0.2)
    assert len(found) == 4
    process.send_signal(sent)
    process.wait(timeout=30)
    while any(map(_alive, found)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, found))


def test_engines_that_cannot_be_opened_are_named():
    for arguments, message in (
        (("lokal", None, None), "Did you mean 'local'"),
        (("local", "1.2.3.4:6379", None), "--engine ray"),
        (("local", None, 0), "at least one"),
    ):
        with pytest.raises(UsageError, match=message):
            engines.check(*arguments)
    with pytest.raises(DeviceError, match="no Ray cluster at 127.0.0.1:1: .*refused"):
        engines.opened("ray", "127.0.0.1:1").__enter__()


BRANCHES = """
import torch
from torch import nn

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = nn.Linear(24, 64), nn.Linear(64, 96), nn.Linear(64, 96)
        self.last = nn.Linear(96, 40)

    def forward(self, x):
        x = self.first(x).relu()
        return self.last((self.left(x) + self.right(x)).relu())

def build():
    torch.manual_seed(0)
    return Branches()

def example_inputs():
    return (torch.zeros(1, 24),)
"""
DATA = """
def data():
    generator = torch.Generator().manual_seed(1)
    return {name: (torch.rand(300, 24, generator=generator), torch.zeros(300, dtype=torch.long)) for name in
            ("train", "calibration", "test")}
"""


@pytest.mark.parametrize("data, waves", [("", [[0, 1, 2, 3]]), (DATA, [[0], [1, 2], [3]])])
def test_layers_fitted_as_tasks_are_those_fitted_one_after_the_other(local, tmp_path, data, waves):
    path = tmp_path / "branches.py"
    path.write_text(BRANCHES + data)
    request = Request(model=str(path), settings=("s=2",))
    model, checkpoints, threads = load(request), [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, engine in (("here", None), ("tasks", local)):
            with Workspace(tmp_path / name) as work:
                plan = make_plan(model, request, work)
                checkpoints.append(compress.compress(model, plan, work, engine).checkpoint.read_bytes())
    finally:
        torch.set_num_threads(threads)
    assert checkpoints[0] == checkpoints[1]
    assert compress._waves(model, compress._jobs(model.net, model, plan)) == waves
