"""Any net: the canonical net computes what the user's module does, and so do the files that come of it."""

import copy
import functools
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecomp import discover
from edgecomp.compress import compress
from edgecomp.export import export, file_outputs, module_outputs, proof_inputs
from edgecomp.fitting.calibration import gather
from edgecomp.graph.canonical import canonical, given_outputs, net_outputs, records_for
from edgecomp.graph.given import Given, distance
from edgecomp.graph.precision import other_precision, single
from edgecomp.graph.trace import batch_of
from edgecomp.layers.codebook import Coded
from edgecomp.layers.transposed import TransposedConv2d
from edgecomp.load import load
from edgecomp.pipeline import make_plan
from edgecomp.records import Request
from edgecomp.util.workspace import Workspace

NETS = {path.stem: path for path in sorted(Path(__file__).with_name("nets").glob("*.py"))}
RUNTIMES = ("executorch", "litert")
FILES = ("efficientnet", "bert", "vocoder", "detector", "tagger", "unet", "cells", "streams", "feature_maps")


@functools.cache
def loaded(path):
    return load(Request(model=str(path)))


def off(given_net, net, examples):
    """The distance of the canonical net's outputs from the module's, over three records."""
    pairs = ((net_outputs(net, record), given_outputs(given_net, record)) for record in records_for(examples))
    return max(distance(got, wanted) for got, wanted in pairs)


def net_of(module, *inputs):
    """The canonical net of a module that computes the same, and by how much it is off."""
    examples = tuple(map(single, inputs))
    given_net = Given(module.eval(), (), tuple(x.dtype for x in inputs))
    net = canonical(given_net, examples, records_for(examples), "net")
    return net, off(given_net, net, examples)


def layers_of(net):
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, kinds)}


def reasons_of(net):
    return [layer.reason for layer in net.modules() if hasattr(layer, "reason")]


def compressed_file(model, folder, runtime, method="int8", chosen=()):
    """The compressed net, and the file that it has become and been compared with."""
    request = Request(target="linux-x86_64", on="none", method=method, settings=chosen, runtime=runtime, out=folder)
    with Workspace(folder) as work:
        plan = make_plan(model, request, work)
        compressed = compress(model, plan, work)
        return compressed.net, export(model, plan, compressed, work)


# --- whole nets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NETS.values(), ids=NETS)
def test_nets_that_people_ship(path):
    model = loaded(path)
    limit = 1e-2 if other_precision(model.given) else 1e-4
    assert off(model.given, model.net, model.example_inputs) < limit
    assert layers_of(model.net)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", FILES)
def test_files_compute_what_the_module_does(name, runtime, tmp_path):
    model = loaded(NETS[name])
    _, artifact = compressed_file(model, tmp_path, runtime)
    assert artifact.proof.codes_stored
    inputs, _ = proof_inputs(model)
    some = max(1, 4 // batch_of(model.example_inputs))  # records
    inputs = tuple(x[: some * len(example)] for x, example in zip(inputs, model.example_inputs, strict=True))
    assert distance(file_outputs(model, runtime, artifact.path, inputs), module_outputs(model, inputs)) < 0.05
    left = [row.name for row in artifact.layers if row.kind != "other" and not row.method and not row.reason]
    assert not left


# --- forms ------------------------------------------------------------------------------------------------


CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (1, 4, 9)),
    (nn.Conv1d(4, 6, 4, padding="same", dilation=2), (1, 4, 9)),
    (nn.Conv1d(4, 8, 3, groups=2, bias=False), (1, 4, 9)),
    (nn.Conv1d(4, 6, 3), (4, 9)),  # a sample that is not in a batch
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (1, 4, 9, 8)),
    (nn.Conv2d(4, 4, 4, padding="same", groups=4), (1, 4, 7, 7)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (1, 4, 7, 7)),
    (nn.Conv3d(3, 5, 3, stride=(1, 2, 1), padding=(1, 0, 1)), (1, 3, 5, 6, 7)),
    (nn.Conv3d(3, 5, (2, 3, 3), padding="same", dilation=(2, 1, 1)), (1, 3, 5, 6, 7)),
    (nn.Conv3d(3, 5, 1, stride=2), (1, 3, 5, 6, 7)),
    (nn.Conv3d(4, 6, 3, padding=1, groups=2), (1, 4, 5, 6, 7)),
    (nn.Conv3d(4, 4, (3, 1, 1), groups=4), (1, 4, 5, 6, 7)),
    (nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), (1, 4, 7)),
    (nn.ConvTranspose1d(4, 6, 3, stride=3), (1, 4, 7)),
    (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 3), bias=False), (1, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (1, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=1, padding=1, dilation=2), (1, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=(3, 2), padding=(0, 1)), (1, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (1, 4, 5, 6)),
    (nn.ConvTranspose1d(4, 4, 4, stride=2, padding=1, groups=4), (1, 4, 7)),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=lambda x: str(x).replace(", kernel_size", "")[:60])
def test_convolutions_become_plain_ones(layer, shape):
    net, worst = net_of(layer, torch.randn(shape))
    assert worst < 1e-5
    assert [type(layer) for layer in layers_of(net).values()] == [nn.Conv2d]
    assert not reasons_of(net)


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.ConvTranspose3d(4, 4, 2), (1, 4, 5, 5, 5), "transposed convolutions over three dimensions"),
        (nn.ConvTranspose2d(4, 4, 2, padding=2), (1, 4, 5, 5), "cuts off more"),
    ],
    ids=str,
)
def test_convolutions_that_stay_say_why(layer, shape, reason):
    net, worst = net_of(nn.Sequential(layer), torch.randn(shape))
    assert worst < 1e-5
    assert not layers_of(net)
    assert [reason in said for said in reasons_of(net)] == [True]


@pytest.mark.parametrize(
    "stride, padding, extra, groups, dilation", [(2, 1, 1, 1, 1), (1, 0, 0, 3, 2), (3, 0, 2, 1, 1)]
)
def test_transposed_convolutions_can_be_torchs_own_again(stride, padding, extra, groups, dilation):
    layer = nn.ConvTranspose2d(3, 6, 3, stride, padding, extra, groups, dilation=dilation)
    net, _ = net_of(layer, torch.randn(1, 3, 5, 6))
    (made,) = (part for part in net.modules() if isinstance(part, TransposedConv2d))
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(made.plain()(x), layer(x))
    torch.testing.assert_close(made.plain().weight, layer.weight)


class Product(nn.Module):
    """A function of an input and a weight."""

    def __init__(self, call, *shape):
        super().__init__()
        self.call, self.weight, self.bias = call, nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        return self.call(x, self.weight, self.bias)


@pytest.mark.parametrize(
    ("call", "weight", "matrix"),
    [
        (lambda x, w, b: x @ w, (5, 6), (6, 5)),
        (lambda x, w, b: x @ w.T + b, (6, 5), (6, 5)),
        (lambda x, w, b: w @ x, (3, 4), (3, 4)),
        (lambda x, w, b: torch.addmm(b, x.flatten(0, 1), w), (5, 6), (6, 5)),
        (lambda x, w, b: torch.mm(x.flatten(0, 1), w), (5, 6), (6, 5)),
        (lambda x, w, b: torch.einsum("nti,oi->nto", x, w), (6, 5), (6, 5)),
        (lambda x, w, b: torch.einsum("nti,ihk->nhtk", x, w), (5, 2, 3), (6, 5)),
        (lambda x, w, b: torch.einsum("nti,tio->no", x, w), (4, 5, 6), (6, 20)),
        (lambda x, w, b: torch.einsum("nti,i->nt", x, w), (5,), (1, 5)),
        (lambda x, w, b: F.linear(x, w.softmax(-1), b.exp()), (6, 5), (6, 5)),
    ],
)
def test_products_become_dense_layers(call, weight, matrix):
    net, worst = net_of(Product(call, *weight), torch.randn(1, 4, 5))
    assert worst < 1e-5
    assert [tuple(layer.weight.shape) for layer in layers_of(net).values()] == [matrix]


def test_one_weight_in_two_forms():
    def call(x, w, b):
        return torch.einsum("nti,io->nto", x, w) - torch.einsum("nti,oi->nto", x, w)

    net, worst = net_of(Product(call, 5, 5), torch.randn(1, 4, 5))
    assert worst < 1e-5
    assert len(layers_of(net)) == 2


def test_bilinear_layers_become_dense_ones():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Bilinear(4, 5, 3)

        def forward(self, x, y):
            return self.layer(x, y)

    net, worst = net_of(Pair(), torch.randn(1, 4), torch.randn(1, 5))
    assert worst < 1e-5
    assert [tuple(layer.weight.shape) for layer in layers_of(net).values()] == [(15, 4)]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_one_size_become_embeddings(mode):
    net, worst = net_of(nn.Sequential(nn.EmbeddingBag(20, 6, mode=mode)), torch.randint(0, 20, (1, 5)))
    assert worst < 1e-5
    assert [type(layer) for layer in layers_of(net).values()] == [nn.Embedding]


@pytest.mark.parametrize("call", [lambda x, w, b: torch.einsum("ntui,tio->ntuo", x, w), lambda x, w, b: x @ w])
def test_products_with_a_matrix_for_each_row_stay(call):
    net, worst = net_of(Product(call, 4, 5, 6), torch.randn(1, 4, 1, 5))
    assert worst < 1e-5
    assert not layers_of(net)
    assert reasons_of(net)


# --- what is shared, unused, or of another precision ------------------------------------------------------

TIED = """
import torch
from torch import nn
from torch.nn import functional as F
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(60, 32), nn.Linear(32, 60)
        self.out.weight = self.words.weight
        self.norm, self.second, self.aux = nn.LayerNorm(32), nn.Parameter(torch.randn(60)), nn.Linear(32, 5)
    def forward(self, ids):
        h = self.norm(self.words(ids))
        return self.out(h), F.linear(h, self.words.weight, self.second)
def build():
    torch.manual_seed(0)
    return Net()
def example_inputs(): return (torch.arange(7)[None],)
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_weight_of_three_layers_is_stored_once(runtime, tmp_path, capsys):
    (tmp_path / "tied.py").write_text(TIED)
    model = load(Request(model=str(tmp_path / "tied.py")))
    assert "not in the file: aux.weight, aux.bias" in " ".join(capsys.readouterr().err.split())
    assert len(layers_of(model.net)) == 3
    settings = ("k=16", "kinds=dense,embedding")
    net, artifact = compressed_file(model, tmp_path / "out", runtime, "kmeans", settings)
    coded = [layer for layer in net.modules() if isinstance(layer, Coded)]
    assert len(coded) == 3
    assert len({layer.codes.data_ptr() for layer in coded}) == 1
    assert artifact.path.read_bytes().count(coded[0].codes.numpy().tobytes()) == 1
    stored = [c.data for c in discover.runtime(runtime).constants(artifact.path)]
    assert coded[0].codes.numpy().tobytes() in stored


def test_statistics_are_of_all_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    module = Twice().eval()
    net, _ = net_of(module, torch.randn(1, 4))
    assert net.calls == {"layer": 2}
    x = torch.randn(64, 4)
    seen = torch.cat([x, module.layer(x).relu()]).detach()
    inputs = gather(net, net.layer, x)
    assert inputs.rows == 128
    torch.testing.assert_close(inputs.mean, seen.mean(0))
    torch.testing.assert_close(inputs.second_moment, seen.T @ seen / 128)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_fp32(precision):
    module = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4)).to(precision)
    net, worst = net_of(module, torch.randn(1, 16, dtype=precision))
    assert worst < {torch.bfloat16: 0.02, torch.float16: 2e-3, torch.float64: 1e-6}[precision]
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_statistics_of_a_batch_are_those_of_the_examples_batch():
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), norm).eval()
    net, worst = net_of(module, torch.randn(1, 2, 6, 6))
    assert (net.batch, worst < 1e-5) == (1, True)
    x = torch.randn(3, 2, 6, 6)
    torch.testing.assert_close(net(x), torch.cat([module(sample[None]) for sample in x]))


def test_folded_weights_are_in_use():
    net, _ = net_of(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), torch.randn(1, 2, 6, 6))
    assert {"0.weight", "0.bias", "1.weight", "1.bias"} <= net.used


def test_names_that_the_canonical_net_has_itself():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.code, self.batch = nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)
            self.calls = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return self.batch(self.code(x)) + self.calls

    net, worst = net_of(Named(), torch.randn(3, 4))
    assert worst < 1e-5
    assert list(layers_of(net)) == ["code_"]
    assert net.batch == 3


def test_copies_compute_the_same():
    net, _ = net_of(nn.Sequential(nn.Linear(4, 4), nn.Hardswish(), nn.Linear(4, 2)), torch.randn(1, 4))
    x = torch.randn(5, 4)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), net(x))
        assert other.digest() == net.digest()


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(12, 3)), nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        return F.linear(x, self.a @ self.b)


def test_a_product_of_constants_is_one():
    """A layer called with a constant would be merged with its neighbours by a converter."""
    net, difference = net_of(LowRank(), torch.randn(2, 8))
    assert [layer.weight.shape for layer in layers_of(net).values()] == [(12, 8)] and difference < 1e-5
