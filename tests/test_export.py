"""What is written is what was meant: codes stay codes, the same bytes every time, damage is an error."""

import copy
import hashlib
import random
import subprocess
import sys

import pytest
import torch

from edgecomp import discover, export
from edgecomp.errors import BuildError, DeviceError
from edgecomp.load import load
from edgecomp.methods import pq
from edgecomp.records import Request
from edgecomp.runtimes import executorch

CODED = ("conv2", "dense1", "dense2")


@pytest.fixture
def coded_tiny(tiny_model):
    """The tiny model and its net with a coded convolution and two coded dense layers."""
    model = load(Request(model=str(tiny_model)))
    net = copy.deepcopy(model.net)
    for name, config in zip(
        CODED, (pq.Config(), pq.Config(k=64, s=2, codebooks="shared"), pq.Config(axis="y")), strict=True
    ):
        net.set_submodule(name, pq.compress(net.get_submodule(name), config, None, 0))
    return model, net.eval()


def test_codes_are_found_in_the_file_and_the_outputs_agree(coded_tiny, tmp_path):
    model, net = coded_tiny
    executorch.export(net, model.example_inputs, tmp_path / "m.pte")
    proof = export._prove(model, "executorch", net, tmp_path / "m.pte")
    assert proof.codes_stored
    assert proof.relative_difference < 0.05


def test_every_code_keeps_its_dtype_and_size(coded_tiny, tmp_path):
    model, net = coded_tiny
    executorch.export(net, model.example_inputs, tmp_path / "m.pte")
    stored = {(c.dtype, len(c.data)) for c in executorch.constants(tmp_path / "m.pte")}
    for name in CODED:
        assert ("byte", net.get_submodule(name).format.codes_bytes) in stored
    assert (tmp_path / "m.pte").stat().st_size < sum(c for _, c in stored) + 40_000


def test_exact_kernels_equal_torch_to_rounding(tiny_model, tmp_path):
    model = load(Request(model=str(tiny_model)))
    net = copy.deepcopy(model.net)
    net.dense1 = pq.compress(net.dense1, pq.Config(k=32, s=3), None, 0)
    net.conv2 = pq.compress(net.conv2, pq.Config(k=8, s=3, axis="y"), None, 0)
    executorch.export(net, model.example_inputs, tmp_path / "m.pte")
    x = model.data.test.inputs
    got = export.run_on_host("executorch", tmp_path / "m.pte", [x], 10)
    with torch.inference_mode():
        assert torch.allclose(got, net(x), atol=1e-5)


def test_other_codes_in_the_file_fail_the_proof(coded_tiny, tmp_path):
    model, net = coded_tiny
    executorch.export(net, model.example_inputs, tmp_path / "m.pte")
    net.dense1.codes[0] ^= 1
    with pytest.raises(BuildError, match="the codes of dense1"):
        export._prove(model, "executorch", net, tmp_path / "m.pte")


def test_other_numbers_from_the_runtime_fail_the_proof(coded_tiny, tmp_path):
    model, net = coded_tiny
    executorch.export(net, model.example_inputs, tmp_path / "m.pte")
    with torch.no_grad():
        net.head.weight.mul_(1.5)
    with pytest.raises(BuildError, match="outputs differ"):
        export._prove(model, "executorch", net, tmp_path / "m.pte")


def test_separate_processes_write_the_same_bytes(tiny_model, tmp_path):
    script = (
        "import sys; from pathlib import Path; from edgecomp.load import load; from edgecomp.records import Request\n"
        "from edgecomp.methods import pq; from edgecomp.runtimes import executorch\n"
        "model = load(Request(model=sys.argv[1])); net = model.net\n"
        "net.dense1 = pq.compress(net.dense1, pq.Config(), None, 0)\n"
        "executorch.export(net, model.example_inputs, Path(sys.argv[2]))"
    )
    digests = set()
    for name in ("a.pte", "b.pte"):
        subprocess.run([sys.executable, "-c", script, str(tiny_model), str(tmp_path / name)], check=True)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_damaged_files_are_errors_of_the_child_process(coded_tiny, tmp_path):
    """Whatever a damaged file does to the runtime, here it is a DeviceError that names the file, or nothing at all."""
    model, net = coded_tiny
    path = tmp_path / "m.pte"
    executorch.export(net, model.example_inputs, path)
    good = path.read_bytes()
    chance = random.Random(0)
    failures = 0
    for trial in range(20):
        data = bytearray(good[: len(good) // 2] if trial == 0 else good)
        for _ in range(5):
            data[chance.randrange(min(len(data), 12_000))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            export.run_on_host("executorch", path, [model.data.test.inputs[:2]], 10)
        except DeviceError as error:
            failures += 1
            assert "m.pte" in str(error)
        except ValueError:  # the output shape itself was damaged
            failures += 1
    assert failures > 0


def test_empty_file_and_foreign_file(tmp_path):
    for content in (b"", b"PK" + bytes(1000)):
        (tmp_path / "m.pte").write_bytes(content)
        with pytest.raises(DeviceError, match=r"m\.pte does not run"):
            export.run_on_host("executorch", tmp_path / "m.pte", [torch.zeros(1, 4)], 1)


def test_arguments_that_do_not_fit_are_an_error_of_the_op(tiny_model, tmp_path):
    """A code buffer that is too short, as a damaged or foreign exporter might write it."""
    model = load(Request(model=str(tiny_model)))
    net = model.net
    net.dense1 = pq.compress(net.dense1, pq.Config(), None, 0)
    net.dense1.codes = net.dense1.codes[:-16].clone()
    with torch.no_grad():  # export only traces shapes; the torch twin would refuse as well
        executorch.export(net, model.example_inputs, tmp_path / "m.pte")
    with pytest.raises(DeviceError, match="running the model failed"):
        export.run_on_host("executorch", tmp_path / "m.pte", [model.data.test.inputs[:1]], 10)


def test_runtime_modules_keep_their_contract():
    for name in discover.runtime_names():
        module = discover.runtime(name)
        assert module.SUFFIX.startswith(".")
        assert module.version()
