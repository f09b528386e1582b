"""Factorized convolutions: they compute what their kernels say, find exact ranks, and are left alone where no use."""

import copy
import itertools
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgecomp import compress
from edgecomp.chain import parse
from edgecomp.errors import UsageError
from edgecomp.fitting import calibration, cp
from edgecomp.fitting.calibration import Inputs
from edgecomp.fitting.tensor_train import decompose
from edgecomp.layers import Factored
from edgecomp.layers.matrix import input_rows, weight_matrix
from edgecomp.methods import tt, tucker

METHODS = ("scheme1", "scheme2", "tucker", "cp", "tt", "coupled_tt")
LAYERS = {
    "plain": lambda: nn.Conv2d(12, 16, 5),
    "padded, no bias": lambda: nn.Conv2d(8, 16, 3, padding=1, bias=False),
    "strided": lambda: nn.Conv2d(8, 12, (3, 5), stride=(2, 1), padding=(1, 2)),
    "dilated": lambda: nn.Conv2d(8, 12, 3, padding="same", dilation=2),
    "1xd": lambda: nn.Conv2d(8, 12, (1, 7), stride=(1, 2)),
    "valid": lambda: nn.Conv2d(4, 24, (5, 2), padding="valid"),
}


def chain_of(name, settings=""):
    return parse(name, tuple(settings.split()))[0]


def compressed(name, layer, settings="rank=3", inputs=None):
    with torch.no_grad():
        return chain_of(name, settings).compress(layer, inputs, 0)


def inputs_of(layer, x):
    rows = input_rows(layer, x, 10**9, torch.Generator())
    return Inputs.of(rows)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", METHODS)
def test_the_parts_compute_what_their_kernel_says(name, kind):
    """Those of a layer that was fitted, and with random weights those of every way to ask for a size."""
    layer, x = LAYERS[kind](), torch.randn(2, 12, 17, 19)
    x = x[:, : layer.in_channels]
    for settings in ("rank=1", "rank=3", "macs=0.6", "bytes=0.6"):
        if settings == "rank=1":
            parts = compressed(name, layer, settings)
        else:
            parts = chain_of(name, settings).settled(layer).structure(layer).to_empty(device="cpu")
            for parameter in parts.parameters():
                nn.init.normal_(parameter, std=0.2)
        assert isinstance(parts, Factored)
        expected = F.conv2d(x, parts.kernel(), parts[-1].bias, layer.stride, layer.padding, layer.dilation)
        assert torch.allclose(parts(x), expected, atol=1e-4 * expected.abs().max().item())
        assert (parts[-1].bias is None) == (layer.bias is None)
        assert settings != "rank=1" or layer.bias is None or torch.equal(parts[-1].bias, layer.bias)
        assert chain_of(name, settings).predict(layer).bytes == sum(4 * p.numel() for p in parts.parameters())


PAIRS = {name: st.tuples(*2 * [st.integers(low, high)]) for name, low, high in (("kernel", 1, 5), ("step", 1, 3))}


@pytest.mark.parametrize("name", METHODS)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=PAIRS["kernel"],
    stride=PAIRS["step"],
    dilation=PAIRS["step"],
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    bias=st.booleans(),
)
@runs(max_examples=15, deadline=None, derandomize=True)
def test_any_geometry_is_kept(name, channels, kernel, stride, dilation, padding, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, kernel, stride, padding, dilation, bias=bias)
    parts, x = chain_of(name, "rank=2").structure(layer).to_empty(device="cpu"), torch.randn(2, channels[0], 17, 15)
    for parameter in parts.parameters():
        nn.init.normal_(parameter, std=0.5)
    expected = F.conv2d(x, parts.kernel(), parts[-1].bias, stride, padding, dilation)
    assert parts(x).shape == layer(x).shape
    assert (parts(x) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", METHODS)
@given(shape=st.tuples(*(st.integers(low, 14) for low in (8, 8))), height=st.integers(3, 5), seed=st.integers(0, 1000))
@runs(max_examples=10, deadline=None, derandomize=True)
def test_kernels_of_an_exact_rank_are_recovered(name, shape, height, seed):
    torch.manual_seed(seed)
    layer = nn.Conv2d(*shape, (height, 3))
    criterion = f"rank={max(shape) // 2}" if name == "tucker" else "rank=3"
    source = compressed(name, layer, criterion)
    for part in source:
        nn.init.normal_(part.weight)
        if name == "scheme1" and part.groups > 1:  # all channels share the basis
            part.weight.data.copy_(part.weight[:3].detach().repeat(shape[0], 1, 1, 1))
    kernel = source.kernel()
    layer.weight.data.copy_(kernel)
    again = compressed(name, layer, criterion)
    assert (again.kernel() - kernel).norm() / kernel.norm() < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_error_falls_with_the_rank_and_the_full_rank_is_exact(name):
    layer = nn.Conv2d(6, 8, 3)
    full = {"scheme1": 9, "scheme2": 18, "tucker": 8, "cp": 72, "tt": 18, "coupled_tt": 18}[name]
    errors = []
    for rank in (1, 2, 4, full // 2, full):
        difference = weight_matrix(layer) - compressed(name, layer, f"rank={rank}").decode()
        errors.append(float(difference.norm() / weight_matrix(layer).norm()))
    assert errors[-1] < 1e-3
    assert all(after <= 1.02 * before + 1e-6 for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("name", METHODS)
def test_data_reconstruction_lowers_the_error_of_the_outputs(name):
    layer = nn.Conv2d(8, 16, 5)
    x = F.conv2d(torch.randn(20, 3, 20, 20), torch.randn(8, 3, 3, 3)).relu()
    inputs = inputs_of(layer, x)

    def error(settings):
        parts = compressed(name, layer, settings, inputs)
        return (parts(x) - layer(x)).norm().item()

    assert error("rank=4 reconstruction=data") < 0.95 * error("rank=4 reconstruction=filter")


def test_joint_reconstruction_makes_up_for_the_layers_before():
    original = nn.Sequential(nn.Conv2d(2, 12, 5), nn.ReLU(), nn.Conv2d(12, 16, 3)).eval()
    x = F.conv2d(torch.randn(200, 1, 20, 20), torch.randn(2, 1, 3, 3))
    net = copy.deepcopy(original)
    compress.replace_weights(net[0], chain_of("scheme2", "rank=2"), None, 0)
    before = (net(x) - original(x)).norm()
    inputs = calibration.gather(net, net[2], x)
    compress.aim_at_original(net, original, "2", x, inputs, 0)
    assert (net(x) - original(x)).norm() < 0.8 * before
    again = copy.deepcopy(original)
    compress.aim_at_original(again, original, "2", x, calibration.gather(again, again[2], x), 0)
    assert torch.allclose(again[2].weight, original[2].weight, atol=1e-4)  # nothing to make up for


def test_the_rank_follows_the_wish():
    layer = nn.Conv2d(32, 64, 5)
    for name in METHODS:
        for fraction in (0.1, 0.3, 0.7):
            cost = chain_of(name, f"macs={fraction}").predict(layer)
            assert cost.macs <= fraction * layer.weight.numel()
            cost = chain_of(name, f"bytes={fraction}").predict(layer)
            assert cost.bytes <= fraction * 4 * (layer.weight.numel() + 64)
    parts = compressed("scheme2", layer, "cosine=0.9")
    kernel, weight = parts.kernel().flatten(), layer.weight.detach().flatten()
    assert F.cosine_similarity(kernel, weight, dim=0) >= 0.9 - 1e-5
    fewer = compressed("scheme2", layer, f"rank={parts[0].out_channels - 1}").kernel().flatten()
    assert F.cosine_similarity(fewer, weight, dim=0) < 0.9
    assert compressed("scheme2", layer, "energy=0.81")[0].out_channels == parts[0].out_channels


@pytest.mark.parametrize("name, layer", [("scheme2", nn.Conv2d(16, 24, 5)), ("svd", nn.Linear(60, 40))])
def test_the_spectrum_tells_the_rank_that_trial_finds(name, layer):
    weight = weight_matrix(layer)
    plain = "fit=plain least_rank=1 " if name == "svd" else ""
    kept = [
        F.cosine_similarity(weight.flatten(), compressed(name, layer, f"{plain}rank={rank}").decode().flatten(), 0)
        for rank in range(1, 41)
    ]
    for cosine in (0.3, 0.6, 0.9):
        settled = chain_of(name, f"{plain}cosine={cosine}").settled(layer).configs[0]
        assert settled.rank == 1 + next(i for i, value in enumerate(kept) if value >= cosine)


@pytest.mark.parametrize("name", METHODS)
def test_a_cosine_is_met_by_the_smallest_rank(name):
    layer = nn.Conv2d(8, 12, 3)
    settled = chain_of(name, "cosine=0.7").settled(layer)
    assert settled.settings["cosine"] is None and settled.configs[0].criterion[0] == "rank"
    weight = layer.weight.detach().flatten()

    def cosine(rank):
        return F.cosine_similarity(compressed(name, layer, f"rank={rank}").kernel().flatten(), weight, dim=0)

    rank = settled.settings["rank"]
    assert cosine(rank) >= 0.7 - 1e-4 and (rank == 1 or cosine(rank - 1) < 0.7)


def test_every_part_costs_what_its_own_pixels_cost():
    """The first part of a cp works on the larger images that come in: here that is all it costs."""
    layer = nn.Conv2d(16, 16, 8)
    layer.image_size = (8, 8)
    cost = chain_of("cp", "rank=4").predict(layer)
    assert cost.macs == 4 * (16 * 64 + 8 * 1 * 8 + 8 + 16)
    assert "multiply-adds" in chain_of("cp", "rank=4 worth=0.01").refuse(layer)


def test_parts_that_cannot_be_coded_stay_plain_and_it_is_said():
    layer = nn.Conv2d(32, 64, 5)
    chain = chain_of("cp:pq", "rank=32")
    assert "parts 2, 3 of 4 stay plain" in chain.remark(layer) and "32 groups" in chain.remark(layer)
    parts = compressed("cp:pq", layer, "rank=32")
    assert [type(part).__name__ for part in parts] == ["CodebookConv2d", "Conv2d", "Conv2d", "CodebookConv2d"]
    with pytest.raises(UsageError, match=r"tucker\+svd"):
        chain_of("tucker:svd")


def test_two_wishes_are_one_too_many():
    with pytest.raises(UsageError, match="rank and macs"):
        parse("scheme2", ("rank=3", "macs=0.5"))


@pytest.mark.parametrize("name", METHODS)
def test_layers_that_gain_nothing_are_left_alone_with_a_reason(name):
    assert "groups" in chain_of(name).refuse(nn.Conv2d(8, 8, 3, groups=2))
    assert "no less than" in chain_of(name, "rank=500").refuse(nn.Conv2d(8, 8, 3))
    assert chain_of(name).refuse(nn.Linear(8, 8))
    assert "1×1" in chain_of(name).refuse(nn.Conv2d(8, 8, 1))


def test_cp_of_a_large_kernel_is_bounded_in_memory_and_finite():
    torch.manual_seed(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = memory_kb("VmRSS")
    factors = cp.decompose(nn.functional.normalize(torch.randn(512 * 512 * 9), dim=0).view(512, 512, 3, 3), 64, 2, 0)
    after = memory_kb("VmHWM")
    assert all(factor.isfinite().all() for factor in factors)
    assert max(factor.norm(dim=0).max() for factor in factors) < 2
    assert (after - before) / 1e6 < 1


def memory_kb(what):
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def test_degenerate_tensors_keep_bounded_factors():
    """Of rank 3, but pairs of terms that grow against each other come as near as one likes (de Silva & Lim 2008)."""
    a, b = torch.eye(3)[0], torch.eye(3)[1]
    tensor = sum(torch.einsum("i,j,k->ijk", *parts) for parts in ((a, a, b), (a, b, a), (b, a, a)))
    tensor = (tensor / tensor.norm())[:, :, :, None]
    factors = cp.decompose(tensor, 2, 100, 0)
    assert all(factor.isfinite().all() and factor.norm() < 10 for factor in factors)


def test_tucker_is_tensorlys():
    import tensorly
    from tensorly.decomposition import partial_tucker

    layer = nn.Conv2d(12, 16, 3)
    kernel = layer.weight.detach()
    (core, (left, right)), _ = partial_tucker(kernel.numpy(), rank=[8, 6], modes=[0, 1], n_iter_max=50, random_state=0)
    theirs = tensorly.tenalg.multi_mode_dot(core, [left, right], modes=[0, 1])
    ours = compressed("tucker", layer, "rank=8").kernel()
    best = ((kernel.numpy() - theirs) ** 2).sum() ** 0.5
    assert (kernel - ours).norm() <= 1.001 * best
    assert tucker.structure(layer, tucker.Config(rank=8))[0].out_channels == 6


def test_tt_is_tensorlys():
    from tensorly.decomposition import tensor_train

    layer = nn.Conv2d(10, 12, (5, 3))
    kernel = layer.weight.detach()
    theirs = tensor_train(kernel.permute(1, 2, 3, 0).numpy(), rank=[1, 7, 9, 8, 1]).to_tensor()
    first, second, third, last = decompose([kernel], (7, 9, 8))[0]
    ours = torch.einsum("as,bai,cbj,tc->sijt", first, second, third, last)
    assert (ours - torch.from_numpy(theirs)).norm() < 1e-5 * kernel.norm()
    assert tt.ranks(tt.structure(layer, tt.Config(rank=9))) == (9, 9, 9)
    assert tt.ranks(tt.structure(layer, tt.Config(rank=40))) == (10, 36, 12)


def test_cp_is_no_worse_than_tensorlys():
    from tensorly import cp_to_tensor
    from tensorly.decomposition import parafac

    layer = nn.Conv2d(10, 12, 5)
    kernel = layer.weight.detach()
    factors = parafac(kernel.numpy(), rank=10, init="random", n_iter_max=200, random_state=0)
    theirs = ((kernel.numpy() - cp_to_tensor(factors)) ** 2).sum() ** 0.5
    assert (kernel - compressed("cp", layer, "rank=10").kernel()).norm() <= 1.02 * theirs
