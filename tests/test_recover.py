"""Recovery: codes stay, codebooks learn; it resumes, and is undone where it does harm."""

import copy

import pytest
import torch
from torch import nn

from edgecomp import engines, recover
from edgecomp.chain import parse
from edgecomp.errors import UsageError
from edgecomp.layers import CodebookConv2d, CodebookEmbedding, CodebookLinear, CodeFormat, checkpoint, ops
from edgecomp.layers.twins import twin
from edgecomp.records import Compressed, Data, Model, Plan, Split
from edgecomp.training import distill, trainable
from edgecomp.training.distill import Distillation, Task, train_net
from edgecomp.training.outputs import OutputLoss, divergence
from edgecomp.util.workspace import Workspace


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.dense, self.head = nn.Conv2d(1, 8, 3), nn.Linear(288, 64), nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.dense(self.conv(x).relu().flatten(1)).relu())


@pytest.fixture
def model():
    net = Net().eval()
    inputs = torch.randn(700, 1, 8, 8)
    split = Split("random", inputs, net(inputs).argmax(1).detach())
    return Model("net", "net.py", net, (inputs[:1],), Data(split, split, split), "0" * 64)


@pytest.fixture
def coded(model):
    """The net with its dense layer at 1 bit a weight."""
    net = copy.deepcopy(model.net)
    with torch.no_grad():
        net.dense = parse("pq", ("s=4", "fit=plain"))[0].compress(net.dense, None, 0)
    return net


@pytest.fixture
def factored(coded):
    """The same with its head factored."""
    with torch.no_grad():
        coded.head = parse("svd", ("rank=3", "least_rank=1"))[0].compress(coded.head, None, 0)
    return coded


def filled(format):
    """A dense layer of two stages with random codes, codewords, scales and biases."""
    layer = CodebookLinear(format, bias=True)
    codes = torch.randint(0, 5, (2, format.blocks, format.lanes))
    layer.store(codes, torch.randn(2, 2, 5, 3), torch.rand(13), torch.randn(13))
    return layer


def plan(epochs=3.0):
    return Plan(
        model="net.py",
        model_sha256="0" * 64,
        target="t",
        runtime="r",
        method="pq",
        seed=0,
        budget_bytes=None,
        max_drop_points=None,
        recover_epochs=epochs,
        entries=(),
    )


def test_divergence_falls_and_codes_stay(model, coded, tmp_path):
    recovered, note = train_net(model, coded, 3, 0, tmp_path / "kept.safetensors", codes=False)
    assert "→" in note and "undone" not in note
    wanted = model.net(*model.data.test.inputs)
    before, after = (divergence(net(*model.data.test.inputs), wanted).item() for net in (coded, recovered))
    assert after < 0.7 * before
    assert torch.equal(recovered.dense.codes, coded.dense.codes)
    assert not torch.equal(recovered.dense.codebook, coded.dense.codebook)
    assert torch.equal(recovered.conv.weight, coded.conv.weight)
    assert not torch.equal(recovered.conv.bias, coded.conv.bias)


def test_codes_that_learn_lose_less(model, tmp_path):
    """What is stored is what was trained: the decoded net has the loss that is told."""
    coded = copy.deepcopy(model.net)
    with torch.no_grad():
        method = parse("pq", ("s=4", "k=4", "fit=plain", "codebooks=shared"))[0]
        coded.dense = method.compress(coded.dense, None, 0)
    wanted = model.net(*model.data.test.inputs)
    losses = []
    for codes in (False, True):
        recovered, note = train_net(model, coded, 100, 0, tmp_path / f"{codes}.safetensors", codes=codes)
        losses.append(divergence(recovered(*model.data.test.inputs), wanted).item())
        assert f"→ {losses[-1]:.4f}" in note
    moved = (recovered.dense.unpacked() != coded.dense.unpacked()).float().mean()
    assert losses[1] < 0.8 * losses[0] and 0.01 < moved < 0.9


@pytest.mark.parametrize("axis", [0, 1])
def test_codes_stay_until_gradients_move_them(axis):
    """Also those of several stages, of which another choice might be nearer."""
    format = CodeFormat(rows=13, columns=12, k=5, s=3, axis=axis, groups=2, stages=2, half=False, scaled=True)
    layer = filled(format)
    learned, stored = trainable.LearnedCodes(layer), copy.deepcopy(layer)
    x = torch.randn(4, 12)
    assert torch.allclose(learned(x), layer(x), atol=1e-5)
    learned.store_in(stored)
    assert torch.allclose(stored.decode(), layer.decode(), atol=1e-6)


def test_layers_with_one_weight_learn_as_one():
    """An embedding and the layer that multiplies with it, and two layers whose biases differ."""
    table = CodebookEmbedding(CodeFormat(rows=9, columns=8, k=4, s=4), False)
    table.store(torch.randint(0, 4, (1, 2, 9)), torch.randn(1, 1, 4, 4), None, None)
    head, other = (twin(table, nn.Linear(8, 9, bias)) for bias in (False, True))
    dense = CodebookLinear(CodeFormat(rows=9, columns=8, k=4, s=4), False)
    dense.store(torch.randint(0, 4, (1, 2, 9)), torch.randn(1, 1, 4, 4), None, None)
    again = twin(dense, nn.Linear(8, 9))
    made = trainable.trainable(nn.ModuleList([table, head, other, dense, again]), codes=True)
    assert made[0].words is made[1].words is made[2].words and made[0].index is made[2].index
    assert [type(one) for one in made] == 3 * [trainable.TrainableCodes] + 2 * [trainable.LearnedCodes]
    assert made[3].latent is made[4].latent and made[3].words is not made[0].words


def test_the_whole_net_learns_where_layers_were_factorized(model, factored, tmp_path):
    recovered, note = train_net(model, factored, 3, 0, tmp_path / "kept.safetensors", codes=False)
    assert "→" in note and "undone" not in note
    assert torch.equal(recovered.dense.codes, factored.dense.codes)
    assert not torch.equal(recovered.conv.weight, factored.conv.weight)
    assert not torch.equal(recovered.head[0].weight, factored.head[0].weight)
    rates = {name: rate for name, _, rate in trainable.free_parameters(trainable.trainable(factored))}
    assert rates["head.0.weight"] < rates["conv.weight"] < rates["dense.words"]


def test_a_run_that_diverges_goes_back_and_on_more_slowly(model, factored, tmp_path, monkeypatch):
    for name in ("_RATE", "_LAYER_RATE", "_INSERTED_RATE"):
        monkeypatch.setattr(trainable, name, 1000 * getattr(trainable, name))
    monkeypatch.setattr(distill, "_LEAST_LOSS", 0.001)
    recovered, note = train_net(model, factored, 60, 0, tmp_path / "kept.safetensors")
    assert "went back" in note and "undone" not in note
    assert all(tensor.isfinite().all() for tensor in recovered.state_dict().values())


@pytest.mark.parametrize("codes", [False, True])
def test_an_interrupted_recovery_ends_the_same(model, factored, tmp_path, codes):
    def run(kept):
        return Distillation(Task(model.net, factored, model.data.train, 3, 0, OutputLoss(1), codes), kept)

    whole, first = run(tmp_path / "a"), run(tmp_path / "b")
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    first.save()
    second = run(tmp_path / "b")
    assert second.step == 2
    for _ in range(2):
        second.advance()
    one, other = whole.result().state_dict(), second.result().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_harm_is_undone(model, coded, tmp_path, monkeypatch):
    monkeypatch.setattr(trainable, "_RATE", 1e6)
    kept, note = train_net(model, coded, 3, 0, tmp_path / "kept.safetensors")
    assert kept is coded and "undone" in note


def test_without_data_it_says_what_is_missing(model, coded, tmp_path):
    bare = Model("net", "net.py", model.net, model.example_inputs, None, "0" * 64)
    path = tmp_path / "compressed.safetensors"
    checkpoint.save(coded, path)
    compressed = Compressed(coded, path, {}, {}, "data-free", 0.0)
    with Workspace(tmp_path / "out") as work, pytest.raises(UsageError, match="data"):
        recover.recover(bare, plan(), compressed, work)


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_are_those_of_the_reference_decoder(axis):
    format = CodeFormat(rows=13, columns=10, k=5, s=3, axis=axis, groups=2, stages=2, half=False, scaled=True)
    layer = filled(format)
    twin, x = trainable.TrainableCodes(layer), torch.randn(4, 10)
    assert torch.allclose(twin(x), layer(x), atol=1e-5)
    codebook = layer.codebook.clone().requires_grad_()
    matrix = ops.decode(layer.codes, codebook, layer.scale, 13, 10, axis, format.tile)
    (x @ matrix.T).square().sum().backward()
    (twin(x) - twin.bias).square().sum().backward()
    expected = codebook.grad.transpose(2, 3).reshape(-1, 3)
    assert torch.allclose(twin.words.grad, expected, rtol=1e-4, atol=1e-3)


def test_trainable_twins_of_convolutions_and_embeddings_compute_the_same():
    geometry = {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 0], "dilation": [1, 1]}
    conv = CodebookConv2d(CodeFormat(rows=6, columns=24, k=4, s=4), True, geometry)
    conv.store(torch.randint(0, 4, (1, 6, 6)), torch.randn(1, 1, 4, 4), None, torch.randn(6))
    x = torch.randn(2, 4, 7, 7)
    assert torch.allclose(trainable.TrainableCodes(conv)(x), conv(x), atol=1e-5)
    table = CodebookEmbedding(CodeFormat(rows=9, columns=8, k=4, s=4), False)
    table.store(torch.randint(0, 4, (1, 2, 9)), torch.randn(1, 1, 4, 4), None, None)
    index = torch.randint(0, 9, (3, 2))
    assert torch.allclose(trainable.TrainableCodes(table)(index), table(index), atol=1e-5)


def test_ray_trains_as_this_process_does_though_a_node_dies(model, coded, two_nodes, monkeypatch, tmp_path):
    import ray

    from edgecomp.engines import ray_train

    cluster, second = two_nodes
    train, killed_at = ray_train.train, []

    def killing(loop, task, kept, workers, told):
        def tell(step, loss):
            if step >= 50 and not killed_at:
                cluster.remove_node(second, allow_graceful=False)
                killed_at.append(step)
            told(step, loss)

        train(loop, task, kept, workers, tell)

    monkeypatch.setattr(ray_train, "train", killing)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")  # until it no longer waits for a second node
    epochs = 400  # 800 steps of 2 × 128 samples
    # Codes that learn make much of the last digits, in which sums of two halves differ.
    here, _ = train_net(model, coded, epochs, 0, tmp_path / "here", codes=False)
    with engines.opened("ray", cluster.address) as engine:
        assert engine.workers == 2
        there, note = train_net(model, coded, epochs, 0, tmp_path / "there", engine, codes=False)
        assert killed_at[0] < 800 and sum(node["Alive"] for node in ray.nodes()) == 1
    assert "undone" not in note
    for name, value in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[name], value, rtol=1e-2, atol=1e-3)
