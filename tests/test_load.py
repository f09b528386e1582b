"""Models come in, broken ones are refused with the file, the layer and the remedy."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgecomp.errors import BuildError, UsageError
from edgecomp.graph.canonical import canonical
from edgecomp.graph.given import Given
from edgecomp.load import load
from edgecomp.pipeline import dry_run
from edgecomp.records import Request
from edgecomp.util.weights import load_weights


def load_file(path, **request):
    return load(Request(model=str(path), **request))


def test_model_file(tiny_model):
    model = load_file(tiny_model)
    assert model.name == "tiny"
    assert len(model.data.test) == 100
    assert not model.net.training


def test_batch_norms_are_folded_and_the_function_stays(tiny_model):
    model = load_file(tiny_model)
    assert "batch_norm" not in model.net.code
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

    x = torch.rand(1, 1, 8, 8)
    net = canonical(Given(Branch()), (x,), [(x,)], "branch")
    assert "batch_norm" in net.code


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
        (
            NET + "def example_inputs(): return (torch.zeros(1, 2),)\ndef data(): return {'train': 1}",
            "no calibration and no",
        ),
        (NET + "def example_inputs(): return torch.zeros(1, 2)", "a single tensor, not a tuple"),
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
    assert load_file(with_weights(name, state)).net.get_submodule("0").weight.dtype == torch.float32


def test_nested_state_dict(with_weights):
    state = good_state()
    net = load_file(with_weights("w.pth", {"state_dict": state, "epoch": torch.tensor(3)})).trained
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("wrapper", ["model", "model_state_dict", "ema", "net"])
def test_wrapped_state_dicts_are_named(with_weights, wrapper, capsys):
    state = {"module._orig_mod." + name: value for name, value in good_state().items()}
    load_file(with_weights("w.pth", {wrapper: state, "optimizer": {"lr": 0.1}, "epoch": 3}))
    said = " ".join(capsys.readouterr().err.split())
    assert f"weights are those under {wrapper}" in said and "names without module., _orig_mod." in said


def test_of_two_state_dicts_the_plain_one_is_taken(tmp_path):
    net = nn.Linear(2, 2)
    torch.save(
        {"ema": {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, "model": nn.Linear(2, 2).state_dict()},
        tmp_path / "w.pt",
    )
    load_weights(net, tmp_path / "w.pt")
    assert not torch.equal(net.weight, torch.ones(2, 2))


@pytest.mark.parametrize("prefix", ["model.", "module.", "net.module.", "_orig_mod."])
def test_prefixes(with_weights, prefix):
    load_file(with_weights("w.safetensors", {prefix + name: value for name, value in good_state().items()}))


def test_parts_that_were_compiled(tmp_path):
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    save_file(
        {"0._orig_mod.0.weight": torch.ones(2, 2), "0._orig_mod.0.bias": torch.ones(2)}, tmp_path / "w.safetensors"
    )
    load_weights(net, tmp_path / "w.safetensors")
    assert torch.equal(net[0][0].weight, torch.ones(2, 2))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_of_tied_weights_one_is_enough(tmp_path):
    net, path = Tied(), tmp_path / "w.safetensors"
    for name in ("embedding.weight", "head.weight"):
        save_file({name: torch.full((5, 3), 2.0)}, path)
        load_weights(net, path)
        assert net.embedding.weight is net.head.weight and net.head.weight.mean() == 2
        nn.init.zeros_(net.head.weight)
    save_file({"embedding.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)}, path)
    with pytest.raises(BuildError, match=r"embedding.weight and head.weight are one tensor in the model"):
        load_weights(net, path)


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        ("w.h5", b"\x89HDF\r\n", "tflite"),
    ],
)
def test_files_that_are_no_weights(with_weights, tmp_path, name, content, message):
    path = with_weights("w.pth", good_state())
    path.write_text(WITH_WEIGHTS.format(name=name))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BuildError, match=message):
        load_file(path)


@pytest.mark.parametrize(
    "name,message",
    [
        ("net.onnx", "onnx2tf 2.0"),
        ("net.keras", "from_keras_model"),
        ("net.h5", "from_keras_model"),
        ("net.mlmodel", "PyTorch model"),
        ("net.safetensors", "weights = 'net.safetensors'"),
        ("net.pth", "not a model but its weights"),
    ],
)
def test_models_of_other_tools(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(BuildError, match=message):
        load_file(tmp_path / name)


def test_folders_of_other_tools(tmp_path):
    saved, package = tmp_path / "saved", tmp_path / "net.mlpackage"
    saved.mkdir()
    package.mkdir()
    (saved / "saved_model.pb").write_bytes(b"")
    with pytest.raises(BuildError, match="SavedModel"):
        load_file(saved)
    with pytest.raises(BuildError, match="Core ML"):
        load_file(package)


@pytest.mark.parametrize("name", ["net.pt", "weights.pth"])
def test_torchscript(tmp_path, name):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / name)
    with pytest.raises(BuildError, match="a TorchScript program"):
        load_file(tmp_path / name)
    with pytest.raises(BuildError, match="a TorchScript program"):
        load_weights(nn.Linear(2, 2), tmp_path / name)


def test_a_pointer_in_the_place_of_a_model(tmp_path):
    (tmp_path / "net.tflite").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BuildError, match="Git LFS pointer"):
        load_file(tmp_path / "net.tflite")


NAMED = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 3)
    def forward(self, mask, ids):
        return {"logits": self.out((self.embed(ids) * mask[..., None]).mean(1)), "mask": mask}
def build(): return Net()
def example_inputs(): return {"ids": torch.zeros(1, 5, dtype=torch.long), "mask": torch.ones(1, 5)}
def data():
    ids = torch.arange(40).reshape(8, 5) % 9
    inputs = {"mask": torch.rand(8, 5), "ids": ids.int()}
    return {name: (inputs, torch.arange(8) % 3) for name in ("train", "calibration", "test")}
"""


DATA = """
import torch
def build(): return torch.nn.Linear(4, {outputs})
def example_inputs(): return (torch.zeros(1, 4),)
def data(): return dict.fromkeys(("train", "calibration", "test"), (torch.rand(8, 4), {targets}))
recipe = None  # data are looked at before anything is trained
"""


@pytest.mark.parametrize(
    "outputs,targets,message",
    [
        (3, "torch.arange(8) % 4", "2 labels are none of the 3 classes"),
        (3, "torch.zeros(8, 3).long()", "no metric is named"),
        (3, "torch.zeros(7).long()", "8 of input 1, 7 of targets"),
    ],
)
def test_data_are_checked_before_training(tmp_path, outputs, targets, message):
    (tmp_path / "net.py").write_text(DATA.format(outputs=outputs, targets=targets))
    with pytest.raises(BuildError, match=message):
        load_file(tmp_path / "net.py")


def test_a_model_that_does_not_take_its_data(tmp_path):
    source = DATA.format(outputs=3, targets="None").replace("Linear(4", "Linear(5")
    (tmp_path / "net.py").write_text(source)
    with pytest.raises(BuildError, match=r"does not take the first samples of data\(\), test: RuntimeError"):
        load_file(tmp_path / "net.py")


def test_inputs_by_name(tmp_path, capsys):
    (tmp_path / "named.py").write_text(NAMED)
    model = load_file(tmp_path / "named.py")
    assert [x.dtype for x in model.data.test.inputs] == [torch.int64, torch.float32]
    record = model.data.test.take(slice(3))
    logits = model.net(*record)[0]
    assert torch.allclose(logits, model.given.module(mask=record[1], ids=record[0])["logits"], atol=1e-5)
    assert model.data.metric == "top1" and "no metric is named; top1" in capsys.readouterr().err


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


def test_data_for_an_archive_and_in_place_of_a_models_own(tiny_model, tmp_path):
    original = load_file(tiny_model)
    archive, shots, folder = tmp_path / "tiny.pt2", tmp_path / "shots.py", tmp_path / "shots"
    torch.export.save(torch.export.export(original.net, original.example_inputs), archive)
    shots.write_text(
        "import torch\ndef data():\n    split = torch.rand(7, 1, 12, 12), torch.arange(7)\n"
        "    return {'train': split, 'calibration': split, 'test': split}\n"
    )
    folder.mkdir()
    np.save(folder / "any.npy", np.zeros((5, 1, 12, 12), np.float32))
    tiny_model.write_text(tiny_model.read_text() + "\ndef data():\n    raise RuntimeError('not asked for')\n")
    for path in (archive, tiny_model):
        model = load_file(path, data=str(shots))
        assert len(model.data.test) == 7 and model.data.metric == "top1" and model.data_source == str(shots)
        model = load_file(path, data=str(folder))
        assert [len(split) for split in model.data.splits] == [0, 5, 5] and model.data.metric == "agreement"
    with pytest.raises(UsageError, match=r"no samples to train on.*\n.*data\(\), not a folder"):
        dry_run(Request(model=str(tiny_model), data=str(folder), method="l1", out=tmp_path / "out", on="none"))
    np.save(folder / "any.npy", np.zeros((5, 12, 12), np.float32))
    with pytest.raises(BuildError, match=r"any\.npy for input 1: samples have .* that of tiny\.pt2 \(1, 12, 12\)"):
        load_file(archive, data=str(folder))


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
