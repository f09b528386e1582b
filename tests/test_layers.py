"""Codebook layers decode exactly, act like the layers they replace, and survive a checkpoint."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgecomp.errors import BuildError
from edgecomp.layers import CodebookConv2d, CodebookLinear, CodeFormat, checkpoint
from edgecomp.layers.matrix import input_rows, weight_matrix

FORMATS = st.builds(
    CodeFormat,
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    k=st.integers(2, 256),
    s=st.integers(1, 9),
    axis=st.sampled_from([0, 1]),
    stages=st.integers(1, 2),
    half=st.booleans(),
    scaled=st.booleans(),
)


def filled(format: CodeFormat) -> tuple[CodebookLinear, torch.Tensor, torch.Tensor]:
    """A layer with random contents, its codes (stages, blocks, lanes) and codebook (stages, groups, k, s)."""
    layer = CodebookLinear(format, bias=True)
    codes = torch.randint(0, format.k, (format.stages, format.blocks, format.lanes))
    codebook = torch.randn(format.stages, format.groups, format.k, format.s)
    scale = torch.rand(format.rows) if format.scaled else None
    layer.store(codes, codebook, scale, torch.randn(format.rows))
    return layer, codes, layer.codebook.float().transpose(2, 3)


@settings(deadline=None)
@given(FORMATS, st.booleans())
def test_decode_is_the_plain_loop(format, shared):
    if not shared:
        format = format.model_copy(update={"groups": format.blocks})
    layer, codes, codebook = filled(format)
    expected = torch.zeros(format.rows, format.columns)
    per_group = -(-format.blocks // format.groups)
    for row in range(format.rows):
        for column in range(format.columns):
            split, lane = (column, row) if format.axis == 0 else (row, column)
            block, element = divmod(split, format.s)
            for stage in range(format.stages):
                expected[row, column] += codebook[stage, block // per_group, codes[stage, block, lane], element]
    if layer.scale is not None:
        expected *= layer.scale[:, None]
    assert torch.allclose(layer.decode(), expected, atol=1e-6)


@given(FORMATS)
def test_bytes_are_those_of_the_buffers(format):
    layer = CodebookLinear(format, bias=False)
    assert sum(b.numel() * b.element_size() for b in layer.buffers()) == format.bytes


def test_linear_multiplies_with_what_it_decodes():
    layer, _, _ = filled(CodeFormat(rows=12, columns=10, k=7, s=3, groups=4))
    x = torch.randn(2, 5, 10)
    assert torch.allclose(layer(x), x @ layer.decode().T + layer.bias, atol=1e-6)


@pytest.mark.parametrize("stride,padding,dilation", [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 0), (2, 1))])
def test_convolution_columns_run_over_height_width_channel(stride, padding, dilation):
    conv = nn.Conv2d(3, 8, (3, 2), stride=stride, padding=padding, dilation=dilation)
    geometry = {
        key: list(getattr(conv, f"{key}_size" if key == "kernel" else key))
        for key in ("kernel", "stride", "padding", "dilation")
    }
    format = CodeFormat(rows=8, columns=18, k=8, s=18, groups=1, half=False)
    layer = CodebookConv2d(format, True, geometry)
    layer.store(torch.arange(8).reshape(1, 1, 8), weight_matrix(conv)[None, None], None, conv.bias)
    x = torch.randn(2, 3, 9, 8)
    assert torch.allclose(layer(x), conv(x), atol=1e-5)
    meta = torch.ops.edgecomp.codebook_conv2d(
        x.to("meta"),
        *(b.to("meta") for b in (layer.codes, layer.codebook)),
        None,
        None,
        8,
        0,
        layer.format.tile,
        *(32, 64, False),
        *geometry.values(),
    )
    assert meta.shape == conv(x).shape


def test_input_rows_are_what_the_matrix_multiplies():
    conv = nn.Conv2d(3, 8, (3, 2), stride=(2, 1), padding=(1, 0))
    x = torch.randn(4, 3, 7, 6)
    rows = input_rows(conv, x, 10**6, torch.Generator().manual_seed(0))
    expected = conv(x).permute(0, 2, 3, 1).reshape(-1, 8)
    got = rows @ weight_matrix(conv).T + conv.bias
    assert torch.allclose(got.sort(0).values, expected.sort(0).values, atol=1e-5)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.c(self.b(self.a(x)))


def test_checkpoint_brings_back_layers_and_ties(tmp_path):
    original = Tied()
    net = copy.deepcopy(original)
    net.a, _, _ = filled(CodeFormat(rows=6, columns=6, k=4, s=2))
    net.b = net.a
    checkpoint.save(net, tmp_path / "model.safetensors")
    restored = checkpoint.restore(original, tmp_path / "model.safetensors")
    x = torch.randn(3, 6)
    assert torch.equal(restored(x), net(x))
    assert restored.a is restored.b
    assert restored.a.format == net.a.format


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(BuildError, match="model.safetensors"):
        checkpoint.restore(Tied(), path)
