"""Layers of 8, 4 and 2 bits: what they round to, what the exported file holds and computes, and that nets train around
them."""

import copy
import functools

import pytest
import torch
from running import run_on_host
from torch import nn

from edgecomp import chain, discover, export
from edgecomp.compress import compress
from edgecomp.errors import BuildError, UsageError
from edgecomp.fitting import calibration, integers
from edgecomp.layers import Factored, QuantizedConv2d, checkpoint
from edgecomp.layers.matrix import weight_matrix
from edgecomp.load import load
from edgecomp.plan import plan
from edgecomp.records import Model, Request
from edgecomp.util.workspace import Workspace

LAYERS = {
    "dense": (lambda: nn.Linear(64, 33), (64,)),
    "dense, odd": (lambda: nn.Linear(65, 33), (65,)),
    "dense over a sequence": (lambda: nn.Linear(16, 32, bias=False), (3, 16)),
    "conv": (lambda: nn.Conv2d(3, 17, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2)), (3, 9, 9)),
    "conv 1x1": (lambda: nn.Conv2d(16, 32, 1), (16, 9, 9)),
    "conv 1x1 strided": (lambda: nn.Conv2d(16, 32, 1, stride=2), (16, 9, 9)),
    "conv in groups": (lambda: nn.Conv2d(16, 32, 3, groups=4, padding=1), (16, 9, 9)),
    "conv depthwise": (lambda: nn.Conv2d(16, 32, 3, groups=16), (16, 9, 9)),
    "conv of one channel": (lambda: nn.Conv2d(1, 16, 5), (1, 9, 9)),
}
ONLY_STATIC = {"conv depthwise", "conv of one channel"}


def rounded(layer, activations, x=None, method="int8"):
    """The integer layer, with its ranges fixed by x if they are static."""
    after = chain.parse(method, (f"activations={activations}",))[0].compress(layer, None, 0)
    if activations == "static":
        calibration.fix_ranges(nn.Sequential(layer), layer, after, x)
    return after


def relative(got, expected):
    return float((got - expected).norm() / expected.norm())


@pytest.fixture(params=discover.runtime_names())
def runtime(request):
    """The name of a runtime, for all of them."""
    return request.param


def write(runtime, net, x, folder):
    """Exports a net; the path of its file."""
    path = folder / f"m{discover.runtime(runtime).SUFFIX}"
    discover.runtime(runtime).export(net.eval(), (x[:1],), path)
    return path


CASES = [(r, m, a) for r in discover.runtime_names() for m in ("int8", "int4", "int2") for a in ("dynamic", "static")]
DENSE = {"dense", "dense, odd", "dense over a sequence"}
CONVOLUTIONS = {"conv", "conv 1x1", "conv 1x1 strided", "conv in groups"}
TAKEN = {  # the kinds that a runtime has right kernels for
    ("executorch", "int8", "dynamic"): DENSE | CONVOLUTIONS,
    ("executorch", "int8", "static"): DENSE | CONVOLUTIONS | ONLY_STATIC,
    ("executorch", "int4", "dynamic"): DENSE,
    ("executorch", "int4", "static"): {"dense", "dense over a sequence"},
    ("executorch", "int2", "dynamic"): set(),
    ("executorch", "int2", "static"): set(),
    ("litert", "int8", "dynamic"): DENSE | CONVOLUTIONS,
    ("litert", "int8", "static"): DENSE | CONVOLUTIONS | ONLY_STATIC,
    ("litert", "int4", "dynamic"): DENSE | CONVOLUTIONS,
    ("litert", "int4", "static"): {"dense", "dense over a sequence"},
    ("litert", "int2", "dynamic"): DENSE,
    ("litert", "int2", "static"): {"dense", "dense over a sequence"},
}


class SideBySide(nn.Module):
    """Layers that have nothing to do with each other: an input for each, and the outputs of all in a row."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs):
        return torch.cat([layer(x).flatten(1) for layer, x in zip(self.layers, inputs, strict=True)], 1)


@pytest.fixture(scope="module")
@torch.no_grad()
def side_by_side(tmp_path_factory):
    """`side_by_side(runtime, method, activations)`: all kinds of layers that it takes, exported in one file and proven
    there. By kind the layer, the integer one, its inputs, and what the runtime gives for them."""

    @functools.cache
    def made(runtime, method, activations):
        torch.manual_seed(0)
        found = {}
        for kind in [kind for kind in LAYERS if kind in TAKEN[runtime, method, activations]]:
            make, shape = LAYERS[kind]
            layer, x = make(), torch.randn(8, *shape) * torch.rand(8, *[1] * len(shape))
            found[kind] = layer, rounded(layer, activations, x, method), x
        if not found:
            return {}
        net, inputs = SideBySide([after for _, after, _ in found.values()]).eval(), [x for *_, x in found.values()]
        path = tmp_path_factory.mktemp("side") / f"m{discover.runtime(runtime).SUFFIX}"
        examples = tuple(x[:1] for x in inputs)
        discover.runtime(runtime).export(net, examples, path)
        assert export._prove(Model("m", "m", net, examples, None, ""), runtime, net, path).codes_stored
        sizes = [after(x[:1]).numel() for _, after, x in found.values()]
        got = run_on_host(runtime, path, [x[:, None] for x in inputs], sum(sizes)).split(sizes, 1)
        return {kind: (*layers, outputs) for (kind, layers), outputs in zip(found.items(), got, strict=True)}

    return made


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "runtime,method,activations",
    [pytest.param(*case, marks=pytest.mark.xdist_group(f"integers {case[0]}")) for case in CASES],
)
@torch.no_grad()
def test_the_exported_layer_holds_integers_and_gives_the_same_outputs(runtime, kind, method, activations, side_by_side):
    taken = kind in TAKEN[runtime, method, activations]
    refused = chain.parse(method, (f"activations={activations}",), runtime)[0].refuse(LAYERS[kind][0]())
    assert bool(refused) != taken
    if taken:
        layer, after, x, got = side_by_side(runtime, method, activations)[kind]
        expected = after(x).flatten(1)
        assert relative(got, expected) < (1e-5 if activations == "dynamic" else 1e-3)  # levels of outputs, very seldom
        assert relative(expected, layer(x).flatten(1)) < {"int8": 0.04, "int4": 0.25, "int2": 0.8}[method]


def test_what_a_runtime_refuses_is_left_alone_with_the_reason(runtime, tiny_model, tmp_path):
    request = Request(model=str(tiny_model), method="int2+int4+int8", runtime=runtime)
    with Workspace(tmp_path / "out") as work:
        entries = plan(load(request), request, work).entries
    for entry in entries:
        assert entry.method or entry.reason
        if runtime == "executorch":
            assert entry.method not in ("int2", "int8" if entry.kind == "dense" else "int4")


@pytest.mark.parametrize("bits", [4, 2])
def test_scales_are_of_the_least_error(bits):
    """No scale of a fine search does better by more than a little; normal weights, and such as have long tails."""
    for matrix in (torch.randn(20, 300), torch.randn(20, 300) ** 3):
        codes, scale = integers.plain(matrix, bits)
        error = (matrix - scale[:, None] * codes).square().sum(1)
        low, high = integers.LEVELS_OF_WEIGHTS[bits]
        best = torch.full((20,), torch.inf)
        for step in torch.linspace(0.02, 8, 800):
            tried = (matrix / step).round().clamp(low, high) * step
            best = torch.minimum(best, (matrix - tried).square().sum(1))
        assert (error / best).mean() < 1.03 and (error / best).max() < 1.1


def test_the_file_shrinks_with_the_bits(runtime, tmp_path):
    layer, x, sizes = nn.Linear(512, 1024), torch.randn(1, 512), []
    methods = [m for m in ("int8", "int4", "int2") if not chain.parse(m, (), runtime)[0].refuse(layer)]
    for net in (layer, *(rounded(layer, "dynamic", method=method) for method in methods)):
        sizes.append(write(runtime, nn.Sequential(net), x, tmp_path).stat().st_size)
    assert len(sizes) >= 3
    for size, most in zip(sizes, (1, 0.27, 0.14, 0.08), strict=False):
        assert size <= most * sizes[0]


def test_other_weights_in_the_file_fail_the_proof(runtime, tmp_path):
    net, x = nn.Sequential(rounded(nn.Linear(64, 33), "dynamic", method="int4")), torch.randn(1, 64)
    path = write(runtime, net, x, tmp_path)
    net[0].codes[0] ^= 1
    with pytest.raises(BuildError, match="int4 weights of 0"):
        export._prove(Model("m", "m", net, (x,), None, ""), runtime, net, path)


@pytest.mark.parametrize("make", [lambda: nn.Linear(30, 64), lambda: nn.Conv2d(4, 32, 3)])
def test_weights_are_the_nearest_of_255_values(make):
    layer = make()
    after = rounded(layer, "dynamic")
    matrix = weight_matrix(layer)
    assert (after.decode() - matrix).abs().div(after.scale[:, None]).max() <= 0.5 + 1e-3
    assert torch.equal(after.scale, matrix.abs().amax(1) / 127) and after.codes.min() >= -127
    assert torch.allclose(after.weight, layer.weight, atol=float(after.scale.max()))


@torch.no_grad()
def test_dead_rows_keep_their_bias(runtime, tmp_path):
    """A static layer's bias is an int32 in units of the row's scale, which must not be tiny."""
    layer, x = nn.Linear(64, 8), torch.randn(4, 64)
    layer.weight[3], layer.weight[4] = 0, 1e-9 * layer.weight[4]
    after = rounded(layer, "static", x)
    got = run_on_host(runtime, write(runtime, nn.Sequential(after), x, tmp_path), [x], 8)
    assert torch.allclose(got[:, 3:5], layer.bias[3:5].expand(4, 2), atol=0.02)


# cp's channels are of unequal size and cancel each other: scales they share cost more, at each of its four parts
@pytest.mark.parametrize("expression,most", [("svd:int8", 0.06), ("scheme2:int8", 0.06), ("cp:int8", 0.3)])
@torch.no_grad()
def test_parts_of_a_factored_layer_are_int8(runtime, expression, most, tmp_path):
    layer, x = nn.Conv2d(8, 32, 3, padding=1), torch.randn(8, 8, 9, 9)
    method = chain.parse(expression, ("activations=static", "rank=6"))[0]
    after = method.compress(layer, None, 0)
    assert isinstance(after, Factored) and all(part.codes.dtype == torch.int8 for part in after)
    calibration.fix_ranges(nn.Sequential(layer), layer, after, x)
    decoded = copy.deepcopy(layer)
    decoded.weight.copy_(after.decode().unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2))
    assert relative(after(x), decoded(x)) < most  # what rounding activations leaves
    got = run_on_host(runtime, write(runtime, nn.Sequential(after), x, tmp_path), [x], 32 * 81)
    assert relative(got, after(x).flatten(1)) < 0.01


def test_a_checkpoint_brings_back_ranges_and_geometry(tmp_path):
    layer, x = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), torch.randn(8, 4, 9, 9)
    for method, dtype in (("int8", torch.int8), ("int4", torch.uint8), ("int2", torch.uint8)):
        net = nn.Sequential(rounded(layer, "static", x, method))
        checkpoint.save(net, tmp_path / "model.safetensors")
        restored = checkpoint.restore(nn.Sequential(layer), tmp_path / "model.safetensors")
        assert isinstance(restored[0], QuantizedConv2d) and restored[0].codes.dtype == dtype
        assert torch.equal(restored(x), net(x))


def test_gradients_reach_the_layers_before():
    layer = rounded(nn.Linear(16, 8), "dynamic")
    x = torch.randn(4, 16, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(4, 16), atol=1e-5)


def test_a_runtime_gets_the_rounding_that_it_is_faster_with(runtime):
    (method,) = chain.parse("int8", (), runtime)
    layers = {"dense": nn.Linear(8, 8), "conv": nn.Conv2d(8, 8, 3), "first": nn.Conv2d(1, 8, 3)}
    chosen = {name: method.settled(layer).settings["activations"] for name, layer in layers.items()}
    spatial = "static" if runtime == "executorch" else "dynamic"
    assert chosen == {"dense": "dynamic", "conv": spatial, "first": "static"}
    without = method.without_data()
    assert without.settled(layers["conv"]).settings["activations"] == "dynamic"
    assert without.refuse(layers["first"])


def test_static_scales_need_data(tiny_model, tmp_path):
    tiny_model.write_text(tiny_model.read_text().replace("def data()", "def no_data()"))
    request = Request(model=str(tiny_model), method="int8", settings=("activations=static",))
    model = load(request)
    with Workspace(tmp_path / "out") as work, pytest.raises(UsageError, match="calibration data"):
        compress(model, plan(model, request, work), work)


def test_what_a_maximum_gives_is_rounded_at_run_time(runtime, tmp_path):
    """As in charnet: XNNPACK must not take both into one graph."""

    class Maxout(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 12, 3)

        def forward(self, x):
            left, right = self.first(x).chunk(2, 1)
            return self.second(torch.maximum(left, right))

    net, x = Maxout().eval(), torch.randn(4, 3, 9, 9)
    with torch.no_grad():
        net.second = chain.parse("int8")[0].compress(net.second, None, 0)
        expected = net(x).flatten(1)
    got = run_on_host(runtime, write(runtime, net, x, tmp_path), [x], expected.shape[1])
    assert (got - expected).norm() < 1e-3 * expected.norm()


@torch.no_grad()
def test_layers_of_all_widths_live_in_one_net(runtime, tmp_path):
    """Beside codes and plain layers; two layers with the same weights, and one that is called twice."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten())
    net.extend([nn.Linear(400, 64), nn.ReLU(), *(nn.Linear(64, 64) for _ in range(5)), nn.Linear(64, 10)])
    x = torch.randn(16, 3, 9, 9)
    net[8].load_state_dict(net[7].state_dict())
    net[10] = net[9]
    for i, method, static in ((2, "int8", True), (5, "pq", False), (7, "int4", True), (8, "int4", True)):
        net[i] = replaced(net, i, method, static, x)
    net[9] = net[10] = replaced(net, 9, "int4", False, x)
    net[12] = replaced(net, 12, "int2" if runtime == "litert" else "int8", False, x)
    path = write(runtime, net, x, tmp_path)
    proof = export._prove(Model("m", "m", net, (x[:1],), None, ""), runtime, net, path)
    assert proof.codes_stored and proof.relative_difference < 0.05


def replaced(net, index, method, static, x):
    settings = ("activations=static",) if static else ()
    after = chain.parse(method, settings)[0].compress(net[index], None, 0)
    if static:
        calibration.fix_ranges(net, net[index], after, x)
    return after


@torch.no_grad()
class Scaled(nn.Module):
    """LiteRT's converter makes the factors a part of the weights."""

    def __init__(self, *factors: float):
        super().__init__()
        self.conv = rounded(nn.Conv2d(4, 8, 3), "dynamic")
        self.register_buffer("factors", torch.linspace(*factors, 8)[:, None, None])

    def forward(self, x):
        return self.conv(x) * self.factors


def test_a_factor_behind_a_layer_becomes_part_of_its_scales(tmp_path):
    net, x = Scaled(1, 2).eval(), torch.randn(8, 4, 9, 9)
    path = write("litert", net, x, tmp_path)
    with torch.no_grad():
        expected = net(x).flatten(1)
    assert relative(run_on_host("litert", path, [x[:, None]], expected.shape[1]), expected) < 1e-5


def test_a_layer_that_the_converter_merges_is_named(tmp_path):
    with pytest.raises(BuildError, match="conv"):
        write("litert", Scaled(-1, 2).eval(), torch.randn(1, 4, 9, 9), tmp_path)


def test_pooling_stays_with_xnnpack_beside_layers_that_round_at_run_time(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 16), nn.Linear(16, 10)).eval()
    net[3] = rounded(net[3], "dynamic")
    path = write("executorch", net, torch.randn(1, 1, 8, 8), tmp_path)
    assert discover.runtime("executorch").operators(path) == {"XnnpackBackend"}
