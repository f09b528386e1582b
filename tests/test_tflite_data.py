"""Data for a .tflite: its layers are fitted to what they get, and the error of its outputs is told."""

import json

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_files import SAME, Builder, build

from edgecomp import export, pipeline
from edgecomp.errors import BuildError, UsageError
from edgecomp.graph.given import distance
from edgecomp.load import load
from edgecomp.pipeline import check
from edgecomp.records import Request
from edgecomp.runtimes.litert import flatbuffer, interpreter
from edgecomp.runtimes.litert.recording import FileRecording


def samples(count=300):
    """Of the file's inputs, by name: images all of whose channels have a mean of their own."""
    chance = np.random.default_rng(3)
    images = chance.standard_normal((count, 16, 16, 3)) + np.array([1, 2, -1])
    return {"images": images.astype(np.float32), "extra": chance.standard_normal((count, 64)).astype(np.float32)}


def in_folder(folder, arrays):
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def interpreted(path, sample, tensor):
    """What a tensor of the file holds for a sample, by an interpreter of this process."""
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    own = Interpreter(str(path), experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True)
    own.allocate_tensors()
    for index, x in enumerate((sample["images"], sample["extra"])):
        own.set_tensor(index, x[:1])
    own.invoke()
    return torch.from_numpy(own.get_tensor(tensor))


def test_layers_get_what_the_file_gives_them(keras):
    """Run alone on what is recorded, every layer gives the file's own outputs: padding, layout, rows of images."""
    model, one = load(Request(model=str(keras))), samples(1)
    recording = FileRecording(model.net, tuple(map(torch.from_numpy, one.values())), 1, list(model.net.sites))
    operators = flatbuffer.read(keras).subgraphs[0].operators
    activations = {"stem": torch.nn.functional.relu6, "block1/conv": torch.relu, "dense": lambda y: y.clamp(-1, 1)}
    for name, site in model.net.sites.items():
        layer = model.net.get_submodule(name)
        with torch.no_grad():
            got = activations.get(name, lambda y: y)(layer(recording.inputs(model.net, layer)))
        wanted = interpreted(keras, one, int(operators[site.operator].outputs[0]))
        got = got.permute(0, 2, 3, 1) if got.dim() == 4 else got
        assert torch.allclose(got, wanted, atol=1e-4), name
    moments = recording.statistics(model.net, model.net.get_submodule("head"), 0)
    assert torch.allclose(moments.mean, recording.inputs(model.net, model.net.get_submodule("head"))[0], atol=1e-5)


def test_a_pass_sees_the_codes_of_those_before(keras):
    model, one = load(Request(model=str(keras))), samples(4)
    net, given = model.net, tuple(map(torch.from_numpy, one.values()))
    recording = FileRecording(net, given, 1, list(net.sites))
    before = recording.inputs(net, net.get_submodule("head"))
    halved = net.get_submodule("halved")
    with torch.no_grad():
        halved.weight.mul_(2)
        halved.bias.mul_(2)
    after = FileRecording(net, given, 1, list(net.sites)).inputs(net, net.get_submodule("head"))
    assert torch.allclose(after, 2 * before, rtol=1e-2, atol=1e-2)


def test_codes_are_fitted_to_the_samples_of_a_folder(keras, tmp_path):
    """Outputs are nearer for it on samples that were held out."""
    folder = in_folder(tmp_path / "shots", samples())
    model = load(Request(model=str(keras), data=str(folder)))
    assert [len(split) for split in model.data.splits] == [0, 270, 30] and model.data.test.name == "shots, held out"

    def off(file):
        return distance(*(export.file_outputs(model, "litert", path, model.data.test.inputs) for path in (file, keras)))

    result, out = build(keras, data=str(folder))
    assert result.calibration == "shots" and result.model.data == str(folder)
    assert result.error.inputs == "samples of shots, held out" and result.error.reference == "the original's file"
    coded = [line for line in result.layers if line.method]
    assert len(coded) == 5 and all(line.output_error is not None for line in coded)
    fitted = off(out / "model.tflite")
    _, out = build(keras)
    assert fitted < 0.7 * off(out / "model.tflite")


def test_the_report_has_the_error_of_the_outputs(edgecomp, keras, tmp_path):
    folder = in_folder(tmp_path / "shots", samples(40))
    command = ["build", keras, "--set", "kinds=dense,conv", "--set", "k=4", "--on", "none", "--budget", "1MB"]
    done = edgecomp(*command, "--data", folder, "--max-error", "5", "-o", "out")
    assert done.returncode == 1 and "FAIL outputs off by" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["error"]["percent"] > 10 and report["error"]["samples"] == 4
    assert any("this model is probably broken" in note for note in report["notes"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "samples of shots, held out" in page and "probably broken" in page


def test_a_sweep_with_data(edgecomp, keras, tmp_path):
    folder = in_folder(tmp_path / "shots", samples(40))
    command = ("--methods", "kmeans", "--budgets", "60kB", "--set", "kinds=dense,conv", "--on", "none")
    done = edgecomp("sweep", keras, "--data", folder, *command, "--engine", "local", "-o", "out")
    assert done.returncode == 0, done.stderr
    reports = list((tmp_path / "out" / "points").glob("*/report.json"))
    assert reports and all(json.loads(path.read_text())["calibration"] == "shots" for path in reports)


DATA_FILE = """
import torch
from numpy import random

def split(seed, count):
    chance = random.default_rng(seed)
    images = torch.from_numpy(chance.standard_normal((count, 16, 16, 3))).float()
    extra = torch.from_numpy(chance.standard_normal((count, 64))).float()
    return {"extra": extra, "images": images}, torch.from_numpy(chance.integers(0, 20, count))

def data():
    return {"train": split(0, 8), "calibration": split(1, 64), "test": split(2, 40), "metric": "top1"}
"""


def test_labels_in_a_file_of_data(keras, tmp_path):
    """Accuracy is that of both files, by their first output, which is not the one that the signature names first."""
    path = tmp_path / "shots.py"
    path.write_text(DATA_FILE)
    result, out = build(keras, data=str(path), on="host")
    model = load(Request(model=str(keras), data=str(path)))
    test = model.data.test
    for file, got in ((keras, result.accuracy.original), (out / "model.tflite", result.accuracy.compressed)):
        first = export.file_outputs(model, "litert", file, test.inputs)[0]
        assert first.shape == (40, 20)
        assert got == pytest.approx(100 * (first.argmax(1) == test.targets).float().mean().item(), abs=1e-3)
    assert result.accuracy.metric == "top1" and result.accuracy.samples == 40
    assert result.calibration == "calibration" and result.error.inputs == "samples of test"
    again = pipeline.bench(Request(out=out, on="host"))  # with the same data
    assert again.accuracy == result.accuracy


def test_data_of_somebody_elses_report_are_not_run(keras, tmp_path):
    _, out = build(keras)
    report = json.loads((out / "report.json").read_text())
    report["model"]["data"] = str(tmp_path / "evil.py")
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    (out / "report.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match=r"evil\.py as its data, which is a program.*\n.*--data FILE"):
        pipeline.bench(Request(out=out, on="host"))


@pytest.mark.parametrize(
    "change,error,message",
    [
        (lambda a: a.pop("extra"), UsageError, r"shots has 1 \.npy files.*keras\.tflite takes 2 .* \(images, extra\)"),
        (lambda a: a.update(other=a.pop("extra")), UsageError, r"images\.npy, but no extra\.npy"),
        (lambda a: a.update(images=a["images"][:, :8]), BuildError,
         r"images\.npy for images: samples have shape \(8, 16, 3\), that of keras\.tflite \(16, 16, 3\)"),
        (lambda a: a.update(extra=a["extra"][:3]), BuildError, r"4 of images\.npy for images, 3 of extra\.npy"),
        (lambda a: a.update(extra=a["extra"].astype(int)), BuildError, r"is torch\.int64, keras\.tflite has .*float32"),
        (lambda a: a.update(extra=np.array([{}])), BuildError, r"extra\.npy cannot be read: Object arrays"),
        (lambda a: a.update(extra=np.array(["a"])), BuildError, r"extra\.npy holds <U1, not numbers"),
        (lambda a: a["extra"].fill(np.nan), BuildError, r"4 of 4 samples hold NaN"),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit(keras, tmp_path, change, error, message):
    arrays = samples(4)
    change(arrays)
    folder = in_folder(tmp_path / "shots", arrays)
    with pytest.raises(error, match=message):
        load(Request(model=str(keras), data=str(folder)))


def test_images_of_an_open_size(tmp_path):
    """Our kernel is told the size of its outputs by the file, and so cannot follow."""
    b = Builder()
    images = b.tensor("serving_default_images:0", (1, 1, 1, 3))
    x = b.convolution("stem", images, 16, 3, 1, padding=SAME)
    for index in (images, x):
        b.graph.tensors[index].shapeSignature[1:3] = -1
    path = b.write(tmp_path / "open.tflite", [("images", images)], [("output_0", x)])
    (left,) = load(Request(model=str(path))).net.children()
    assert "leaves the size of its images open" in left.reason and "fixed size" in left.reason
    folder = in_folder(tmp_path / "shots", {"images": np.zeros((4, 32, 32, 3), np.float32)})
    with pytest.raises(BuildError, match=r"images of open\.tflite leaves its size open.*\n.*fixed size"):
        load(Request(model=str(path), data=str(folder)))


def test_data_that_are_nowhere(keras, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load(Request(model=str(keras), data=str(tmp_path / "no")))
    (tmp_path / "shots.csv").write_text("1,2")
    with pytest.raises(UsageError, match=r"shots\.csv is neither a Python file nor a folder"):
        load(Request(model=str(keras), data=str(tmp_path / "shots.csv")))
    (tmp_path / "shots.py").write_text("x = 1")
    with pytest.raises(BuildError, match=r"no function data\(\)"):
        load(Request(model=str(keras), data=str(tmp_path / "shots.py")))


def test_what_the_interpreter_cannot_run(keras, tmp_path, monkeypatch):
    folder = in_folder(tmp_path / "shots", samples(4))
    _, out = build(keras, layers=("dense",))
    with pytest.raises(BuildError, match=r"unresolved custom op.*\n.*coded already"):
        load(Request(model=str(out / "model.tflite"), data=str(folder)))
    monkeypatch.setattr(interpreter, "_PROGRAM", "import os; os.abort()")
    with pytest.raises(BuildError, match=r"keras\.tflite does not run.*SIGABRT"):
        load(Request(model=str(keras), data=str(folder)))
    monkeypatch.setattr(interpreter, "_PROGRAM", "import time; time.sleep(100)")
    monkeypatch.setattr(interpreter, "_PATIENCE_S", 0.1)
    with pytest.raises(BuildError, match="takes longer than"):
        load(Request(model=str(keras), data=str(folder)))


def test_a_file_cannot_be_trained(keras):
    with pytest.raises(UsageError, match=r"--recover trains nets of torch, and .*keras\.tflite is a finished file"):
        check(Request(model=str(keras), recover_epochs=1, on="none"))
