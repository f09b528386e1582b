"""Channel pruning: groups, surgery, widths, what each method sees in channels, and whole builds."""

import copy
import functools
import json

import pytest
import torch
from conftest import TINY_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgecomp import chain, checkpoint, compress, discover, plan, prune, trial
from edgecomp.errors import UsageError
from edgecomp.load import load
from edgecomp.methods import lasso, thinet
from edgecomp.plan import parameter_bytes
from edgecomp.pruning import discrimination
from edgecomp.pruning.groups import find_groups, proven
from edgecomp.pruning.job import Job
from edgecomp.pruning.surgery import masked, removed
from edgecomp.pruning.tuning import Tuning
from edgecomp.pruning.widths import cut_sizes, layer_sizes
from edgecomp.records import Data, Model, Request, Split
from edgecomp.train import save_state
from edgecomp.workspace import Workspace

METHODS = [name for name in discover.method_names() if discover.prunes(name)]

# --- surgery ----------------------------------------------------------------------------------------------


class RandomNet(nn.Module):
    """A net that a list of words describes: each says how the next features come from those before."""

    def __init__(self, words, flat):
        super().__init__()
        self.words, self.flat, self.layers, width = words, flat, nn.ModuleDict(), 8
        self.layers["first"] = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        for place, word in enumerate(words):
            wide = 2 * width if word == "widen" else width
            groups = {"depthwise": width, "grouped": 4}.get(word, 1)
            if word == "concat":
                wide, width = width, width + 4
                self.layers[str(place)] = nn.Conv2d(wide, 4, 1)
                continue
            parts = [nn.Conv2d(width, wide, 3, padding=1, groups=groups), nn.BatchNorm2d(wide)]
            self.layers[str(place)], width = nn.Sequential(*parts), wide
        self.layers["last"] = nn.Conv2d(width, 8, 3)
        self.layers["dense"] = nn.Linear(8 * 16 if flat else 8, 5)

    def forward(self, x):
        x = self.layers["first"](x).relu()
        for place, word in enumerate(self.words):
            y = self.layers[str(place)](x)
            x = torch.cat([x, y.relu()], 1) if word == "concat" else (x + y).relu() if word == "add" else y.relu()
        x = self.layers["last"](x).sigmoid()
        return self.layers["dense"](x.flatten(1) if self.flat else x.mean((2, 3)))


def random_net(words, flat, seed=0):
    torch.manual_seed(seed)
    net = RandomNet(words, flat)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def zeroed(net, groups, kept, x):
    """Outputs of the net with the removed channels zeroed wherever a layer takes them in."""
    handles = []
    for group in groups:
        gone = [unit for unit in range(group.units) if unit not in kept[group.name].tolist()]
        for part in group.side("in"):

            def zero(_, arguments, index):
                y = arguments[0].clone()
                y[:, index] = 0
                return (y,)

            hook = functools.partial(zero, index=part.index[gone].flatten())
            handles.append(net.get_submodule(part.layer).register_forward_pre_hook(hook))
    outputs = net(x)
    for handle in handles:
        handle.remove()
    return outputs


@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(st.sampled_from(["plain", "add", "concat", "depthwise", "grouped", "widen"]), max_size=5),
    flat=st.booleans(),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_a_pruned_net_is_the_net_with_the_removed_channels_zeroed(words, flat, seed):
    net, x = random_net(words, flat, seed), torch.randn(2, 3, 6, 6)
    groups = [group for group in find_groups(net, (x,)) if not group.reason]
    assert groups
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in groups:
        count = int(torch.randint(1, group.units + 1, (1,), generator=generator))
        kept[group.name] = torch.randperm(group.units, generator=generator)[:count].sort().values
    small = removed(net, groups, kept)
    expected = zeroed(net, groups, kept, x)
    assert torch.allclose(small(x), expected, atol=1e-4, rtol=1e-3)
    assert torch.allclose(masked(net, groups, kept)(x), expected, atol=1e-4, rtol=1e-3)
    sizes = cut_sizes(layer_sizes(net, (x,)), groups, {name: len(units) for name, units in kept.items()})
    for name, size in layer_sizes(small, (x,)).items():
        assert sizes[name] == size


def test_every_channel_of_a_random_net_is_in_a_group():
    net = random_net(["add", "grouped", "depthwise", "concat", "widen"], True)
    groups = find_groups(net, (torch.randn(1, 3, 6, 6),))
    given = [part.layer for group in groups for part in group.side("out", "both")]
    owners = {n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))}
    assert set(given) == owners and all(not g.reason or g.producers == ("layers.dense",) for g in groups)
    grouped = next(group for group in groups if "layers.1.0" in group.producers)
    assert grouped.units == 2  # four groups of two channels


class Shuffled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3)
        self.third, self.fourth, self.dense = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu())
        x = self.third(x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2).relu())
        x = nn.functional.normalize(self.fourth(x), dim=1)
        return self.dense(x.mean((2, 3)))


def test_channels_that_cannot_go_have_a_reason():
    net, x = Shuffled().eval(), torch.randn(2, 1, 8, 8)
    reasons = {group.name: proven(net, group, (x,)).reason for group in find_groups(net, (x,))}
    assert "GroupNorm" in reasons["first"]
    assert "dependency graph" in reasons["second"]
    assert reasons["third"] == ""
    assert "dependency graph" in reasons["fourth"]
    assert "outputs of the net" in reasons["dense"]


# --- methods ----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Half of its eight hidden channels are of no use: small, never active, and not listened to."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.dense = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        return self.dense(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


def plain_model(samples=512):
    torch.manual_seed(0)
    net = Plain()
    with torch.no_grad():
        net.first.weight[::2] *= 0.01
        net.norm.weight[::2] = 0.01
        net.norm.bias[::2] = -0.1
        net.second.weight[:, ::2] *= 0.01
    inputs = torch.randn(samples, 1, 8, 8)
    split = Split("random", inputs, net.eval()(inputs).argmax(1).detach())
    model = Model("plain", "plain", net, (inputs[:1],), Data(split, split, split), "0", copy.deepcopy(net))
    return model


def job_of(method, model, *given):
    (one,) = chain.parse(method, ("keep=0.5", *given))
    refuse = getattr(discover.method(method), "refuse", lambda group, net: "")
    groups = [group for group in find_groups(model.trained, model.example_inputs) if not group.reason]
    groups = [group for group in groups if not refuse(group, model.trained)]
    return Job(model, groups, {group.name: group.units // 2 for group in groups}, one.configs[0], 0)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"random_dcp"}))
def test_channels_of_no_use_go(name, tmp_path):
    job = job_of(name, plain_model())
    job.select(discover.method(name), tmp_path / "chosen")
    assert job.kept(job.keeps)["first"].tolist() == [1, 3, 5, 7]


def test_random_channels_depend_on_the_seed_alone(tmp_path):
    jobs = [job_of("random_dcp", plain_model()) for _ in range(3)]
    jobs[2].seed = 1
    for place, job in enumerate(jobs):
        job.select(discover.method("random_dcp"), tmp_path / str(place))
    orders = [job.orders["second"].tolist() + job.orders["first"].tolist() for job in jobs]
    assert orders[0] == orders[1] != orders[2]


def test_lasso_leaves_as_many_as_wanted_and_finds_what_others_cannot_replace():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, 6, generator=generator) * torch.tensor([3.0, 0.1, 2.0, 0.1, 1.0, 0.1])
    for keep in (1, 2, 3):
        assert sorted(lasso.selected((z.T @ z / 400).double(), keep).tolist()) == [0, 2, 4][:keep]


def test_thinet_removes_what_adds_least_to_the_squared_sum():
    z = torch.randn(50, 7)
    order = thinet.removal_order((z.T @ z).double())
    gone = []
    for unit in order.tolist():
        costs = {c: z[:, [*gone, c]].sum(1).square().sum().item() for c in range(7) if c not in gone}
        assert costs[unit] == pytest.approx(min(costs.values()), rel=1e-4)
        gone.append(unit)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.dense = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 8, 1)])
            for _ in range(3)
        )

    def forward(self, x):
        x = self.first(x).relu()
        for inner, outer, shortcut in self.blocks:
            x = (outer(inner(x).relu()) + shortcut(x)).relu()
        return self.dense(x.mean((2, 3)))


def residual_model():
    torch.manual_seed(0)
    inputs = torch.randn(512, 1, 8, 8)
    split = Split("random", inputs, torch.randint(0, 10, (512,)))
    net = Residual().eval()
    return Model("residual", "residual", net, (inputs[:1],), Data(split, split, split), "0", copy.deepcopy(net))


def residual_job(method="dcp", *given):
    model = residual_model()
    job = job_of(method, model, *given)
    job.groups = [group for group in job.groups if group.name.startswith("blocks") and len(group.producers) == 1]
    return job


def test_losses_sit_on_the_outputs_of_blocks():
    job = residual_job()
    assert [[group.name for group in stage] for stage in discrimination.stages(job)] == [
        ["blocks.0.0"],
        ["blocks.1.0"],
        ["blocks.2.0"],
    ]
    found = [discrimination._stage(job, stage) for stage in discrimination.stages(job)]
    assert [stage.place for stage in found] == ["blocks.1.0", "blocks.2.0", ""]
    assert found[0].head.norm.num_features == 8 and found[2].head is None


def test_the_joint_loss_is_the_error_of_the_features_and_the_loss_of_the_stage():
    job = residual_job("dcp", "weight=0.7")
    stage = discrimination._stage(job, job.groups[:1])
    stage.head.eval()
    reference = copy.deepcopy(job.net)
    greedy = discrimination._Greedy(job, job.groups[0], stage, reference, False)
    x, y = job.data.train.inputs[:32], job.data.train.targets[:32]
    block = job.net.blocks[0]
    with torch.no_grad():
        block[1].weight[:, :5] = 0
        first = job.net.first(x).relu()
        features = (block[1](block[0](first).relu()) + block[2](first)).relu()
        wanted = reference.blocks[0][1](block[0](first).relu())
        got = block[1](block[0](first).relu())
        expected = (got - wanted).square().sum() / (2 * got.numel())
        expected += 0.7 * nn.functional.cross_entropy(stage.head(features), y)
        assert greedy._loss(x, y).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_first_channel_chosen_has_the_largest_gradient_and_only_chosen_ones_learn():
    job = residual_job("dcp", "rounds=16", "updates=3")
    group = job.groups[-1]
    stage = discrimination.Stage([group])
    layer = job.net.blocks[2][1]
    before = layer.weight.detach().clone()
    greedy = discrimination._Greedy(job, group, stage, copy.deepcopy(job.net), False)
    with torch.no_grad():
        layer.weight.zero_()
    gradient = greedy._gradients()[0]
    greedy.step = 0
    with torch.no_grad():
        layer.weight.copy_(before)
    order, _ = greedy.run(5, judge=False)
    assert order[0] == gradient.square().sum((0, 2, 3)).argmax() and len(set(order.tolist())) == 5
    for unit in range(16):
        assert layer.weight[:, unit].any() == (unit in order.tolist())
    assert not torch.equal(layer.weight[:, order], before[:, order])


def test_what_was_chosen_before_an_interruption_stays_and_the_rest_comes_out_the_same(tmp_path):
    method = discover.method("dcp")

    class Stopping:
        calls = 0
        stages = staticmethod(method.stages)

        @classmethod
        def rank(cls, job, groups):
            cls.calls += 1
            if cls.calls == 3:
                raise KeyboardInterrupt
            method.rank(job, groups)

    whole, cut = residual_job(), residual_job()
    whole.select(method, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        cut.select(Stopping, tmp_path / "cut")
    again = residual_job()
    again.select(method, tmp_path / "cut")
    assert all(torch.equal(order, again.orders[name]) for name, order in whole.orders.items())
    assert all(torch.equal(t, again.net.state_dict()[name]) for name, t in whole.net.state_dict().items())


def test_training_goes_on_where_it_was_interrupted(tmp_path):
    def tuning():
        model = residual_model()
        return Tuning(model.net, model.data.train, 4, 0.01, 0)

    whole, cut, again = tuning(), tuning(), tuning()
    whole.run("")

    def stop():
        if cut.step == 1:
            cut.step += 1
            save_state(tmp_path / "kept", cut.net, cut.optimizer, cut.step)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.run("", stop)
    again.run("", kept=tmp_path / "kept")
    assert all(torch.equal(t, again.net.state_dict()[name]) for name, t in whole.net.state_dict().items())


# --- plans and builds -------------------------------------------------------------------------------------

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
def test_planned_bytes_are_what_is_left_and_the_wish_is_met(name, small, tmp_path):
    for wish in ("macs=0.6", "bytes=0.6", "keep=0.5"):
        model, made, done = planned(small, tmp_path / wish, name, wish, "epochs=0.5", "adds=true")
        for entry in made.entries:
            layer = done.net.get_submodule(entry.layers[0])
            assert parameter_bytes(layer) == entry.predicted_bytes
            assert bool(entry.pruned) == (entry.predicted_bytes < entry.original_bytes)
        left = layer_sizes(done.net, model.example_inputs).values()
        assert made.pruning.macs[1] == sum(size.macs for size in left)
        assert made.pruning.bytes[1] == sum(size.bytes for size in left) == sum(e.predicted_bytes for e in made.entries)
        what, _, value = wish.partition("=")
        groups = [group for group in made.pruning.groups if not group.reason]
        if what == "keep":
            assert sum(g.keep for g in groups) <= 0.5 * sum(g.channels for g in groups) + len(groups)
        else:
            before, after = getattr(made.pruning, what)
            assert float(value) - 0.12 < after / before <= float(value)
        again = checkpoint.restore(model.net, done.checkpoint)
        assert torch.equal(again(model.data.test.inputs), done.net(model.data.test.inputs))


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


def test_two_wishes_are_refused():
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


def test_a_wish_for_time_is_met_by_trial(small, tmp_path):
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
    assert 0.2 < trial.meter("latency", "executorch", "android-arm64", model)(model.net) < 5
    assert trial.meter("instructions", "executorch", "android-arm64", model)(model.net) == pytest.approx(1, rel=0.01)
