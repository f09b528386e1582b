"""Files for apps that can add no custom op: right for every format, codes still codes, and plain runtimes run them."""

import copy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run_on_host
from test_layers import FORMATS
from test_layers import filled as filled_linear
from torch import nn

from edgecomp import chain, discover, export
from edgecomp.compress import replace_weights
from edgecomp.errors import BuildError
from edgecomp.layers import CodebookConv2d, CodebookEmbedding, CodebookLinear, CodeFormat, builtin
from edgecomp.layers.builtin import Builtin, BuiltinConv2d, BuiltinLinear, codes_per_byte, join, without_custom_ops
from edgecomp.load import load
from edgecomp.methods import pq
from edgecomp.records import Request
from edgecomp.report import read_report

GEOMETRY = {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 0], "dilation": [1, 2]}


@pytest.fixture(params=discover.runtime_names())
def runtime(request):
    """The name of a runtime, for all of them."""
    return request.param


def grouped(format, groups):
    return format.model_copy(update={"groups": {"one": 1, "two": min(2, format.blocks), "own": format.blocks}[groups]})


def filled(format, kind=CodebookLinear, *more):
    """A codebook layer with random contents."""
    source, _, _ = filled_linear(format)
    layer = kind(format, kind is not CodebookEmbedding, *more)
    layer.load_state_dict(source.state_dict(), strict=kind is not CodebookEmbedding)
    return layer.eval()


@given(st.integers(2, 256), st.integers(1, 20))
def test_bytes_hold_as_many_codes_as_fit(k, n):
    count = codes_per_byte(k)
    assert k**count <= 256 and (count == 8 or k ** (count + 1) > 256)
    codes = torch.randint(0, k, (3, n))
    joined = join(codes, k)
    assert joined.dtype == torch.int8 and joined.shape == (3, -(-n // count))
    assert torch.equal(builtin._digits(joined.float() + 128, k)[:, :n].long(), codes)


@settings(deadline=None)
@given(FORMATS, st.sampled_from(["one", "two", "own"]), st.integers(1, 3), st.integers(1, 60))
def test_both_forms_of_a_dense_layer_are_the_layer(format, groups, batch, chunk):
    layer = filled(grouped(format, groups))
    x = torch.randn(batch, 2, format.columns)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(builtin, "_CHUNK", chunk)
        for why in ["asked for", ""][: 2 - format.axis]:
            assert torch.allclose(BuiltinLinear(layer, why)(x), layer(x), atol=1e-4)


@settings(deadline=None)
@given(FORMATS, st.sampled_from(["one", "two", "own"]))
def test_embeddings_and_convolutions_are_the_layer(format, groups):
    index = torch.randint(0, format.rows, (2, 3))
    layer = filled(grouped(format, groups), CodebookEmbedding)
    assert torch.allclose(without_custom_ops(layer, (index,))(index), layer(index), atol=1e-5)
    wide = grouped(format.model_copy(update={"columns": 6 * format.columns}), groups)
    layer = filled(wide, CodebookConv2d, GEOMETRY)
    x = torch.randn(2, format.columns, 6, 7)
    with torch.no_grad():
        assert torch.allclose(BuiltinConv2d(layer)(x), layer(x), atol=1e-4)


def test_the_form_fits_the_layer_and_says_why():
    def made(batch=1, **changes):
        layer = filled(CodeFormat(**{"rows": 300, "columns": 8, "k": 64, "s": 4, **changes}))
        return without_custom_ops(layer, (torch.zeros(batch, 8),))

    assert made().form == "lookup" and made().remark == "without custom op looked up, 8 bits for a code instead of 6"
    assert "columns" in made(axis=1).remark and "20 rows" in made(rows=20).remark and "9 rows" in made(9).remark
    assert made(k=16).remark == "without custom op looked up, 4 bits for a code"
    assert made(k=3).remark == "without custom op looked up, 1.6 bits for a code"


def test_tied_layers_stay_one():
    layer = filled(CodeFormat(rows=8, columns=8, k=4, s=2))
    net = without_custom_ops(nn.Sequential(layer, nn.ReLU(), layer), (torch.zeros(1, 8),))
    assert isinstance(net[0], Builtin) and net[0] is net[2]


FORMS = [
    {"k": 16, "s": 4, "groups": 6},
    {"k": 3, "s": 1, "scaled": True, "half": False},
    {"k": 40, "s": 5, "stages": 2, "groups": 2},
    {"k": 16, "s": 1, "axis": 1, "groups": 300},
    {"k": 6, "s": 4, "axis": 1, "stages": 2, "scaled": True, "half": False},
]


class Mixed(nn.Module):
    """A dense layer, a convolution and an embedding of one format; the last two of fewer rows."""

    def __init__(self, form):
        super().__init__()
        groups = form.get("groups", 1)

        def format(rows, columns):
            made = CodeFormat(**{**form, "rows": rows, "columns": columns, "groups": 1})
            return made.model_copy(update={"groups": min(groups, made.blocks)})

        self.conv = filled(format(10, 3 * 6), CodebookConv2d, GEOMETRY)
        self.dense = filled(format(300, 10 * 3 * 3))
        self.table = filled(format(50, 300), CodebookEmbedding)

    def forward(self, x, index):
        return self.dense(self.conv(x).flatten(1)) + self.table(index).sum(1)


@pytest.mark.parametrize("form", FORMS)
def test_every_format_runs_without_custom_ops(runtime, form, tmp_path):
    net = Mixed(form).eval()
    x, index = torch.randn(1, 3, 6, 5), torch.randint(0, 50, (1, 4))
    with torch.no_grad():
        expected, made = net(x, index), without_custom_ops(net, (x, index))
    path = tmp_path / f"m{discover.runtime(runtime).SUFFIX}"
    discover.runtime(runtime).export(made, (x, index), path)
    assert not any("edgecomp" in name for name in discover.runtime(runtime).operators(path))
    stored = {constant.data for constant in discover.runtime(runtime).constants(path)}
    for layer in (made.conv, made.dense, made.table):
        assert layer.codes.numpy().tobytes() in stored and layer.codebook.numpy().tobytes() in stored
    given = index.int() if runtime == "litert" else index  # its converter makes inputs 32-bit numbers
    got = run_on_host(runtime, path, [x, given], 300)
    assert (got - expected).norm() < 1e-4 * expected.norm()


PLAIN = {
    "litert": """
from ai_edge_litert.interpreter import Interpreter
def outputs(path, x):
    it = Interpreter(path); it.allocate_tensors()
    it.set_tensor(it.get_input_details()[0]["index"], x); it.invoke()
    return it.get_tensor(it.get_output_details()[0]["index"])
""",
    "executorch": """
import torch
from executorch.runtime import Runtime
def outputs(path, x):
    return Runtime.get().load_program(path).load_method("forward").execute([torch.from_numpy(x)])[0].numpy()
""",
}
ANSWER = """
import sys, numpy as np
for path in map(str.strip, sys.stdin):
    np.save(f"{path}.y.npy", outputs(path, np.load(f"{path}.x.npy")))
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def plain():
    """`plain(runtime)(path, x)`: the outputs that the runtime as it is installed gives for a file, in a process that
    knows nothing of edgecomp."""
    processes = {}

    def run(runtime, path, x):
        if runtime not in processes or processes[runtime].poll() is not None:
            command = [sys.executable, "-c", PLAIN[runtime] + ANSWER]
            processes[runtime] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        np.save(f"{path}.x.npy", x.numpy())
        print(path, file=processes[runtime].stdin, flush=True)
        assert processes[runtime].stdout.readline().strip() == "done"
        return torch.from_numpy(np.load(f"{path}.y.npy"))

    yield run
    for process in processes.values():
        process.communicate(timeout=60)


CODED = ("pq", "rq", "kmeans", "palettize", "binary", "svd:kmeans", "int8")


@pytest.mark.parametrize("name", discover.runtime_names())
def test_the_plain_runtime_runs_what_every_method_makes(name, plain, tmp_path):
    """A layer for each method, one behind the other, in one file."""
    torch.manual_seed(0)
    layers = [replace_weights(nn.Linear(32, 32), chain.parse(method, (), name)[0], None, 0) for method in CODED]
    net, x = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh()))).eval(), torch.randn(1, 32)
    made, path = without_custom_ops(net, (x,)), tmp_path / f"m{discover.runtime(name).SUFFIX}"
    discover.runtime(name).export(made, (x,), path)
    assert not any("edgecomp" in operator for operator in discover.runtime(name).operators(path))
    with torch.no_grad():
        assert torch.allclose(plain(name, path, x), net(x), atol=1e-3)


@pytest.mark.parametrize(
    "runtime,method",
    [
        pytest.param(runtime, method, marks=pytest.mark.xdist_group(f"no custom ops {runtime}"))
        for method in ["svd:pq", "pq+int8", "scheme2"]
        for runtime in discover.runtime_names()
    ],
)
def test_builds_whose_files_the_plain_runtime_runs(runtime, method, built, plain, tmp_path):
    result, out = built(method, runtime, stock=True)
    path = out / f"model{discover.runtime(runtime).SUFFIX}"
    coded = method != "scheme2"
    assert result.stock and (out / f"custom-op{path.suffix}").exists() == coded
    assert any("without custom op" in line.reason for line in result.layers) == coded
    assert sum(line.bytes for line in result.layers) == result.size.artifact_bytes == path.stat().st_size
    x = torch.rand(1, 1, 12, 12)
    expected = run_on_host(runtime, path, [x], 10)
    assert torch.allclose(plain(runtime, shutil.copy(path, tmp_path), x), expected, atol=1e-4)


def test_other_codes_in_the_file_fail_the_proof(runtime, tiny_model, tmp_path):
    model = load(Request(model=str(tiny_model)))
    net = copy.deepcopy(model.net)
    net.dense1 = pq.compress(net.dense1, pq.Config(), None, 0)
    net = without_custom_ops(net, model.example_inputs)
    path = tmp_path / f"m{discover.runtime(runtime).SUFFIX}"
    discover.runtime(runtime).export(net, model.example_inputs, path)
    assert export._prove(model, runtime, net, path).relative_difference < 1e-3
    net.dense1.codes[0, 0] ^= 1
    with pytest.raises(BuildError, match="the codes of dense1"):
        export._prove(model, runtime, net, path)


def test_the_command_says_what_it_costs(edgecomp, runtime, tiny_model, tmp_path):
    arguments = ("build", tiny_model, "--runtime", runtime, "--on", "host", "--budget", "1MB", "-o", "out")
    done = edgecomp(*arguments, "--no-custom-ops")
    assert done.returncode == 0, done.stderr
    assert "built-in costs" in done.stdout and "without custom op looked up" in done.stdout.replace("\n", " ")
    result = read_report(tmp_path / "out" / "report.json")
    found = {m.artifact: m for m in result.measurements}
    assert set(found) == {"original", "compressed", "custom-op"} and all(m.p50_ms for m in found.values())
    html = (tmp_path / "out" / "report.html").read_text()
    assert "built-in costs" in html and "no custom op" in html
    assert "cached" in edgecomp(*arguments, "--no-custom-ops").stderr
    plain = edgecomp(*arguments)
    assert plain.returncode == 0 and "built-in costs" not in plain.stdout
    assert plain.stderr.count("cached") == 1  # compress, but not export
    assert not list((tmp_path / "out").glob("custom-op.*"))


def test_a_finished_file_is_refused(edgecomp, tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"")
    done = edgecomp("build", "m.tflite", "--no-custom-ops", "-o", "out")
    assert done.returncode == 2 and "--no-custom-ops cannot build" in done.stderr


def test_the_old_spelling_still_works(edgecomp, tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"")
    assert "--no-custom-ops cannot build" in edgecomp("build", "m.tflite", "--stock", "-o", "out").stderr
    shown = edgecomp("build", "--help").stdout
    assert "--no-custom-ops" in shown and "--stock" not in shown
