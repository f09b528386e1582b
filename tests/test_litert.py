"""What is LiteRT's own: alignment, the delegate for Python's interpreter, errors inside of custom ops."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_DATA, TINY_MODEL
from running import run_on_host

from edgecomp.devices import bundle
from edgecomp.errors import DeviceError
from edgecomp.load import load
from edgecomp.methods import kmeans, pq
from edgecomp.records import Request
from edgecomp.runtimes import litert
from edgecomp.runtimes.litert import flatbuffer

pytestmark = pytest.mark.xdist_group("export litert")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The tiny model's net with a coded convolution and two coded dense layers, and its file."""
    folder = tmp_path_factory.mktemp("coded")
    (folder / "tiny.py").write_text(TINY_MODEL + TINY_DATA)
    model = load(Request(model=str(folder / "tiny.py")))
    net = copy.deepcopy(model.net)
    net.conv2 = kmeans.compress(net.conv2, kmeans.Config(k=8), None, 0)
    net.dense1 = pq.compress(net.dense1, pq.Config(), None, 0)
    net.dense2 = pq.compress(net.dense2, pq.Config(k=32, axis="y"), None, 0)
    litert.export(net, model.example_inputs, folder / "m.tflite")
    return model, net.eval(), folder / "m.tflite"


@pytest.fixture
def coded(exported, tmp_path):
    """The same, with a file that the test may change."""
    model, net, path = exported
    return model, net, Path(shutil.copy(path, tmp_path))


def interpreter(path):
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    found = Interpreter(str(path), experimental_delegates=[load_delegate(str(bundle.litert_delegate()))])
    found.allocate_tensors()
    return found


def answers(found, x):
    outputs = []
    for sample in x.split(1):
        found.set_tensor(found.get_input_details()[0]["index"], sample.numpy())
        found.invoke()
        outputs.append(found.get_tensor(found.get_output_details()[0]["index"]).copy())
    return torch.from_numpy(np.concatenate(outputs))


def test_constants_lie_where_ops_may_read_them(coded):
    data = coded[2].read_bytes()
    model = flatbuffer.schema.Model.GetRootAs(data, 0)
    assert flatbuffer.schema.Model.ModelBufferHasIdentifier(data, 0)
    for i in range(model.BuffersLength()):
        if model.Buffers(i).DataLength():
            vector = model.Buffers(i)._tab
            assert vector.Vector(vector.Offset(4)) % 64 == 0


def test_a_file_read_and_written_is_the_same(coded, tmp_path):
    flatbuffer.write(flatbuffer.read(coded[2]), tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == coded[2].read_bytes()


def test_codes_are_custom_ops_and_everything_else_is_builtin(coded):
    model = flatbuffer.read(coded[2])
    codes = [model.operatorCodes[op.opcodeIndex] for op in model.subgraphs[0].operators]
    custom = [code.customCode.decode() for code in codes if code.customCode]
    assert custom == ["edgecomp_codebook_conv2d", "edgecomp_codebook_linear", "edgecomp_codebook_linear"]
    assert len(codes) > len(custom)


def test_pythons_interpreter_computes_the_same_with_the_delegate(coded):
    model, net, path = coded
    (x,) = model.data.test.take(slice(5))
    got = answers(interpreter(path), x)
    assert torch.equal(got, run_on_host("litert", path, [x], 10))
    with torch.inference_mode():
        assert (got - net(x)).norm() / net(x).norm() < 0.05


def test_an_error_inside_an_op_is_reported(coded):
    model, _, path = coded
    file = flatbuffer.read(path)
    for tensor in file.subgraphs[0].tensors:
        if tensor.type == flatbuffer.schema.TensorType.INT32 and list(tensor.shape) == [8]:
            file.buffers[tensor.buffer].data = np.full(32, 77, np.uint8)  # settings that make no sense
    flatbuffer.write(file, path)
    with pytest.raises(DeviceError, match="codebook_linear: the arguments do not fit together"):
        run_on_host("litert", path, list(model.data.test.take(0)), 10)
    with pytest.raises(RuntimeError, match="codebook_linear: the arguments do not fit together"):
        answers(interpreter(path), model.data.test.take(0)[0])
