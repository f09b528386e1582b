"""Coupled tensor trains: what layers share is found, planned, trained, kept and exported as one."""

import json

import pytest
import torch
from conftest import TINY_DATA
from safetensors import safe_open
from torch import nn

from edgecomp import compress, plan
from edgecomp.chain import parse
from edgecomp.errors import UsageError
from edgecomp.fitting import calibration, tensor_train
from edgecomp.layers import checkpoint
from edgecomp.layers.matrix import parameter_bytes
from edgecomp.load import load
from edgecomp.methods import coupled_tt, tt
from edgecomp.records import Request
from edgecomp.training.distill import Distillation, Task
from edgecomp.training.outputs import OutputLoss
from edgecomp.util.workspace import Workspace

MODEL = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.left = nn.Conv2d(16, 24, 3, padding=1)
        self.between = nn.Conv2d(24, 16, 1)
        self.right = nn.Conv2d(16, 24, 3, padding="same", bias=False)
        self.strided = nn.Conv2d(24, 16, 3, stride=2)
        self.grouped = nn.Conv2d(16, 24, 3, padding=1, groups=2)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = self.left(self.first(x).relu()).relu()
        x = self.right(self.between(x).relu()).relu()
        return self.head(self.grouped(self.strided(x).relu()).relu().mean((2, 3)))

def build():
    torch.manual_seed(0)
    return Pair()

def example_inputs():
    return (torch.zeros(1, 1, 12, 12),)
"""
EXPRESSION = ("coupled_tt+kmeans", ("rank=6", "kinds=conv"))


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "pair.py"
    path.write_text(MODEL + TINY_DATA)
    return path


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """The model, its plan and the compressed net."""
    (method, settings), folder = EXPRESSION, tmp_path_factory.mktemp("pair")
    (folder / "pair.py").write_text(MODEL + TINY_DATA)
    model, out = f"{folder}/pair.py", folder / "made"
    request = Request(model=model, method=method, settings=settings, out=out, recover_epochs=3)
    with Workspace(request.out) as work:
        model = load(request)
        made = plan.plan(model, request, work)
        return model, made, compress.compress(model, made, work).net


def kernels_of(own, spread=1.0, seed=0):
    """Two kernels (14, 12, 3, 5) that are trains of ranks 4, 6, 5, and share all cores but their own."""
    torch.manual_seed(seed)
    first, second, third = torch.randn(4, 12), torch.randn(6, 4, 3), torch.randn(5, 6, 5)
    found = []
    for _ in range(2):
        g1 = first + spread * torch.randn(4, 12) if own == "st" else first
        found.append(torch.einsum("as,bai,cbj,tc->tsij", g1, second, third, torch.randn(14, 5)))
    return found


def error(kernels, trains):
    made = [torch.einsum("as,bai,cbj,tc->tsij", *train) for train in trains]
    return ((torch.stack(kernels) - torch.stack(made)).norm() / torch.stack(kernels).norm()).item()


@pytest.mark.parametrize("own", ["t", "st"])
def test_kernels_that_share_cores_are_recovered(own):
    for seed in range(3):
        kernels = kernels_of(own, 0.3, seed)
        trains = tensor_train.decompose(kernels, (4, 6, 5), own)
        assert error(kernels, trains) < 1e-5


def test_more_cores_of_its_own_never_raise_the_error(monkeypatch):
    for seed in range(5):
        for kernels in (kernels_of("st", 1.0, seed), list(torch.randn(3, 8, 6, 3, 3))):
            errors = [error(kernels, tensor_train.decompose(kernels, (4, 5, 6), "t"))]
            for sweeps in (1, 2, 5, 40):
                monkeypatch.setattr(tensor_train, "_SWEEPS", sweeps)
                errors.append(error(kernels, tensor_train.decompose(kernels, (4, 5, 6), "st")))
            assert errors == sorted(errors, reverse=True)
            assert errors[-1] < 0.97 * errors[0]


@pytest.mark.parametrize("own", ["t", "st"])
def test_wishes_are_those_of_all_layers_together(own):
    layers = [nn.Conv2d(16, 24, 3, bias=bias) for bias in (True, False, True)]
    bytes_before, macs_before = sum(map(parameter_bytes, layers)), 3 * 16 * 24 * 9
    for criterion, limit in (("bytes", bytes_before), ("macs", macs_before)):
        config = coupled_tt.settle_together(layers, coupled_tt.Config(own=own, **{criterion: 0.4}))
        more = config.settled(config.rank + 1)
        assert getattr(coupled_tt.predict_together(layers, config), criterion) <= 0.4 * limit
        assert getattr(coupled_tt.predict_together(layers, more), criterion) > 0.4 * limit
    config = coupled_tt.settle_together(layers, coupled_tt.Config(own=own, energy=0.3))
    parts = coupled_tt.compress_together(layers, config, 0)
    lost = sum((layer.weight - part.kernel()).square().sum() for layer, part in zip(layers, parts, strict=True))
    assert lost <= 0.7 * sum(layer.weight.square().sum() for layer in layers)
    assert coupled_tt.refuse_together(layers, coupled_tt.Config(own=own, rank=100))


def test_shared_parts_are_the_same_modules_and_counted_once():
    layers = [nn.Conv2d(16, 24, 3), nn.Conv2d(16, 24, 3)]
    for own, shared in (("t", [True, True, True, False]), ("st", [False, True, True, False])):
        config = coupled_tt.Config(own=own, rank=6)
        left, right = made = coupled_tt.compress_together(layers, config, 0)
        assert [mine is theirs for mine, theirs in zip(left, right, strict=True)] == shared
        stored = parameter_bytes(nn.ModuleList(made), recurse=True)
        assert stored == coupled_tt.predict_together(layers, config).bytes
        assert stored < 2 * tt.predict(layers[0], tt.Config(rank=6)).bytes


def test_layers_of_equal_shape_are_one_entry_of_the_plan(compressed):
    _, made, _ = compressed
    entries = {entry.layers: entry for entry in made.entries}
    assert entries["left", "right"].coupled and entries["left", "right"].settings["rank"] == 6
    assert entries["strided",].method == "coupled_tt" and not entries["strided",].coupled
    assert entries["between",].method == "kmeans"
    assert "groups" in entries["grouped",].reason
    assert sum(len(entry.layers) for entry in made.entries) == 7


def test_layers_left_out_by_name_are_not_coupled(pair, tmp_path):
    request = Request(model=str(pair), method="coupled_tt", layers=("left", "strided"), out=tmp_path / "made")
    with Workspace(request.out) as work:
        made = plan.plan(load(request), request, work)
    assert not any(entry.coupled for entry in made.entries)
    assert [entry.layers for entry in made.entries if entry.method] == [("left",), ("strided",)]


def test_coupled_layers_are_fitted_in_the_order_of_execution(compressed):
    model, made, _ = compressed
    names = [job.names[0] for job in compress._jobs(model.net, model, made)]
    assert names == ["first", "left", "between", "right", "strided"]


def test_the_last_core_suits_the_inputs_of_its_layer():
    layers = [nn.Conv2d(6, 8, 3), nn.Conv2d(6, 8, 3)]
    chain = parse("coupled_tt", ("rank=3",))[0]
    x = torch.randn(20, 6, 1, 1) * torch.randn(20, 6, 12, 12)
    with torch.no_grad():
        wanted = layers[1](x)
        plain = chain.together(layers).compress(layers[1], None, 0)(x)
        fitted = chain.together(layers).compress(layers[1], calibration.gather(layers[1], layers[1], x), 0)(x)
    assert (fitted - wanted).norm() < (plain - wanted).norm()


def test_checkpoint_and_recovery_keep_what_is_shared(compressed, tmp_path):
    model, _, net = compressed
    path = tmp_path / "net.safetensors"
    checkpoint.save(net, path)
    with safe_open(path, "pt") as file:
        assert "left.1.weight" in file.keys() and "right.1.weight" not in file.keys()  # noqa: SIM118
    again = checkpoint.restore(model.net, path)
    run = Distillation(Task(model.net, net, model.data.train, 1, 0, OutputLoss(1)), tmp_path / "kept.safetensors")
    before = net.left[1].weight.clone()
    while run.step < run.total:
        run.advance()
    trained = run.result()
    for other in (net, again, trained):
        assert other.left[1] is other.right[1] and other.left[2] is other.right[2]
        assert other.left[0] is not other.right[0] and other.left[3] is not other.right[3]
    (x,) = model.data.test.inputs
    assert torch.equal(again(x), net(x))
    assert not torch.equal(trained.left[1].weight, before)
    assert not torch.equal(trained(x), net(x))


def test_the_exported_file_holds_shared_cores_once(edgecomp, pair, tmp_path):
    options = ("--set", "rank=6", "--on", "none", "--budget", "1MB", "-o", "out")
    done = edgecomp("build", pair, "--method", "coupled_tt", *options)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    lines = {line["name"]: line for line in json.loads((out / "report.json").read_text())["layers"]}
    line, stored = lines["left, right"], (out / "model.pte").read_bytes()
    assert line["weights"] == 2 * 16 * 24 * 9 and 0 < line["relative_error"] < 1.5
    assert line["bytes"] == 4 * (2 * 16 * 6 + 2 * 3 * 6 * 6 + 2 * 6 * 24 + 24)
    assert sum(line["bytes"] for line in lines.values()) == len(stored)
    with safe_open(out / "model.safetensors", "pt") as file:
        for name in ("left.0", "left.1", "left.2", "left.3", "right.0", "right.3"):
            weight = file.get_tensor(f"{name}.weight").permute(0, 2, 3, 1).contiguous()
            assert stored.count(weight.numpy().tobytes()) == 1, name


def test_codes_of_shared_parts_are_refused():
    with pytest.raises(UsageError, match="share"):
        parse("coupled_tt:pq")
