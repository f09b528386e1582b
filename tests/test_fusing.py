"""A ReLU behind a codebook layer is part of its op in the file, in both runtimes, and only where it may be."""

import numpy as np
import pytest
import torch
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.schema import KernelCall
from running import run_on_host
from torch import nn
from torch.nn import functional as F

from edgecomp import discover
from edgecomp.errors import BuildError, DeviceError
from edgecomp.layers.codebook import CodebookConv2d, Coded
from edgecomp.methods import binary, int8, kmeans, pq
from edgecomp.runtimes.litert import flatbuffer

OURS = {"edgecomp::codebook_linear.out", "edgecomp::codebook_conv2d.out", "edgecomp_codebook_linear"}


@pytest.fixture(params=discover.runtime_names())
def runtime(request):
    """The name of a runtime, for all of them."""
    return request.param


def coded(layer, method=pq, **settings):
    return method.compress(layer, method.Config(**settings), None, 0)


def fused(path):
    """Of every call of our ops in the file, whether it has a ReLU."""
    if path.suffix == ".tflite":
        model = flatbuffer.read(path)
        graph, names = model.subgraphs[0], [flatbuffer.operation(code) for code in model.operatorCodes]
        inputs = [list(op.inputs) for op in graph.operators if "edgecomp" in names[op.opcodeIndex]]
        constants = [[graph.tensors[i] for i in indices] for indices in inputs]
        settings = [t for tensors in constants for t in tensors if t.type == flatbuffer.schema.TensorType.INT32]
        return [bool(np.frombuffer(bytes(model.buffers[t.buffer].data), np.int32)[7]) for t in settings]
    plan = deserialize_pte_binary(path.read_bytes()).program.execution_plan[0]
    calls = [step.instr_args for step in plan.chains[0].instructions if isinstance(step.instr_args, KernelCall)]
    ours = [call for call in calls if plan.operators[call.op_index].name.startswith("edgecomp")]
    return [plan.values[call.args[10]].val.bool_val for call in ours]


class Both(nn.Module):
    """What comes out before the ReLU is needed too."""

    def __init__(self):
        super().__init__()
        self.dense = coded(nn.Linear(24, 40))

    def forward(self, x):
        y = self.dense(x)
        return torch.cat([y.relu(), y], 1)


class Functions(nn.Module):
    """One layer, called twice, with ReLUs of three sorts."""

    def __init__(self):
        super().__init__()
        self.conv, self.dense = coded(nn.Conv2d(3, 3, 3, padding=1), kmeans), coded(nn.Linear(3 * 36, 40), binary)

    def forward(self, x):
        x = F.relu(self.conv(x))
        return torch.relu(self.dense(self.conv(x).relu_().flatten(1)))


class Changed(Both):
    """The ReLU works in place, and what it has changed is used under its old name."""

    def forward(self, x):
        y = self.dense(x)
        y.relu_()
        return y * 2


NETS = {
    "dense": (lambda: nn.Sequential(coded(nn.Linear(24, 40)), nn.ReLU()), (24,), [True]),
    "conv": (lambda: nn.Sequential(coded(nn.Conv2d(3, 40, 3)), nn.ReLU(inplace=True)), (3, 6, 6), [True]),
    "dropout": (lambda: nn.Sequential(coded(nn.Linear(24, 40)), nn.ReLU(), nn.Dropout()), (24,), [True]),
    "functions": (Functions, (3, 6, 6), [True, True, True]),
    "both": (Both, (24,), [False]),
    "changed": (Changed, (24,), [True]),
    "pool": (lambda: nn.Sequential(coded(nn.Conv2d(3, 40, 3)), nn.AvgPool2d(2), nn.ReLU()), (3, 6, 6), [False]),
    "other": (lambda: nn.Sequential(coded(nn.Linear(24, 40)), nn.ReLU6()), (24,), [False]),
}


@pytest.mark.parametrize("name", NETS)
def test_a_relu_is_fused_where_it_may_be(runtime, name, tmp_path):
    make, shape, wanted = NETS[name]
    net, x = make().eval(), torch.randn(6, 1, *shape)
    path = tmp_path / f"m{discover.runtime(runtime).SUFFIX}"
    discover.runtime(runtime).export(net, (x[0],), path)
    with torch.no_grad():
        expected = torch.cat([net(sample.clone()) for sample in x])
    got = run_on_host(runtime, path, [x], expected.shape[1:].numel())
    assert torch.allclose(got, expected.flatten(1), atol=1e-3)  # 16-bit tables
    assert (expected >= 0).all() or name == "both"
    assert fused(path) == wanted
    assert name != "dense" or discover.runtime(runtime).operators(path) <= OURS  # there is no ReLU beside
    assert all(part.codes.dtype == torch.uint8 for part in net.modules() if isinstance(part, Coded))


def test_other_relus_stay(runtime, tmp_path):
    net = nn.Sequential(coded(nn.Linear(24, 40)), nn.ReLU(), coded(nn.Linear(40, 40), int8), nn.ReLU(), nn.Flatten())
    x = torch.randn(6, 1, 24)
    path = tmp_path / f"m{discover.runtime(runtime).SUFFIX}"
    discover.runtime(runtime).export(net.eval(), (x[0],), path)
    got = run_on_host(runtime, path, [x], 40)
    with torch.no_grad():
        assert (got - net(x[:, 0])).norm() < 0.01 * got.norm()
    assert (got >= 0).all() and (got == 0).any()


class Called(nn.Module):
    """A layer whose op is called with any settings of its lookup."""

    def __init__(self, layer, *lookup):
        super().__init__()
        self.layer, self.lookup = layer, lookup

    def forward(self, x):
        place = 7  # of what follows codes, codebook, scale, bias, rows, axis, tile
        before = self.layer._matrix_arguments()[:place]
        if isinstance(self.layer, CodebookConv2d):
            return torch.ops.edgecomp.codebook_conv2d(x, *before, *self.lookup, *self.layer.geometry.values())
        return torch.ops.edgecomp.codebook_linear(x, *before, *self.lookup)


@pytest.mark.parametrize(
    "lookup", [(8, 64), (16, 16), (32, 32), (0, 64), (24, 64), (8, 48), (1, 64), (-8, 64), (2**32 + 8, 64)]
)
def test_settings_that_no_kernel_knows_are_an_error_of_the_op(runtime, lookup, tmp_path):
    for layer, shape in ((coded(nn.Linear(24, 40)), (24,)), (coded(nn.Conv2d(3, 40, 3)), (3, 6, 6))):
        x = torch.randn(1, 1, *shape)
        path = tmp_path / f"m{discover.runtime(runtime).SUFFIX}"
        net = Called(layer, *lookup, True).eval()
        if max(lookup) > 2**31 and runtime == "litert":  # its settings are int32
            with pytest.raises(BuildError, match="out of bounds"):
                discover.runtime(runtime).export(net, (x[0],), path)
            continue
        discover.runtime(runtime).export(net, (x[0],), path)
        expected = net(x[0]).flatten(1)
        if lookup in [(8, 64), (16, 16), (32, 32), (0, 64)]:
            got = run_on_host(runtime, path, [x], expected.shape[1])
            assert (got - expected).norm() < 0.02 * expected.norm() and (got >= 0).all()
        else:
            with pytest.raises(DeviceError, match="running the model failed|do not fit"):
                run_on_host(runtime, path, [x], expected.shape[1])
