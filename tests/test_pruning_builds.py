"""Channel pruning in plans and whole builds."""

import json

import pytest
import torch
from conftest import TINY_DATA

from edgecomp import chain, compress, discover, plan
from edgecomp.devices import probe
from edgecomp.errors import UsageError
from edgecomp.layers import checkpoint
from edgecomp.layers.matrix import parameter_bytes
from edgecomp.load import load
from edgecomp.pruning import stage as prune
from edgecomp.pruning.widths import layer_sizes
from edgecomp.records import Request
from edgecomp.runtimes import executorch
from edgecomp.util.workspace import Workspace

METHODS = [name for name in discover.method_names() if discover.prunes(name)]


MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.norm = nn.Conv2d(width, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.outer = nn.Conv2d(24, width, 3, padding=1)

    def forward(self, x):
        return (x + self.outer(self.norm(self.inner(x)).relu())).relu()

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.block, self.depthwise = nn.Conv2d(1, 16, 3), Block(16), nn.Conv2d(16, 16, 3, groups=16)
        self.last, self.norm, self.dense = nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.Linear(32 * 16, 10)

    def forward(self, x):
        x = self.depthwise(self.block(self.first(x).relu())).relu()
        x = nn.functional.max_pool2d(self.norm(self.last(x)).relu(), 2)
        return self.dense(x.flatten(1))

def build():
    torch.manual_seed(0)
    return Small()

def example_inputs():
    return (torch.zeros(1, 1, 12, 12),)
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(MODEL + TINY_DATA)
    return path


def planned(path, out, method, *given):
    request = Request(model=str(path), method=method, settings=given, out=out)
    with Workspace(out) as work:
        model = load(request)
        made = plan.plan(model, request, work)
        return model, made, compress.compress(model, made, work)


@pytest.mark.parametrize("name", METHODS)
def test_planned_bytes_are_what_is_left_and_the_criterion_is_met(name, small, tmp_path):
    for criterion in ("macs=0.6", "bytes=0.6", "keep=0.5"):
        model, made, done = planned(small, tmp_path / criterion, name, criterion, "epochs=0.5", "adds=true")
        for entry in made.entries:
            layer = done.net.get_submodule(entry.layers[0])
            assert parameter_bytes(layer) == entry.predicted_bytes
            assert bool(entry.pruned) == (entry.predicted_bytes < entry.original_bytes)
        left = layer_sizes(done.net, model.example_inputs).values()
        assert made.pruning.macs[1] == sum(size.macs for size in left)
        assert made.pruning.bytes[1] == sum(size.bytes for size in left) == sum(e.predicted_bytes for e in made.entries)
        what, _, value = criterion.partition("=")
        groups = [group for group in made.pruning.groups if not group.reason]
        if what == "keep":
            assert sum(g.keep for g in groups) <= 0.5 * sum(g.channels for g in groups) + len(groups)
        else:
            before, after = getattr(made.pruning, what)
            assert float(value) - 0.12 < after / before <= float(value)
        again = checkpoint.restore(model.net, done.checkpoint)
        assert torch.equal(again(*model.data.test.inputs), done.net(*model.data.test.inputs))


def test_widths_are_multiples_where_asked_for(small, tmp_path):
    _, made, _ = planned(small, tmp_path / "out", "l1", "multiple=8", "epochs=0")
    assert all(group.keep % 8 == 0 for group in made.pruning.groups if not group.reason)


def test_added_channels_stay_unless_asked_for(small, tmp_path):
    _, made, _ = planned(small, tmp_path / "out", "l1", "epochs=0")
    groups = {group.layers: group for group in made.pruning.groups}
    assert "adds=true" in groups["first", "block.outer"].reason
    assert groups["first", "block.outer"].into == ("block.inner", "last")
    assert "outputs of the net" in groups["dense",].reason
    assert groups["last",].keep < 32 and groups["block.inner",].keep < 24


def test_layers_are_named_and_kinds_added(small, tmp_path):
    request = Request(model=str(small), method="l1", settings=("epochs=0",), layers=("last",), out=tmp_path / "out")
    with Workspace(request.out) as work:
        made = plan.plan(load(request), request, work)
    assert [group.layers for group in made.pruning.groups if not group.reason] == [("last",)]


def test_without_data_only_weights_are_looked_at(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(MODEL)
    _, made, done = planned(path, tmp_path / "out", "l1")
    assert made.pruning.macs[1] <= made.pruning.macs[0] / 2 and done.calibration == "data-free"
    with pytest.raises(UsageError, match="data"):
        planned(path, tmp_path / "out", "dcp")


@pytest.mark.parametrize(
    "expression, message", [("dcp:pq", r"dcp\+pq"), ("pq+dcp", r"dcp\+pq"), ("svd:dcp", r"dcp\+svd"), ("l1+dcp", "l1")]
)
def test_pruning_comes_first_and_alone(expression, message):
    with pytest.raises(UsageError, match=message):
        chain.parse(expression)


def test_two_criteria_are_refused():
    with pytest.raises(UsageError, match="macs"):
        chain.parse("dcp", ("macs=0.5", "keep=0.5"))
    with pytest.raises(UsageError, match="eps"):
        chain.parse("dcp_adapt", ("macs=0.5", "eps=0.01"))


def test_what_is_pruned_is_then_factorized_and_coded(edgecomp, small, tmp_path):
    options = ("--set", "svd.kinds=conv", "--set", "rank=4", "--set", "s=2", "--set", "k=4", "--set", "least_rank=1")
    options = (*options, "--set", "epochs=0.5", "--recover", "2", "--target", "android-arm64", "--on", "qemu")
    command = ("build", small, "--method", "dcp+svd:pq+int8", "--budget", "1MB", "-o", "out", *options)
    done = edgecomp(*command)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    lines = {line["name"]: line for line in report["layers"]}
    assert lines["block.inner"]["method"] == "dcp+svd:pq" and lines["dense"]["method"] == "dcp+int8"
    assert sum(line["bytes"] for line in lines.values()) == (tmp_path / "out" / "model.pte").stat().st_size
    assert report["check"]["relative_difference"] < 0.01 and report["settings"]["dcp"]["losses"] == 2
    assert {tuple(group["layers"]) for group in report["channels"] if not group["reason"]} == {
        ("block.inner",),
        ("last",),
    }
    again = edgecomp(*command)
    assert again.returncode == 0 and again.stderr.count("cached") >= 3


def test_a_criterion_of_time_is_met_by_trial(small, tmp_path):
    """What the stopwatch says is made up here, for it depends on the machine: the fraction of the weights."""
    model = load(Request(model=str(small)))
    seen = []

    def meter(net):
        seen.append(sum(p.numel() for p in net.parameters()) / model.parameters)
        return seen[-1]

    (one,) = chain.parse("l1", ("latency=0.7",))
    with Workspace(tmp_path / "out") as work:
        made = prune.plan_channels(model, one, Request(model=str(small), method="l1"), work, meter)
    left = made.bytes[1] / made.bytes[0]
    assert 0.6 < left <= 0.7 and any(share > 0.7 for share in seen)


def test_nets_are_exported_and_timed_in_turns(small):
    model = load(Request(model=str(small)))
    what = "executorch", "android-arm64", model, executorch.export
    assert 0.2 < probe.meter("latency", *what)(model.net) < 5
    assert probe.meter("instructions", *what)(model.net) == pytest.approx(1, rel=0.01)
