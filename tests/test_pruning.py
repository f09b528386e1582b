"""What each method of channel pruning sees in channels."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgecomp import chain, discover
from edgecomp.graph.given import Given
from edgecomp.methods import lasso, thinet
from edgecomp.pruning import discrimination
from edgecomp.pruning.groups import find_groups
from edgecomp.pruning.state import PruningState
from edgecomp.pruning.tuning import OwnLoss, Tuning, batch
from edgecomp.records import Data, Model, Split

METHODS = [name for name in discover.method_names() if discover.prunes(name)]


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
    model = Model("plain", "plain", net, (inputs[:1],), Data(split, split, split), "0", Given(copy.deepcopy(net)))
    return model


def job_of(method, model, *given):
    (one,) = chain.parse(method, ("keep=0.5", *given))
    refuse = getattr(discover.method(method), "refuse", lambda group, net: "")
    groups = [group for group in find_groups(model.trained, model.example_inputs) if not group.reason]
    groups = [group for group in groups if not refuse(group, model.trained)]
    return PruningState(model, groups, {group.name: group.units // 2 for group in groups}, one.configs[0], 0)


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


def test_lasso_keeps_what_coordinate_descent_does():
    """At the penalty where the last of the wanted units has come in, both have the same units."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(300, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
    gram = (z.T @ z / 300).double()
    path = [_lasso(gram, penalty) for penalty in np.geomspace(gram.sum(1).abs().max(), 1e-2, 60)]
    for keep in range(1, 11):
        units = lasso.selected(gram, keep)
        assert len(set(units.tolist())) == keep
        sets = [set(beta.nonzero()[0].tolist()) for beta in path if (beta != 0).sum() == keep]
        assert not sets or set(units.tolist()) in sets


def _lasso(gram, penalty):
    """Coordinate descent on βᵀGβ/2 − βᵀG1 + λ‖β‖₁."""
    gram, beta = gram.numpy(), np.zeros(len(gram))
    wanted = gram.sum(1)
    for _ in range(300):
        before = beta.copy()
        for unit in range(len(beta)):
            left = wanted[unit] - gram[unit] @ beta + gram[unit, unit] * beta[unit]
            beta[unit] = np.sign(left) * max(abs(left) - penalty, 0) / gram[unit, unit]
        if np.abs(beta - before).max() < 1e-7:
            break
    return beta


def test_lasso_of_equal_and_dead_channels():
    z = torch.randn(100, 5, generator=torch.Generator().manual_seed(2)).double()
    z[:, 1], z[:, 3] = z[:, 0], 0
    gram = z.T @ z / 100
    for keep in range(1, 6):
        assert len(set(lasso.selected(gram, keep).tolist())) == keep
    assert 3 not in lasso.selected(gram, 4).tolist() and {0, 1} <= set(lasso.selected(gram, 2).tolist())


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
    return Model("residual", "residual", net, (inputs[:1],), Data(split, split, split), "0", Given(copy.deepcopy(net)))


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
    (x,), y = job.data.train.take(slice(32)), job.data.train.targets[:32]
    block = job.net.blocks[0]
    with torch.no_grad():
        block[1].weight[:, :5] = 0
        first = job.net.first(x).relu()
        features = (block[1](block[0](first).relu()) + block[2](first)).relu()
        wanted = reference.blocks[0][1](block[0](first).relu())
        got = block[1](block[0](first).relu())
        expected = (got - wanted).square().sum() / (2 * got.numel())
        expected += 0.7 * nn.functional.cross_entropy(stage.head(features), y)
        assert greedy._loss((x,), y).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_first_channel_chosen_has_the_largest_gradient_and_only_chosen_ones_learn():
    job = residual_job("dcp", "rounds=16", "updates=3")
    group = job.groups[-1]
    stage = discrimination.Stage([group], job.loss)
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
    def tuning(**more):
        model = residual_model()
        return Tuning(model.net, model.data.train, 4, 0.01, 0, OwnLoss(model, model.net), **more)

    def stop():
        if cut.step == 1:
            cut.step += 1
            cut.save()
            raise KeyboardInterrupt

    kept = tmp_path / "kept"
    whole, cut, again = tuning(), tuning(after=stop, kept=kept), tuning(kept=kept)
    whole.run("")
    with pytest.raises(KeyboardInterrupt):
        cut.run("")
    again.run("")
    assert all(torch.equal(t, again.net.state_dict()[name]) for name, t in whole.net.state_dict().items())


# --- nets whose outputs are no classes --------------------------------------------------------------------


def other_model(targets):
    """The plain net with an output that is no choice of a class, and targets made from it."""
    model = plain_model(256)
    inputs = model.data.train.inputs
    outputs = model.net(*inputs).detach()
    split = Split("random", inputs, targets(outputs))
    return replace(model, data=Data(split, split, split))


@pytest.mark.parametrize("targets", [lambda y: y, lambda y: None, lambda y: y[:, :1]])
def test_other_nets_learn_from_the_original(targets):
    model = other_model(targets)
    own, worse = OwnLoss(replace(model, data=replace(model.data, metric="mse")), model.net), copy.deepcopy(model.net)
    with torch.no_grad():
        worse.dense.weight.mul_(0.5)
    x, y = batch(model.data.train, 0, 0)
    assert own(model.net, x, y).item() == pytest.approx(0, abs=1e-6) and own(worse, x, y) > 1e-3
    assert own.labels is False


def test_discrimination_without_classes(tmp_path):
    job = job_of("dcp", other_model(lambda y: y), "choosing=0.1", "rounds=2")
    assert all(discrimination._stage(job, stage).head is None for stage in discrimination.stages(job))
    job.select(discover.method("dcp"), tmp_path / "chosen")
    assert len(job.kept(job.keeps)["first"]) == 4
