"""Models come in, broken ones are refused with the file, the layer and the remedy."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgecomp.errors import BuildError, UsageError
from edgecomp.graph.trace import fold_norms, trace
from edgecomp.load import load
from edgecomp.records import Request


def load_file(path, **request):
    return load(Request(model=str(path), **request))


def test_model_file(tiny_model):
    model = load_file(tiny_model)
    assert model.name == "tiny"
    assert len(model.data.test) == 100
    assert not model.net.training


def test_batch_norms_are_folded_and_the_function_stays(tiny_model):
    model = load_file(tiny_model)
    assert isinstance(model.net.norm, nn.Identity)
    namespace: dict = {}
    exec(tiny_model.read_text(), namespace)
    x = torch.rand(3, 1, 12, 12)
    assert torch.allclose(model.net(x), namespace["build"]().eval()(x), atol=1e-4)


def test_norm_whose_input_is_used_elsewhere_is_not_folded():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    net, x = Branch().eval(), torch.rand(1, 1, 8, 8)
    folded = fold_norms(net, trace(net, (x,), "branch"))
    assert isinstance(folded.norm, nn.BatchNorm2d)


def test_factory(tmp_path, monkeypatch, tiny_model):
    monkeypatch.syspath_prepend(tmp_path)
    assert load(Request(model="tiny:build")).data is not None


def test_zoo_name_and_path_are_the_same_model():
    assert load(Request(model="fashion")).sha256 == load(Request(model="models/fashion.py")).sha256


def test_unknown_models_name_the_nearest():
    with pytest.raises(UsageError, match="fashion"):
        load(Request(model="fashoin"))
    with pytest.raises(UsageError, match="zfnet"):
        load(Request(model="models/zfnett.py"))


NET = "import torch\ndef build(): return torch.nn.Linear(2, 2)\n"


@pytest.mark.parametrize(
    "source,message",
    [
        ("1/0", "ZeroDivisionError"),
        ("import no_such_module", "no_such_module"),
        ("def build(:", "SyntaxError"),
        ("x = 1", "no function build"),
        ("def build(): return 3", "not a torch.nn.Module"),
        ("def build(): raise ValueError('gone wrong')", "gone wrong"),
        (NET, "no function example_inputs"),
        (NET + "def example_inputs(): return 3", "tuple of tensors"),
        (NET + "def example_inputs(): return (torch.zeros(1, 3),)", "cannot trace"),
        (NET + "def example_inputs(): return (torch.zeros(1, 2),)\ndef data(): return {'train': 1}", "splits"),
    ],
)
def test_broken_model_files(tmp_path, source, message):
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(BuildError, match=message) as caught:
        load_file(path)
    assert "broken" in str(caught.value)


WITH_WEIGHTS = """
import torch
weights = "{name}"
def build(): return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
def example_inputs(): return (torch.zeros(1, 4),)
"""


@pytest.fixture
def with_weights(tmp_path):
    def write(name, state):
        path = tmp_path / "model.py"
        path.write_text(WITH_WEIGHTS.format(name=name))
        if name.endswith(".safetensors"):
            save_file(state, tmp_path / name)
        else:
            torch.save(state, tmp_path / name)
        return path

    return write


def good_state():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).state_dict()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights(with_weights, name):
    state = {key: value.half() if value.is_floating_point() else value for key, value in good_state().items()}
    assert load_file(with_weights(name, state)).net[0].weight.dtype == torch.float32


def test_nested_state_dict(with_weights):
    state = good_state()
    net = load_file(with_weights("w.pth", {"state_dict": state, "epoch": torch.tensor(3)})).trained
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_wrong_shape_names_the_layer(with_weights):
    with pytest.raises(BuildError, match=r"0\.weight has shape \(3, 5\), the model expects \(3, 4\)"):
        load_file(with_weights("w.safetensors", good_state() | {"0.weight": torch.zeros(3, 5)}))


def test_missing_and_surplus_weights_are_named(with_weights):
    state = good_state() | {"2.weight": torch.zeros(1)}
    del state["0.bias"]
    with pytest.raises(BuildError, match=r"missing: 0\.bias.*not in the model: 2\.weight"):
        load_file(with_weights("w.safetensors", state))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(with_weights, value):
    state = good_state()
    state["0.weight"][1, 2] = value
    with pytest.raises(BuildError, match=r"0\.weight holds 1 NaN or infinite"):
        load_file(with_weights("w.safetensors", state))


class Explosive:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_pickled_weights_are_not_opened(with_weights):
    with pytest.raises(BuildError, match="pickled Python objects"):
        load_file(with_weights("w.pth", {"0.weight": Explosive()}))


def test_a_pickled_module_is_not_opened(with_weights):
    with pytest.raises(BuildError, match="pickled Python objects"):
        load_file(with_weights("w.pth", nn.Linear(4, 3)))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_damaged_weights(with_weights, tmp_path, name):
    path = with_weights(name, good_state())
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(BuildError, match=name):
        load_file(path)


def test_missing_weights(with_weights, tmp_path):
    path = with_weights("w.safetensors", good_state())
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(BuildError, match="w.safetensors does not exist"):
        load_file(path)


def test_torch_export_archive_gets_its_layers_back(tiny_model, tmp_path):
    original = load_file(tiny_model)
    archive = tmp_path / "tiny.pt2"
    torch.export.save(torch.export.export(original.net, original.example_inputs), archive)
    model = load_file(archive)
    assert isinstance(model.net.dense1, nn.Linear) and isinstance(model.net.conv2, nn.Conv2d)
    x = torch.rand(1, 1, 12, 12)
    assert torch.allclose(model.net(x), original.net(x), atol=1e-6)


def test_archive_with_a_pickle_is_not_opened(tiny_model, tmp_path):
    model = load_file(tiny_model)
    archive, loaded = tmp_path / "tiny.pt2", tmp_path / "evil.pt2"
    torch.export.save(torch.export.export(model.net, model.example_inputs), archive)
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(loaded, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, pickle.dumps(Explosive()) if name.endswith(".pt") else data)
    with pytest.raises(BuildError, match="not opened"):
        load_file(loaded)


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "x.pt2").write_text("nothing")
    with pytest.raises(BuildError, match=r"x\.pt2 is not a torch\.export archive"):
        load_file(tmp_path / "x.pt2")
