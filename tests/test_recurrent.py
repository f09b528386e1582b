"""Recurrent layers: torch's own against the op, in torch and in the files of both runtimes, for all weights."""

import pytest
import torch
from running import run_on_host
from torch import nn

from edgecomp import discover
from edgecomp.errors import BuildError
from edgecomp.fitting import calibration
from edgecomp.layers.builtin import without_custom_ops
from edgecomp.layers.codebook import CodebookLinear
from edgecomp.layers.recurrent import GATES, Recurrence
from edgecomp.methods import int4, int8, kmeans, pq, svd

HIDDEN, INPUTS, STEPS = 32, 5, 160


class Rewritten(nn.Module):
    """What becomes of a bidirectional layer of torch's: a dense layer and a recurrence for each direction."""

    def __init__(self, kind, layer):
        super().__init__()
        self.ih, self.steps = nn.ModuleList(), nn.ModuleList()
        for suffix in ("", "_reverse"):
            ih, hh = (nn.Linear(n, GATES[kind] * HIDDEN) for n in (INPUTS, HIDDEN))
            for part, name in ((ih, "ih"), (hh, "hh")):
                for parameter in ("weight", "bias"):
                    getattr(part, parameter).data.copy_(getattr(layer, f"{parameter}_{name}_l0{suffix}"))
            self.ih.append(ih)
            self.steps.append(Recurrence(kind, hh, reverse=bool(suffix)))

    def forward(self, x, h, *c):
        runs = [
            step(ih(x), h[i], *(cells[i] for cells in c))
            for i, (ih, step) in enumerate(zip(self.ih, self.steps, strict=True))
        ]
        out, h, *c = [torch.cat(parts, -1) if parts[0] is not None else None for parts in zip(*runs, strict=True)]
        return torch.cat([out, h[None], *(cells[None] for cells in c if cells is not None)])


class Original(nn.Module):
    """The same outputs from torch's layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, h, *c):
        out, states = self.layer(x, (h, *c) if c else h)
        last = states if c else (states,)
        return torch.cat([out, *(torch.cat(list(state), -1)[None] for state in last)])


def both(kind):
    layer = {"lstm": nn.LSTM, "gru": nn.GRU}.get(kind, nn.RNN)
    options = {} if kind in ("lstm", "gru") else {"nonlinearity": kind[4:]}
    layer = layer(INPUTS, HIDDEN, bidirectional=True, **options)
    return Original(layer).eval(), Rewritten(kind, layer).eval()


def inputs_of(kind, batch, steps=STEPS):
    states = [torch.randn(2, batch, HIDDEN) for _ in range(1 + (kind == "lstm"))]
    return (torch.randn(steps, batch, INPUTS), *states)


def on_device(runtime, net, inputs, path):
    """The first output of the exported file."""
    exporter = discover.runtime(runtime)
    path = path / f"m{exporter.SUFFIX}"
    exporter.export(net, inputs, path)
    expected = net(*inputs)
    return run_on_host(runtime, path, [x[None] for x in inputs], expected.numel()).reshape(expected.shape), path


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", GATES)
def test_in_torch_it_is_torchs_layer_and_can_be_trained(kind, batch):
    original, net = both(kind)
    inputs = inputs_of(kind, batch)
    assert torch.allclose(net(*inputs), original(*inputs), atol=1e-4)
    net(*inputs).sum().backward()
    assert net.steps[0].hh.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("runtime", ["executorch", "litert"])
@pytest.mark.parametrize(("kind", "batch"), [("lstm", 1), ("gru", 3), ("rnn_relu", 2)])
def test_160_steps_are_one_op_in_the_file(runtime, kind, batch, tmp_path):
    original, net = both(kind)
    inputs = inputs_of(kind, batch)
    with torch.inference_mode():
        got, path = on_device(runtime, net, inputs, tmp_path)
        assert torch.allclose(got, original(*inputs), atol=1e-4)
    assert any("recurrence" in name for name in discover.runtime(runtime).operators(path))
    assert path.stat().st_size < 100_000
    assert len(torch.export.export(net, inputs).graph.nodes) < 50


METHODS = {
    "pq": (pq, pq.Config(k=16, s=4), 0.02),  # 16-bit tables
    "kmeans": (kmeans, kmeans.Config(k=32), 1e-4),
    "int8": (int8, int8.Config(), 0.02),
    "int4": (int4, int4.Config(), 0.02),
    "svd": (svd, svd.Config(rank=8), 1e-4),
}


def compressed(net, method):
    module, config, _ = METHODS[method]
    for step in net.steps:
        step.hh = module.compress(step.hh, config, None, 0)
    return net.eval()


@pytest.mark.parametrize("runtime", ["executorch", "litert"])
@pytest.mark.parametrize(
    ("kind", "method"), [("lstm", "pq"), ("gru", "kmeans"), ("gru", "int8"), ("lstm", "int4"), ("lstm", "svd")]
)
def test_compressed_weights_are_in_the_file_as_they_are_stored(runtime, kind, method, tmp_path):
    net = compressed(both(kind)[1], method)
    inputs = inputs_of(kind, 1)
    with torch.inference_mode():
        got, path = on_device(runtime, net, inputs, tmp_path)
        expected = net(*inputs)
    assert (got - expected).norm() / expected.norm() < METHODS[method][2]
    stored = {constant.data for constant in discover.runtime(runtime).constants(path)}
    for step in net.steps:
        for part in step.hh.modules():
            if hasattr(part, "codes"):
                assert part.codes.numpy().tobytes() in stored
    if method in ("pq", "kmeans"):
        assert isinstance(net.steps[0].hh, CodebookLinear)


def test_the_op_means_what_the_module_computes():
    """Its definition in torch, which exported programs run on."""
    for kind, method in (("lstm", "pq"), ("gru", "int8"), ("rnn_tanh", "int4"), ("gru", "svd")):
        net = compressed(both(kind)[1], method)
        inputs = inputs_of(kind, 2, steps=7)
        with torch.inference_mode():
            program = torch.export.export(net, inputs)
            assert torch.allclose(program.module()(*inputs), net(*inputs), atol=1e-3)


class Sequence(nn.Module):
    """(N, T, 5) to (N, 32): an LSTM between dense layers."""

    def __init__(self):
        super().__init__()
        self.ih, self.steps = nn.Linear(INPUTS, 4 * HIDDEN), Recurrence("lstm", nn.Linear(HIDDEN, 4 * HIDDEN))

    def forward(self, x):
        return self.steps(self.ih(x.transpose(0, 1)))[1]


def test_calibration_sees_all_steps():
    net, samples = Sequence().eval(), torch.randn(40, 30, INPUTS)
    with torch.no_grad():
        out = net.steps(net.ih(samples.transpose(0, 1)))[0]
    seen = torch.cat([torch.zeros(1, 40, HIDDEN), out[:-1]]).flatten(0, 1)
    found = calibration.gather(net, net.steps.hh, samples)
    assert torch.allclose(found.second_moment, seen.T @ seen / len(seen), atol=1e-5)
    (many,) = calibration.inputs_of(net, net.steps.hh, torch.randn(200, 30, INPUTS))
    assert 2000 < len(many) <= 4096
    (first,) = calibration.inputs_of(net, net.ih, samples)
    assert first.shape == (30, 40, INPUTS)


def test_what_the_op_cannot_do_is_an_error_that_says_so():
    net = Sequence().eval()
    with pytest.raises(BuildError, match="steps: the steps of a recurrent layer run in a custom op"):
        without_custom_ops(net, (torch.zeros(1, 3, INPUTS),))
    net.steps.hh = int8.compress(net.steps.hh, int8.Config(activations="static"), None, 0)
    with pytest.raises(BuildError, match="no fixed scales"):
        discover.runtime("litert").export(net, (torch.zeros(1, 3, INPUTS),), None)
    net.steps.hh = nn.Bilinear(3, 3, 3)
    with pytest.raises(Exception, match="Bilinear, which the op does not take"):
        torch.export.export(net, (torch.zeros(1, 3, INPUTS),))
