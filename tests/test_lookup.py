"""Tables of bytes where a layer's outputs bear them: what they cost is what kernels do, and what is chosen is kept."""

import numpy as np
import pytest
import torch
from running import run_on_host
from test_layers import filled as filled_linear
from torch import nn
from torch.nn import functional as F

from edgecomp import chain, discover, pipeline
from edgecomp.fitting import tables as lookup
from edgecomp.layers import CodebookConv2d, CodebookEmbedding, CodebookLinear, CodeFormat, checkpoint
from edgecomp.layers.codebook import Tables
from edgecomp.methods import binary, kmeans, pq
from edgecomp.records import Request

GEOMETRY = {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 0], "dilation": [1, 2]}


def filled(format, kind=CodebookLinear, *more):
    """A codebook layer with random contents."""
    source, _, _ = filled_linear(format)
    layer = kind(format, kind is not CodebookEmbedding, *more)
    layer.load_state_dict(source.state_dict(), strict=kind is not CodebookEmbedding)
    return layer.eval()


def kernels_error(layer, x, group, runs):
    """The same as `table_errors`, product by product."""
    f, codes, words = layer.format, layer.unpacked().numpy(), layer.codebook.float().numpy()
    per_group, blocks = -(-f.blocks // f.groups), f.blocks // runs
    exact, coarse = np.zeros((len(x), f.rows)), np.zeros((len(x), f.rows))
    for n, inputs in enumerate(x.numpy()):
        for run in range(runs):
            tables = [(block, stage) for block in range(run * blocks, (run + 1) * blocks) for stage in range(f.stages)]
            for start in range(0, len(tables), group):
                made = []
                for block, stage in tables[start : start + group]:
                    segment = inputs[block * f.s : (block + 1) * f.s]
                    made.append(segment @ words[stage, block // per_group, : len(segment)])
                scale = max(abs(table).max() for table in made) / 127
                for (block, stage), table in zip(tables[start : start + group], made, strict=True):
                    exact[n] += table[codes[stage, block]]
                    if scale > 0:
                        coarse[n] += np.round(table / scale)[codes[stage, block]] * scale
    factor = 1 if layer.scale is None else layer.scale.numpy()
    return np.linalg.norm((coarse - exact) * factor) / np.linalg.norm(exact * factor)


@pytest.mark.parametrize(
    "form,kind,runs",
    [
        ({"columns": 150, "s": 4, "groups": 38}, "dense", 1),
        ({"columns": 90, "s": 3, "k": 9, "stages": 2, "groups": 7, "scaled": True}, "dense", 1),
        ({"columns": 6 * 80, "s": 4}, "conv", 6),
        ({"columns": 6 * 30, "s": 2, "stages": 2, "half": False}, "conv", 6),
        ({"columns": 6 * 30, "s": 4}, "conv", 1),  # segments reach over positions
        ({"columns": 6 * 80, "s": 4, "groups": 2}, "conv", 1),
    ],
)
def test_tables_cost_what_they_do_in_kernels(form, kind, runs):
    format = CodeFormat(**{"rows": 40, "k": 16, **form})
    layer = filled(format) if kind == "dense" else filled(format, CodebookConv2d, GEOMETRY)
    assert lookup.runs_of(layer) == runs
    x = torch.randn(3, format.columns).relu() * torch.rand(format.columns)
    found = list(lookup.table_errors(layer, x))
    assert found == pytest.approx([kernels_error(layer, x, group, runs) for group in (64, 32, 16)], rel=0.02)
    assert 0.001 < found[0] < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("runtime", discover.runtime_names())
@pytest.mark.parametrize(
    "layer,shape,method,config",
    [
        (nn.Linear(510, 64, bias=False), (510,), pq, pq.Config(k=12)),
        (nn.Conv2d(96, 64, 3, bias=False), (96, 3, 3), kmeans, kmeans.Config()),
    ],
)
def test_kernels_add_what_was_foreseen(runtime, layer, shape, method, config, tmp_path):
    made, x = method.compress(layer, config, None, 0), torch.randn(64, 1, *shape)
    rows = x.flatten(1) if len(shape) == 1 else x[:, 0].permute(0, 2, 3, 1).flatten(1)
    exact, path = rows @ made.decode().T, tmp_path / f"m{discover.runtime(runtime).SUFFIX}"
    foreseen = zip((64, 32, 16), lookup.table_errors(made, rows), strict=True)
    for tables, error in [
        *((Tables(bits=8, group=g), e) for g, e in foreseen),
        (made.effective_tables, 0),
        (Tables(bits=16), 0),
    ]:
        made.tables = tables
        discover.runtime(runtime).export(nn.Sequential(made).eval(), (x[0],), path)
        got = run_on_host(runtime, path, [x], 64)
        assert ((got - exact).norm() / exact.norm()).item() == pytest.approx(error, rel=0.01, abs=1e-4)


def test_rows_of_a_convolution_are_patches_that_it_multiplies():
    layer = filled(CodeFormat(rows=20, columns=30, k=16, s=5), CodebookConv2d, GEOMETRY)
    x = torch.randn(4, 5, 9, 8)
    rows = lookup.sampled_rows(layer, x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = rows @ layer.decode().T + layer.bias
        outputs = layer(x).permute(0, 2, 3, 1).reshape(-1, 20)
    assert len(rows) == 64 and len(given.unique(dim=0)) > 40
    distances = torch.cdist(given, outputs, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.amin(1).max() < 1e-4


def chosen(layer, x):
    lookup.choose_tables(nn.Sequential(layer), layer, layer, x)
    return layer.tables


@pytest.mark.parametrize("place,tables", [(0, (8, 64)), (1, (8, 32)), (2, (8, 16)), (3, (16, 64))])
def test_the_largest_group_whose_error_is_small_enough(place, tables, monkeypatch):
    layer, x = filled(CodeFormat(rows=64, columns=1024, k=16, s=4, groups=256)), torch.randn(64, 1024)
    errors = list(lookup.table_errors(layer, x))
    assert errors == sorted(errors, reverse=True)
    monkeypatch.setattr(lookup, "LIMIT", [*(1.001 * error for error in errors), 0.999 * errors[-1]][place])
    found = chosen(layer, x)
    assert (found.bits, found.group) == tables
    assert found.error == (pytest.approx(errors[place], rel=1e-3) if place < 3 else None)


@pytest.mark.parametrize(
    "form,tables",
    [
        ({"s": 4}, Tables(bits=16)),
        ({"s": 1}, Tables(bits=32)),  # decoding is faster than 16-bit tables
        ({"s": 4, "k": 8}, Tables(bits=32)),
        ({"s": 4, "k": 17}, Tables(bits=32)),
        ({"s": 4, "axis": 1}, Tables(bits=32)),
        ({"s": 4, "rows": 20}, Tables(bits=32)),
    ],
)
def test_where_bytes_are_too_coarse_or_no_kernel_has_them(form, tables):
    layer = filled(CodeFormat(**{"rows": 64, "columns": 256, "k": 16, **form}))
    x = torch.randn(80, 256)
    x[:, ::16] *= 100
    codebook = layer.codebook.float() * torch.rand(layer.codebook.shape) ** 4
    layer.codebook.copy_(codebook)
    assert layer.effective_tables == tables
    found = chosen(layer, x)
    assert found in (None, tables) and layer.effective_tables == tables


def test_what_was_asked_for_is_taken_and_measured():
    layer, x = nn.Linear(256, 64), torch.randn(80, 256)
    for asked, bits in (("8", 8), ("16", 16), ("exact", 32)):
        for method, config in ((pq, pq.Config(tables=asked)), (binary, binary.Config(tables=asked))):
            made = method.compress(layer, config, None, 0)
            lookup.choose_tables(nn.Sequential(layer), layer, made, x)
            assert (made.tables.bits, made.tables.group) == (bits, 64)
            assert (made.tables.error is not None) == (bits == 8)
    assert kmeans.compress(layer, kmeans.Config(k=8, tables="8"), None, 0).tables == Tables(bits=32)
    assert pq.compress(layer, pq.Config(), None, 0).tables is None  # auto


def test_parts_get_tables_by_what_they_are_called_with():
    layer, x = nn.Linear(512, 256), torch.randn(80, 512)
    (method,) = chain.parse("svd:pq", ("svd.rank=128",))
    made = method.compress(layer, None, 0)
    lookup.choose_tables(nn.Sequential(layer), layer, made, x)
    assert None not in [part.tables for part in made]
    second = F.linear(x[:64], made[0].decode())
    assert made[1].effective_tables.bits == 16 or made[1].tables.error == pytest.approx(
        next(lookup.table_errors(made[1], second, (made[1].tables.group,))), rel=0.2
    )
    embedding = nn.Embedding(40, 64)
    coded = pq.compress(embedding, pq.Config(), None, 0)
    lookup.choose_tables(nn.Sequential(embedding), embedding, coded, torch.zeros(3, 2, dtype=torch.long))
    assert coded.tables is None


def test_a_checkpoint_keeps_them_and_older_ones_have_none(tmp_path):
    original = nn.Sequential(nn.Linear(8, 32), nn.Conv2d(2, 32, (3, 2)), nn.Linear(8, 32))
    net = nn.Sequential(
        filled(CodeFormat(rows=32, columns=8, k=16, s=2)),
        filled(CodeFormat(rows=32, columns=12, k=16, s=2), CodebookConv2d, GEOMETRY),
        filled(CodeFormat(rows=32, columns=8, k=16, s=2)),
    )
    net[0].tables, net[1].tables = Tables(bits=8, group=32, error=0.004), Tables(bits=32)
    checkpoint.save(net, tmp_path / "m.safetensors")
    restored = checkpoint.restore(original, tmp_path / "m.safetensors")
    assert [layer.tables for layer in restored] == [layer.tables for layer in net]
    structure = net[0].structure()
    del structure["tables"]
    assert CodebookLinear.from_structure(structure).effective_tables == Tables(bits=16)


@pytest.mark.slow
def test_the_report_says_which(tiny_model, tmp_path):
    request = {"model": str(tiny_model), "on": "none", "settings": ("kinds=dense,conv", "k=16"), "layers": ("*",)}
    result = pipeline.build(Request(**request, out=tmp_path / "auto"))
    lines = {line.name: line for line in result.layers}
    assert lines["dense1"].tables == "16-bit" or lines["dense1"].tables.startswith("8-bit, groups of ")
    assert lines["head"].tables and lines["conv1"].tables == "" == lines["container"].tables
    assert lines["dense1"].tables in (tmp_path / "auto" / "report.html").read_text()
    request["settings"] = (*request["settings"], "tables=exact")
    result = pipeline.build(Request(**request, out=tmp_path / "exact"))
    assert {line.tables for line in result.layers if line.method} == {"exact"}
