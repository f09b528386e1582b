"""Packed codes: the layout is what the kernels read, so it is pinned as well as inverted."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecomp.layers.packing import best_tile, bits_per_code, pack, pack_signed, packed_bytes, unpack, unpack_signed

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 150))


@given(SHAPES, st.integers(1, 8), st.sampled_from([8, 16, 32, 64, 128]), st.integers(0, 1000))
def test_unpack_inverts_pack(shape, bits, tile, seed):
    codes = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits, tile)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(*shape, bits, tile)
    assert torch.equal(unpack(packed, *shape, bits, tile), codes.to(torch.uint8))


@given(st.integers(0, 70), st.sampled_from([1, 2, 4, 8]), st.integers(0, 1000))
def test_signed_values_lie_side_by_side(count, bits, seed):
    values = torch.randint(
        -(2 ** (bits - 1)), 2 ** (bits - 1), (count,), generator=torch.Generator().manual_seed(seed)
    ).to(torch.int8)
    packed = pack_signed(values, bits)
    assert packed.dtype == torch.uint8 and len(packed) == -(-count * bits // 8)
    assert torch.equal(unpack_signed(packed, bits, count), values)
    number = int.from_bytes(bytes(packed.tolist()), "little")  # the first value in the lowest bits
    assert [number >> bits * i & 2**bits - 1 for i in range(count)] == [v % 2**bits for v in values.tolist()]


@given(SHAPES, st.integers(1, 8), st.sampled_from([8, 16, 32, 64, 128]), st.integers(0, 1000))
def test_layout_is_the_documented_one(shape, bits, tile, seed):
    """The formula of `packing`'s docstring, read bit by bit."""
    stages, blocks, lanes = shape
    codes = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits, tile).tolist()
    cell_bytes = tile * bits // 8
    for stage in range(stages):
        for block in range(blocks):
            for lane in range(lanes):
                cell = ((lane // tile) * blocks + block) * stages + stage
                code, shift, start = 0, 0, cell * cell_bytes
                for width in (8, 4, 2, 1):
                    if bits & width:
                        size = tile * width // 8
                        byte = packed[start + lane % tile % size]
                        code |= ((byte >> (width * (lane % tile // size))) & (2**width - 1)) << shift
                        start, shift = start + size, shift + width
                assert code == codes[stage, block, lane]


def test_four_bits_in_tiles_of_32_are_nibbles():
    codes = torch.arange(32).reshape(1, 1, 32) % 16
    assert pack(codes, 4, 32).tolist() == [i | i << 4 for i in range(16)]


@given(st.integers(2, 256))
def test_bits_tell_all_codewords_apart(k):
    assert 2 ** bits_per_code(k) >= k > 2 ** (bits_per_code(k) - 1) or k == 2


@given(st.integers(64, 100_000))
def test_padding_of_large_layers_is_small(lanes):
    tile = best_tile(lanes)
    assert -lanes % tile <= lanes / 8
    assert all(-lanes % wider > lanes / 8 for wider in (16, 32, 64, 128) if wider > tile)


def test_the_widest_tile_is_that_of_layers_with_many_rows():
    assert [best_tile(lanes) for lanes in (4096, 1000, 192, 96, 64, 40, 10)] == [128, 128, 64, 32, 64, 8, 8]
