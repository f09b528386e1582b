"""Downloads: what is packed decodes into the very bytes, in C++ and in Python; what is damaged is refused, and leaves
nothing behind."""

import hashlib
import struct
import zlib

import numpy as np
import pytest
import torch
from conftest import of_build
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecomp import chain, discover
from edgecomp.devices import download
from edgecomp.devices.download import container, native, reference, tables
from edgecomp.devices.download.layout import CELL, LANE, PLACE, Layout
from edgecomp.errors import BuildError, UsageError
from edgecomp.fitting import rates
from edgecomp.layers.packing import best_tile, pack, packed_bytes
from edgecomp.records import Limits, Measured, Plan, SizeReport
from edgecomp.report import limits

pytestmark = pytest.mark.xdist_group("download")


def skewed(count, symbols, seed, share=0.7):
    """Symbols of which each is less frequent than the one before."""
    chances = share ** np.arange(symbols)
    return np.random.default_rng(seed).choice(symbols, count, p=chances / chances.sum()).astype(np.uint8)


def codes_of(bits, stages, blocks, lanes, seed):
    """Packed codes as a layer keeps them, and what an exporter says of them."""
    codes = torch.from_numpy(skewed(stages * blocks * lanes, 2**bits, seed)).reshape(stages, blocks, lanes)
    tile = best_tile(lanes)
    return download.Tensor(pack(codes, bits, tile).numpy().tobytes(), bits, tile, blocks * stages)


def packed(folder, data, tensors=(), suffix=".pte"):
    """The container of a file with these bytes."""
    file, final = folder / f"model{suffix}", folder / download.NAME
    file.write_bytes(data)
    assert download.pack(file, final, tensors) == final.stat().st_size
    return final


# --- the coder --------------------------------------------------------------------------------------------


@st.composite
def layouts(draw):
    """Layouts, and bytes that can lie so."""
    bits, context = draw(st.integers(1, 8)), draw(st.sampled_from([CELL, LANE, PLACE]))
    period = draw(st.sampled_from([1, 2, 4, 8]) if context == PLACE else st.integers(1, 9))
    join = draw(st.integers(1, 2)) if bits <= 4 else 1
    layout = Layout(bits, 8 * join * draw(st.integers(1, 20)), period, context, join)
    length = draw(st.integers(0, 700)) if bits == 8 else draw(st.integers(0, 12)) * layout.cell_bytes
    return layout, skewed(length, 256, draw(st.integers(0, 99)), draw(st.sampled_from([0.3, 0.9, 0.999]))).tobytes()


@given(layouts())
@settings(max_examples=60, deadline=None)
def test_every_layout_decodes_into_its_bytes(case):
    layout, data = case
    assert layout.fits(len(data))
    model = tables.fitted(memoryview(data), layout)
    payload = native.encode(memoryview(data), layout, model.table_of, model.frequencies)
    head = reference._Numbers(container._described(model))
    assert reference._segment(head, len(data), payload) == data
    assert head.at == len(head.data)
    assert abs(len(payload) + len(head.data) - model.bytes) < 50 + 0.05 * model.bytes + 2 * model.frequencies.size


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 9), st.integers(1, 300), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_both_decoders_give_the_file_back(tmp_path_factory, bits, stages, blocks, lanes, seed):
    codes, folder = codes_of(bits, stages, blocks, lanes, seed), tmp_path_factory.mktemp("file")
    assert len(codes.data) == packed_bytes(stages, blocks, lanes, bits, codes.lanes)
    floats = np.random.default_rng(seed).standard_normal(300).astype(np.float32).tobytes()
    data = b"head" + codes.data + b"between" + floats + codes.data + b"tail" * 30
    made = packed(folder, data, [codes, download.Tensor(floats)])  # it is decoded by the C++ and compared
    assert reference.decode(made.read_bytes()) == data


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=256))
@settings(deadline=None)
def test_frequencies_fill_the_slots(counts):
    frequencies = tables.normalised(np.array(counts, float))
    assert frequencies.sum() == 4096
    assert not sum(counts) or ((frequencies > 0) == (np.array(counts) > 0)).all()


@pytest.mark.parametrize("data", [b"", b"x", bytes(100_000), b"abc" * 5000])
def test_any_file_is_packed(tmp_path, data):
    made = packed(tmp_path, data, [download.Tensor(data)], ".tflite")
    assert reference.decode(made.read_bytes()) == data
    assert made.stat().st_size < 1000
    assert download.unpack(made, tmp_path / "out") == tmp_path / "out/model.tflite"


def test_skewed_codes_come_near_their_entropy(tmp_path):
    for bits in range(1, 9):
        codes = codes_of(bits, 1, 64, 1024, bits)
        share = 0.7 ** np.arange(2**bits)
        share /= share.sum()
        entropy = -(share * np.log2(share)).sum() * 64 * 1024 / 8
        assert packed(tmp_path, codes.data, [codes]).stat().st_size < 1.02 * entropy + 500


def test_blocks_with_codebooks_of_their_own_have_tables_of_their_own(tmp_path):
    """In one table for all of them these codes would take their full four bits."""
    orders = [np.random.default_rng(block % 4).permutation(16) for block in range(40)]
    codes = np.stack([order[skewed(1024, 16, block)] for block, order in enumerate(orders)]).astype(np.uint8)
    data = pack(torch.from_numpy(codes)[None], 4, 128).numpy().tobytes()
    known = packed(tmp_path, data, [download.Tensor(data, 4, 128, 40)]).stat().st_size
    assert known < 0.75 * len(data) < packed(tmp_path, data, [download.Tensor(data)]).stat().st_size


def test_codes_that_follow_from_their_neighbours_are_smaller(tmp_path):
    steps = skewed(64 * 1024, 16, 0, 0.3).reshape(64, 1024).cumsum(0) % 16
    data = pack(torch.from_numpy(steps.astype(np.uint8))[None], 4, 128).numpy().tobytes()
    assert packed(tmp_path, data, [download.Tensor(data, 4, 128, 64)]).stat().st_size < 0.4 * len(data)


def test_zeros_of_a_pruned_matrix_cost_next_to_nothing(tmp_path):
    chosen = np.random.default_rng(0)
    codes = np.where(chosen.random((100, 1024)) < 0.05, chosen.integers(1, 16, (100, 1024)), 0).astype(np.uint8)
    data = pack(torch.from_numpy(codes)[None], 4, 128).numpy().tobytes()
    bits = 100 * 1024 * (0.05 * np.log2(15 / 0.05) + 0.95 * -np.log2(0.95))
    assert packed(tmp_path, data, [download.Tensor(data, 4, 128, 100)]).stat().st_size < 1.03 * bits / 8 + 500


# --- damage -----------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    """A container with segments of several kinds."""
    codes = [codes_of(bits, 1, 8, 256, bits) for bits in (3, 4, 8)]
    return packed(tmp_path, b"head".join(tensor.data for tensor in codes), codes)


def refused(file, folder):
    with pytest.raises((UsageError, BuildError)) as caught:
        download.unpack(file, folder)
    assert not folder.exists() or not list(folder.iterdir())
    return str(caught.value)


def test_what_is_damaged_is_refused_and_leaves_nothing(made, tmp_path):
    good, chance = made.read_bytes(), np.random.default_rng(0)
    file = (tmp_path / "model.pte").read_bytes()
    for case in range(300):
        data = bytearray(good)
        if case < container.HEADER_BYTES:
            data[case] ^= 1 << case % 8
        elif case < 200:
            data[chance.integers(len(data))] ^= 1 << case % 8
        else:
            del data[chance.integers(len(data)) :]
        try:
            assert reference.decode(bytes(data)) == file  # such as where the last bits of a deflate stream have no use
        except ValueError:
            made.write_bytes(data)
            assert "edgecomp" in refused(made, tmp_path / "out")


def test_another_sha256_is_refused(made, tmp_path):
    data = bytearray(made.read_bytes())
    data[24:56] = hashlib.sha256(b"something else").digest()
    data[84:88] = struct.pack("<I", zlib.crc32(data[:84]))
    made.write_bytes(data)
    assert "another SHA-256" in refused(made, tmp_path / "out")


def test_no_container_can_ask_for_more_than_deflate_could(made, tmp_path):
    data = bytearray(made.read_bytes())
    data[16:24] = struct.pack("<Q", 1 << 40)
    data[84:88] = struct.pack("<I", zlib.crc32(data[:84]))
    made.write_bytes(data)
    assert "damaged" in refused(made, tmp_path / "out")


def test_a_file_that_does_not_decode_into_itself_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "unpack", lambda *_: "broken")
    with pytest.raises(BuildError, match="does not decode"):
        packed(tmp_path, b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pte"]


def test_commands_say_what_is_wrong(edgecomp, made, tmp_path):
    done = edgecomp("unpack", made, "-o", "out")
    assert done.returncode == 0 and done.stdout.strip() == "out/model.pte"
    assert (tmp_path / "out/model.pte").read_bytes() == (tmp_path / "model.pte").read_bytes()
    made.write_bytes(made.read_bytes()[:-9])
    done = edgecomp("unpack", made, "-o", "new")
    assert done.returncode == 3 and "damaged" in done.stderr and "Download it again" in done.stderr
    assert not list((tmp_path / "new").iterdir())
    for name, message in (
        ("model.pte", "no download container"),
        ("absent", "does not exist"),
        (".", "cannot be read"),
    ):
        done = edgecomp("unpack", name)
        assert done.returncode == 2 and message in done.stderr
    (tmp_path / "taken").write_text("")
    made = packed(tmp_path, b"data")
    assert edgecomp("unpack", made, "-o", "taken").returncode == 3


# --- builds -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "method,runtime", [of_build(m, r, m, r) for m in discover.method_names() for r in discover.runtime_names()]
)
def test_downloads_of_all_methods_are_their_files(built, method, runtime, tmp_path):
    result, folder = built(method, runtime)
    file = folder / f"model{discover.runtime(runtime).SUFFIX}"
    made = download.unpack(folder / download.NAME, tmp_path)
    assert made.name == file.name and made.read_bytes() == file.read_bytes()
    assert reference.decode((folder / download.NAME).read_bytes()) == file.read_bytes()
    assert result.size.coded_download_bytes == (folder / download.NAME).stat().st_size
    assert result.size.coded_download_bytes <= 1.01 * result.size.download_bytes + 100
    assert download.of_file(folder / download.NAME, file)
    assert not download.of_file(folder / download.NAME, folder / "plan.json")


def size_of(download_bytes):
    sizes = {"original_bytes": 100, "artifact_bytes": 10, "ratio": 10, "download_bytes": 9, "installed_bytes": 20}
    return SizeReport(**sizes, coded_download_bytes=download_bytes)


@pytest.mark.parametrize("download_bytes,verdict", [(8, "pass"), (9, "fail"), (None, "inconclusive")])
def test_the_download_has_a_limit(download_bytes, verdict):
    plan = Plan.model_construct(
        limits=Limits(download_bytes=8), budget_bytes=None, max_drop_points=None, max_error_percent=None
    )
    judged = limits.judge(plan, size_of(download_bytes), Measured((), None))
    assert {limit.name: limit.verdict for limit in judged} == {"file": "fail", "download": verdict}


# --- codes that cost bits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method,setting", [("pq", "s=2"), ("pq", "codebooks=shared"), ("kmeans", ""), ("palettize", "")]
)
def test_a_price_for_bits_buys_bits_with_error(method, setting):
    torch.manual_seed(0)
    layer = torch.nn.Linear(128, 256)
    layer.weight.data.copy_(torch.randn(256, 128) * torch.rand(256, 1))
    sizes, errors = [], []
    for rate in (0, 0.02, 0.1):
        chosen = tuple(filter(None, (setting, f"rate={rate}")))
        coded = chain.parse(method, chosen)[0].compress(layer, None, 0)
        sizes.append(rates.count(coded.unpacked().flatten(), coded.format.k))
        errors.append((coded.decode() - layer.weight).norm().item())
    entropies = [(counts * rates.bits(counts)).sum().item() for counts in sizes]
    assert entropies[0] > entropies[1] > entropies[2] and entropies[2] < 0.9 * entropies[0]
    assert errors[0] < 1.02 * errors[1] < 1.05 * errors[2]


@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_order_of_codewords_changes_nothing_else(stages, blocks, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    groups = -(-blocks // -(-blocks // groups))  # as many as are in use
    codes = torch.randint(0, 6, (stages, blocks, 40), generator=generator, dtype=torch.uint8)
    words = torch.randn(stages, groups, 6, 2, generator=generator)
    after_codes, after_words = rates.by_frequency(codes, words)
    group_of = torch.arange(blocks) // -(-blocks // groups)
    for stage in range(stages):
        for block, group in enumerate(group_of.tolist()):
            before, after = codes[stage, block].long(), after_codes[stage, block].long()
            assert torch.equal(words[stage, group, before], after_words[stage, group, after])
        for group in range(groups):
            counts = rates.count(after_codes[stage, group_of == group].flatten(), 6)
            assert (counts.diff() <= 0).all()
