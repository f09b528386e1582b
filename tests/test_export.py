"""What is written is what was meant: codes stay codes, the same bytes every time, damage is an error."""

import copy
import hashlib
import random
import subprocess
import sys

import pytest
import torch
from running import run_on_host

from edgecomp import discover, export, pipeline
from edgecomp.errors import BuildError, DeviceError
from edgecomp.load import load
from edgecomp.methods import pq
from edgecomp.records import Request

CODED = ("conv2", "dense1", "dense2")


@pytest.fixture(params=discover.runtime_names())
def runtime(request):
    """The name of a runtime, for all of them."""
    return request.param


def write(runtime, net, model, folder):
    """Exports a net; the path of its file."""
    path = folder / f"m{discover.runtime(runtime).SUFFIX}"
    discover.runtime(runtime).export(net, model.example_inputs, path)
    return path


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


def test_codes_are_found_in_the_file_and_the_outputs_agree(runtime, coded_tiny, tmp_path):
    model, net = coded_tiny
    path = write(runtime, net, model, tmp_path)
    proof = export._prove(model, runtime, net, path)
    assert proof.codes_stored
    assert proof.relative_difference < 0.05


def test_every_code_keeps_its_dtype_and_size(runtime, coded_tiny, tmp_path):
    model, net = coded_tiny
    path = write(runtime, net, model, tmp_path)
    stored = {(c.dtype, len(c.data)) for c in discover.runtime(runtime).constants(path)}
    for name in CODED:
        size = net.get_submodule(name).format.codes_bytes
        assert ("byte", size) in stored or ("int8", size) in stored  # LiteRT knows no unsigned constants
    assert path.stat().st_size < sum(c for _, c in stored) + 40_000


def test_exact_kernels_equal_torch_to_rounding(runtime, tiny_model, tmp_path):
    model = load(Request(model=str(tiny_model)))
    net = copy.deepcopy(model.net)
    net.dense1 = pq.compress(net.dense1, pq.Config(k=32, s=3), None, 0)
    net.conv2 = pq.compress(net.conv2, pq.Config(k=8, s=3, axis="y"), None, 0)
    path = write(runtime, net, model, tmp_path)
    (x,) = model.data.test.inputs
    got = run_on_host(runtime, path, [x], 10)
    with torch.inference_mode():
        assert torch.allclose(got, net(x), atol=1e-5)


def test_other_codes_in_the_file_fail_the_proof(runtime, coded_tiny, tmp_path):
    model, net = coded_tiny
    path = write(runtime, net, model, tmp_path)
    net.dense1.codes[0] ^= 1
    with pytest.raises(BuildError, match="the codes of dense1"):
        export._prove(model, runtime, net, path)


def test_other_numbers_from_the_runtime_fail_the_proof(runtime, coded_tiny, tmp_path):
    model, net = coded_tiny
    path = write(runtime, net, model, tmp_path)
    with torch.no_grad():
        net.head.weight.mul_(1.5)
    with pytest.raises(BuildError, match="outputs differ"):
        export._prove(model, runtime, net, path)


def test_separate_processes_write_the_same_bytes(runtime, tiny_model, tmp_path):
    script = (
        "import sys; from pathlib import Path; from edgecomp.load import load; from edgecomp.records import Request\n"
        f"from edgecomp.methods import pq; from edgecomp.runtimes import {runtime}\n"
        "model = load(Request(model=sys.argv[1])); net = model.net\n"
        "net.dense1 = pq.compress(net.dense1, pq.Config(), None, 0)\n"
        f"{runtime}.export(net, model.example_inputs, Path(sys.argv[2]))"
    )
    digests = set()
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", script, str(tiny_model), str(tmp_path / name)], check=True)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_damaged_files_are_errors_of_the_child_process(runtime, coded_tiny, tmp_path):
    """Whatever a damaged file does to the runtime, here it is a DeviceError that names the file, or nothing at all."""
    model, net = coded_tiny
    path = write(runtime, net, model, tmp_path)
    good = path.read_bytes()
    chance = random.Random(0)
    failures = 0
    for trial in range(20):
        data = bytearray(good[: len(good) // 2] if trial == 0 else good)
        for _ in range(5):
            data[chance.randrange(min(len(data), 12_000))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            run_on_host(runtime, path, list(model.data.test.take(slice(2))), 10)
        except DeviceError as error:
            failures += 1
            assert path.name in str(error)
        except ValueError:  # the output shape itself was damaged
            failures += 1
    assert failures > 0


def test_empty_file_and_foreign_file(runtime, tmp_path):
    for content in (b"", b"PK" + bytes(1000)):
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(DeviceError, match="m does not run"):
            run_on_host(runtime, tmp_path / "m", [torch.zeros(1, 4)], 1)


def test_arguments_that_do_not_fit_are_an_error_of_the_op(runtime, tiny_model, tmp_path):
    """A code buffer that is too short, as a damaged or foreign exporter might write it."""
    model = load(Request(model=str(tiny_model)))
    net = model.net
    net.dense1 = pq.compress(net.dense1, pq.Config(), None, 0)
    net.dense1.codes = net.dense1.codes[:-16].clone()
    with torch.no_grad():  # export only traces shapes; the torch twin would refuse as well
        path = write(runtime, net, model, tmp_path)
    with pytest.raises(DeviceError, match="running the model failed|do not fit"):
        run_on_host(runtime, path, list(model.data.test.take(0)), 10)


def test_runtime_modules_keep_their_contract():
    for name in discover.runtime_names():
        module = discover.runtime(name)
        assert module.SUFFIX.startswith(".")
        assert module.version()


@pytest.mark.parametrize("method", [*discover.method_names(), "pq+int8", "svd:pq", "scheme2:kmeans", "cp+pq"])
def test_every_method_goes_to_every_runtime(runtime, method, tiny_model, tmp_path):
    """The stages themselves raise if the file does not hold the codes, or does not compute what the module does."""
    request = Request(model=str(tiny_model), method=method, runtime=runtime, on="none", out=tmp_path / "out")
    result = pipeline.build(request)
    assert result.runtime == runtime
    assert (
        sum(line.bytes for line in result.layers)
        == (tmp_path / "out" / f"model{discover.runtime(runtime).SUFFIX}").stat().st_size
    )


def test_embeddings_stay_codes(runtime, tmp_path):
    net = torch.nn.Sequential(torch.nn.Embedding(100, 32), torch.nn.Flatten(), torch.nn.Linear(5 * 32, 4)).eval()
    net[0] = pq.compress(net[0], pq.Config(k=32, s=4), None, 0)
    index = torch.randint(0, 100, (1, 5))
    path = tmp_path / "m"
    discover.runtime(runtime).export(net, (index,), path)
    assert bytes(net[0].codes.numpy()) in {constant.data for constant in discover.runtime(runtime).constants(path)}
    given = index.int() if runtime == "litert" else index  # its converter makes inputs 32-bit numbers
    got = run_on_host(runtime, path, [given], 4)
    assert torch.allclose(got, net(index), atol=1e-5)
