"""Codes that are decoded to int8 and multiplied with inputs of int8: kernels do what is foreseen, and chosen by."""

import pytest
import torch
from running import run_on_host
from test_lookup import GEOMETRY, chosen, filled
from torch import nn
from torch.nn import functional as F

from edgecomp import discover
from edgecomp.fitting import int8_products
from edgecomp.fitting import tables as lookup
from edgecomp.layers import CodebookConv2d, CodebookEmbedding, CodebookLinear, CodeFormat, checkpoint
from edgecomp.layers.codebook import DOT, Tables
from edgecomp.methods import binary, kmeans, pq


@pytest.mark.parametrize("runtime", discover.runtime_names())
@pytest.mark.parametrize(
    "form,shape",
    [
        ({"rows": 40, "columns": 150, "k": 16, "s": 4, "groups": 38}, (9, 150)),
        ({"rows": 70, "columns": 90, "k": 200, "s": 4, "scaled": True}, (9, 90)),
        ({"rows": 21, "columns": 90, "k": 9, "s": 3, "stages": 2, "groups": 7, "scaled": True}, (5, 90)),
        ({"rows": 24, "columns": 50, "k": 8, "s": 2, "axis": 1, "half": False}, (5, 50)),
        ({"rows": 40, "columns": 6 * 12, "k": 16, "s": 4}, (12, 9, 11)),
        ({"rows": 33, "columns": 6 * 5, "k": 30, "s": 5, "scaled": True}, (5, 9, 11)),
    ],
)
def test_kernels_round_as_foreseen(runtime, form, shape, tmp_path):
    conv = len(shape) == 3
    layer = filled(CodeFormat(**form), CodebookConv2d, GEOMETRY) if conv else filled(CodeFormat(**form))
    layer.tables = Tables(bits=DOT)
    x, path = torch.randn(6, 1, *shape), tmp_path / f"m{discover.runtime(runtime).SUFFIX}"
    discover.runtime(runtime).export(nn.Sequential(layer), (x[0],), path)
    inputs, matrix = int8_products.rounded_inputs(layer, x[:, 0]), int8_products.rounded_matrix(layer)
    with torch.no_grad():
        if conv:
            g, channels = layer.geometry, shape[0]
            weight = matrix.reshape(-1, *g["kernel"], channels).permute(0, 3, 1, 2)
            expected = F.conv2d(inputs, weight, layer.bias, g["stride"], g["padding"], g["dilation"])
        else:
            expected = F.linear(inputs, matrix, layer.bias)
        exact = layer(x[:, 0])
    got = run_on_host(runtime, path, [x], expected[0].numel())
    # Neither library says how it divides by a scale: a value between two levels may go to either.
    assert (got.reshape(expected.shape) - expected).norm() <= 1e-3 * expected.norm()
    assert 1e-3 < ((expected - exact).norm() / exact.norm()).item() < 0.03


@pytest.mark.parametrize(
    "form,tokens,limit,bits",
    [
        ({"k": 40}, 4, 0.05, DOT),
        ({"k": 40}, 3, 0.05, 32),
        ({"k": 40}, 4, 1e-6, 32),
        ({"k": 16}, 8, 0.05, 8),  # bytes are faster still
        ({"k": 16}, 8, 1e-6, 16),
    ],
)
def test_weights_that_meet_many_inputs_are_multiplied(form, tokens, limit, bits, monkeypatch):
    monkeypatch.setattr(lookup, "LIMIT", limit)
    layer = filled(CodeFormat(**{"rows": 64, "columns": 256, "s": 4, **form}))
    found = chosen(layer, torch.randn(20, tokens, 256))
    assert found.bits == bits and (found.error is None) == (bits >= 16)
    layer.tables, layer.may_round = None, False
    found = chosen(layer, torch.randn(20, tokens, 256))
    assert found is None or found.bits != DOT


@pytest.mark.parametrize("rows,bits", [(64, DOT), (128, 8)])
def test_convolutions_of_few_outputs_are_multiplied_though_bytes_would_do(rows, bits, monkeypatch):
    """Tables of a pixel are made for as many lookups as there are outputs."""
    monkeypatch.setattr(lookup, "LIMIT", 0.05)
    layer = filled(CodeFormat(rows=rows, columns=6 * 12, k=16, s=4), CodebookConv2d, GEOMETRY)
    assert chosen(layer, torch.randn(8, 12, 9, 11)).bits == bits


def test_what_bytes_are_too_coarse_for_is_multiplied(monkeypatch):
    monkeypatch.setattr(lookup, "LIMIT", 0.05)
    monkeypatch.setattr(lookup, "table_errors", lambda *_: (0.1, 0.1, 0.1))
    layer = filled(CodeFormat(rows=128, columns=512, k=16, s=4))
    assert chosen(layer, torch.randn(8, 9, 512)).bits == DOT
    layer.tables = None
    assert chosen(layer, torch.randn(8, 7, 512)).bits == 16


def test_the_error_is_that_of_whole_images(monkeypatch):
    """An image has one range, wherever its largest value is."""
    monkeypatch.setattr(lookup, "LIMIT", 1.0)
    layer, x = filled(CodeFormat(rows=20, columns=30, k=40, s=5), CodebookConv2d, GEOMETRY), torch.randn(8, 5, 19, 18)
    even = chosen(layer, x)
    layer.tables, x[:, 0, 9, 9] = None, 100
    assert even.bits == DOT and 1e-3 < even.error < 0.02
    assert chosen(layer, x).error > 2 * even.error


def test_what_was_asked_for_is_taken_and_measured():
    layer, x = nn.Linear(256, 64), torch.randn(80, 256)
    for asked, bits in (("dot", DOT), ("exact", 32)):
        for method, config in ((pq, pq.Config(kernel=asked)), (binary, binary.Config(kernel=asked))):
            made = method.compress(layer, config, None, 0)
            lookup.choose_tables(nn.Sequential(layer), layer, made, x)
            assert made.tables.bits == bits and (made.tables.error is not None) == (bits == DOT)
    assert kmeans.compress(layer, kmeans.Config(k=200, kernel="dot"), None, 0).tables == Tables(bits=DOT)
    for config in (pq.Config(kernel="lookup"), pq.Config(tables="16")):
        made = pq.compress(layer, config, None, 0)
        lookup.choose_tables(nn.Sequential(layer), layer, made, x[None])
        assert made.effective_tables.bits in (8, 16)
    embedding = pq.compress(nn.Embedding(40, 64), pq.Config(kernel="dot"), None, 0)
    assert isinstance(embedding, CodebookEmbedding) and embedding.tables is None


def test_a_checkpoint_keeps_it(tmp_path):
    net = nn.Sequential(filled(CodeFormat(rows=32, columns=8, k=16, s=2)))
    net[0].tables = Tables(bits=DOT, error=0.004)
    checkpoint.save(net, tmp_path / "m.safetensors")
    restored = checkpoint.restore(nn.Sequential(nn.Linear(8, 32)), tmp_path / "m.safetensors")
    assert isinstance(restored[0], CodebookLinear) and restored[0].tables == net[0].tables
    assert net[0].tables.text == "int8 products, 0.40 %"
