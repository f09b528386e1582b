"""What is written is what was meant: codes stay codes, the same bytes every time, damage is an error."""

import copy
import random
import subprocess
import sys

import pytest
import torch
from conftest import TINY_DATA, TINY_MODEL, of_build
from running import run_on_host

from edgecomp import chain, discover, export
from edgecomp.devices.host import HOST_TARGET
from edgecomp.devices.target import find_target
from edgecomp.errors import BuildError, DeviceError
from edgecomp.layers.quantized import Arithmetic
from edgecomp.load import load
from edgecomp.methods import pq
from edgecomp.records import Request
from edgecomp.runtimes import Constant

CODED = ("conv2", "dense1", "dense2")


@pytest.fixture(
    scope="module",
    params=[pytest.param(r, marks=pytest.mark.xdist_group(f"export {r}")) for r in discover.runtime_names()],
)
def runtime(request):
    """The name of a runtime, for all of them."""
    return request.param


def write(runtime, net, model, folder):
    """Exports a net; the path of its file."""
    path = folder / f"m{discover.runtime(runtime).SUFFIX}"
    discover.runtime(runtime).export(net, model.example_inputs, path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny model, for tests that leave it as it is."""
    path = tmp_path_factory.mktemp("model") / "tiny.py"
    path.write_text(TINY_MODEL + TINY_DATA)
    return load(Request(model=str(path)))


@pytest.fixture(scope="module")
def exported(runtime, tiny, tmp_path_factory):
    """Its net with a coded convolution and two coded dense layers, and the file of that."""
    net, configs = copy.deepcopy(tiny.net), (pq.Config(), pq.Config(k=64, s=2, codebooks="shared"), pq.Config(axis="y"))
    for name, config in zip(CODED, configs, strict=True):
        net.set_submodule(name, pq.compress(net.get_submodule(name), config, None, 0))
    return net.eval(), write(runtime, net, tiny, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def coded(exported):
    """The same for one test: it may change the net, and leaves the file."""
    net, path = exported
    return copy.deepcopy(net), path


def test_codes_are_found_in_the_file_and_the_outputs_agree(runtime, tiny, coded):
    proof = export._prove(tiny, runtime, *coded)
    assert proof.codes_stored
    assert proof.relative_difference < 0.05


def test_every_code_keeps_its_dtype_and_size(runtime, coded):
    net, path = coded
    stored = {(c.dtype, len(c.data)) for c in discover.runtime(runtime).constants(path)}
    for name in CODED:
        size = net.get_submodule(name).format.codes_bytes
        assert ("byte", size) in stored or ("int8", size) in stored  # LiteRT knows no unsigned constants
    assert path.stat().st_size < sum(c for _, c in stored) + 40_000


def test_exact_kernels_equal_torch_to_rounding(runtime, tiny, tmp_path):
    model, net = tiny, copy.deepcopy(tiny.net)
    net.dense1 = pq.compress(net.dense1, pq.Config(k=32, s=3), None, 0)
    net.conv2 = pq.compress(net.conv2, pq.Config(k=8, s=3, axis="y"), None, 0)
    path = write(runtime, net, model, tmp_path)
    (x,) = model.data.test.inputs
    got = run_on_host(runtime, path, [x], 10)
    with torch.inference_mode():
        assert torch.allclose(got, net(x), atol=1e-5)


def test_other_codes_in_the_file_fail_the_proof(runtime, tiny, coded):
    net, path = coded
    net.dense1.codes[0] ^= 1
    with pytest.raises(BuildError, match="the codes of dense1"):
        export._prove(tiny, runtime, net, path)


def test_other_numbers_from_the_runtime_fail_the_proof(runtime, tiny, coded):
    net, path = coded
    with torch.no_grad():
        net.head.weight.mul_(1.5)
    with pytest.raises(BuildError, match="outputs differ"):
        export._prove(tiny, runtime, net, path)


def test_separate_processes_write_the_same_bytes(runtime, tiny_model, tmp_path):
    """This one, which has exported other nets before, and a fresh one."""
    script = (
        "import sys; from pathlib import Path; from edgecomp import discover; from edgecomp.load import load\n"
        "from edgecomp.methods import pq; from edgecomp.records import Request\n"
        "model = load(Request(model=sys.argv[1])); net = model.net\n"
        "net.dense1 = pq.compress(net.dense1, pq.Config(), None, 0)\n"
        f"discover.runtime({runtime!r}).export(net, model.example_inputs, Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", script, str(tiny_model), str(tmp_path / "there")], check=True)
    model = load(Request(model=str(tiny_model)))
    model.net.dense1 = pq.compress(model.net.dense1, pq.Config(), None, 0)
    here = write(runtime, model.net, model, tmp_path)
    assert here.read_bytes() == (tmp_path / "there").read_bytes()


def test_damaged_files_are_errors_of_the_child_process(runtime, tiny, coded, tmp_path):
    """Whatever a damaged file does to the runtime, here it is a DeviceError that names the file, or nothing at all."""
    good, path = coded[1].read_bytes(), tmp_path / coded[1].name
    chance = random.Random(0)
    failures = 0
    for trial in range(20):
        data = bytearray(good[: len(good) // 2] if trial == 0 else good)
        for _ in range(5):
            data[chance.randrange(min(len(data), 12_000))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            run_on_host(runtime, path, list(tiny.data.test.take(slice(2))), 10)
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


def test_arguments_that_do_not_fit_are_an_error_of_the_op(runtime, tiny, tmp_path):
    """A code buffer that is too short, as a damaged or foreign exporter might write it."""
    model, net = tiny, copy.deepcopy(tiny.net)
    net.dense1 = pq.compress(net.dense1, pq.Config(), None, 0)
    net.dense1.codes = net.dense1.codes[:-16].clone()
    with torch.no_grad():  # export only traces shapes; the torch twin would refuse as well
        path = write(runtime, net, model, tmp_path)
    with pytest.raises(DeviceError, match="running the model failed|do not fit"):
        run_on_host(runtime, path, list(model.data.test.take(0)), 10)


def test_runtime_modules_keep_their_contract(runtime, tiny, coded, tmp_path):
    """All eight members of `edgecomp.runtimes`, each with what it promises to give."""
    module, (net, _) = discover.runtime(runtime), coded
    assert module.SUFFIX.startswith(".") and module.SUFFIX in {".pte", ".tflite"}
    assert module.version() == find_target(HOST_TARGET).runtimes[runtime].version
    net.head = chain.parse("int8", (), runtime)[0].compress(net.head, None, 0)
    assert module.export(net, tiny.example_inputs, tmp_path / "m") is None and (tmp_path / "m").stat().st_size > 0
    constants = module.constants(tmp_path / "m")
    assert constants and all(isinstance(found, Constant) and isinstance(found.data, bytes) for found in constants)
    held = {constant.data for constant in constants}
    forms = module.stored(net.head)
    assert forms and all(isinstance(form, torch.Tensor) for form in forms)
    assert any(form.contiguous().numpy().tobytes() in held for form in forms)
    names = module.operators(tmp_path / "m")
    assert any("edgecomp" in name and "linear" in name for name in names) and all(isinstance(n, str) for n in names)
    depthwise, dense = torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.Linear(8, 8)
    for static in (False, True):
        assert module.refuse(dense, Arithmetic(8, static)) == ""
        assert bool(module.refuse(depthwise, Arithmetic(8, static))) == (not static)
    for layer in (dense, torch.nn.Conv2d(4, 4, 3)):
        assert isinstance(module.prefers_static(layer), bool)


@pytest.mark.parametrize(
    "method,runtime",
    [
        of_build(method, runtime, method, runtime)
        for method in [*discover.method_names(), "pq+int8", "svd:pq", "scheme2:kmeans", "cp+pq"]
        for runtime in discover.runtime_names()
    ],
)
def test_every_method_goes_to_every_runtime(built, method, runtime):
    """The stages themselves raise if the file does not hold the codes, or does not compute what the module does."""
    result, out = built(method, runtime)
    assert result.runtime == runtime
    size = (out / f"model{discover.runtime(runtime).SUFFIX}").stat().st_size
    assert sum(line.bytes for line in result.layers) == size


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
