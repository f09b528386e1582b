"""A .tflite as a model: coded in place, everything else as it was, and damaged files named."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from test_export import write as export_tiny
from tflite_files import SAME, Builder, keras_like

from edgecomp import export, pipeline
from edgecomp.errors import BuildError, UsageError
from edgecomp.graph.given import distance
from edgecomp.layers import checkpoint
from edgecomp.layers.codebook import Coded
from edgecomp.load import load
from edgecomp.pipeline import check
from edgecomp.records import Request
from edgecomp.runtimes.litert import flatbuffer, interpreter
from edgecomp.runtimes.litert.recording import FileRecording

METHODS = ("binary", "kmeans", "palettize", "pq", "rq")


@pytest.fixture
def keras(tmp_path):
    return keras_like(tmp_path / "keras.tflite")


def build(path, method="pq", *settings, **request):
    """The report of a build of every layer, and the folder it is in."""
    out = path.parent / "out"
    settings = ("kinds=dense,conv", *settings)
    request = {"on": "none", "layers": ("*",), **request}
    return pipeline.build(Request(model=str(path), method=method, settings=settings, out=out, **request)), out


def leaves(value):
    """A tree of the schema as plain lists."""
    if isinstance(value, list):
        return [leaves(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "__dict__"):
        return {name: leaves(item) for name, item in vars(value).items()}
    return value.item() if isinstance(value, np.generic) else value


# --- reading ----------------------------------------------------------------------------------------------


def test_layers_by_their_names(keras):
    model = load(Request(model=str(keras)))
    layers = dict(model.net.named_children())
    assert list(model.net.sites) == ["stem", "block1/conv", "dense", "halved", "head"]
    assert isinstance(layers["block1/conv"], torch.nn.Conv2d) and layers["block1/conv"].dilation == (2, 1)
    assert layers["block1/conv"].padding == (2, 1) and model.net.sites["stem"].padding == (0, 1, 0, 1)
    assert layers["dense"].in_features == 512 and layers["head"].bias is None
    assert layers["halved"].weight.dtype == torch.float16
    assert [tuple(x.shape) for x in model.example_inputs] == [(1, 16, 16, 3), (1, 64)]  # as the graph says
    assert [given.name for given in model.net.inputs] == ["images", "extra"]
    assert model.sha256 == export.sha256_file(keras)


def test_inputs_and_outputs_in_the_order_of_the_runtime(keras):
    """A signature may name them in another one."""
    model = load(Request(model=str(keras)))
    inputs, _ = export.proof_inputs(model)
    first, second = export.file_outputs(model, "litert", keras, inputs)
    own = Interpreter(str(keras))
    own.allocate_tensors()
    for given, x in zip(model.net.inputs, inputs, strict=True):
        own.set_tensor(given.tensor, x[3:4].numpy())
    own.invoke()
    for output, detail in zip((first, second), own.get_output_details(), strict=True):
        assert np.allclose(output[3:4], own.get_tensor(detail["index"]), atol=1e-4)


def test_what_is_left_alone_has_a_reason_in_the_report(keras):
    result, _ = build(keras)
    reasons = {line.name: line.reason for line in result.layers if line.method is None}
    assert "in 2 groups" in reasons["block1/grouped"]
    assert "DEPTHWISE_CONV_2D is not coded" in reasons["depthwise/depthwise"]
    assert "shared" in reasons["twice, twice_more"]
    assert result.accuracy is None and result.calibration == "data-free"


@pytest.mark.parametrize(
    "change,reason",
    [
        (lambda m, op: setattr(op.builtinOptions, "weightsFormat", 1), "shuffled"),
        (lambda m, op: setattr(op, "builtinOptions", schema.AddOptionsT()), "options are those of another"),
        (lambda m, op: setattr(op, "inputs", [op.inputs[0], op.inputs[0], -1]), "FULLY_CONNECTED gives them"),
        (lambda m, op: setattr(m.subgraphs[0].tensors[op.inputs[1]], "type", 9), "its weights are INT8"),
        (lambda m, op: setattr(m.subgraphs[0].tensors[op.inputs[1]], "shape", [1 << 20]), "do not have the shape"),
        (lambda m, op: setattr(m.subgraphs[0].tensors[op.inputs[0]], "shape", [1, 1 << 30]), "makes no sense"),
        (lambda m, op: setattr(m.subgraphs[0].tensors[op.outputs[0]], "shape", [1, 21]), "do not fit together"),
    ],
)  # fmt: skip
def test_reasons_that_few_files_give(keras, monkeypatch, change, reason):
    model = flatbuffer.read(keras)
    change(model, model.subgraphs[0].operators[-1])
    monkeypatch.setattr(flatbuffer, "verified", lambda data, source: model)
    net = load(Request(model=str(keras))).net
    last = list(net.children())[-1]
    assert reason in last.reason


# --- writing ----------------------------------------------------------------------------------------------


def test_codes_are_in_place_and_all_else_is_as_it_was(keras):
    _, out = build(keras)
    before, after = flatbuffer.read(keras), flatbuffer.read(out / "model.tflite")
    old, new = before.subgraphs[0], after.subgraphs[0]
    coded, dequantize = (0, 1, 4, 9, 10), 8  # stem, block1/conv, dense, halved, head
    taken = {int(old.operators[dequantize if i == 9 else i].inputs[int(i != 9)]) for i in coded}
    for i, tensor in enumerate(old.tensors):
        assert i in taken or leaves(new.tensors[i]) == leaves(tensor)
    buffers = {old.tensors[i].buffer for i in taken}
    for i, buffer in enumerate(before.buffers):
        assert i in buffers or leaves(after.buffers[i].data) == leaves(buffer.data)
    for field in ("signatureDefs", "metadata", "description", "metadataBuffer", "version"):
        assert leaves(getattr(before, field)) == leaves(getattr(after, field))
    assert leaves(after.operatorCodes[: len(before.operatorCodes)]) == leaves(before.operatorCodes)
    assert [leaves(old.inputs), leaves(old.outputs)] == [leaves(new.inputs), leaves(new.outputs)]
    kept = [leaves(op) for i, op in enumerate(old.operators) if i not in (*coded, dequantize)]
    position = iter(leaves(op) for op in new.operators)
    assert all(op in position for op in kept)  # in this order
    added = [flatbuffer.text(after.operatorCodes[op.opcodeIndex].customCode) for op in new.operators]
    assert sorted(filter(None, added)) == [*["edgecomp_codebook_conv2d"] * 2, *["edgecomp_codebook_linear"] * 3]


def test_the_original_is_the_file_itself(keras):
    model = load(Request(model=str(keras)))
    assert export.original_file(model, "litert").read_bytes() == keras.read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_every_coding_goes_into_both_sorts_of_files(method, keras, tiny_model, tmp_path):
    """The stages raise if the file does not hold the codes or does not compute what the decoded weights give."""
    tiny = load(Request(model=str(tiny_model)))
    for path in (keras, export_tiny("litert", tiny.net, tiny, tmp_path)):
        result, out = build(path, method)
        assert result.runtime == "litert" and result.proof.codes_stored
        assert result.proof.relative_difference < 0.05
        assert method in {line.method for line in result.layers}
        size = (out / "model.tflite").stat().st_size
        assert sum(line.bytes for line in result.layers) == size < path.stat().st_size
        assert sum(line.original_bytes for line in result.layers) == path.stat().st_size


@pytest.mark.parametrize("settings", [("k=32", "s=3"), ("k=8", "s=3", "axis=y")])
def test_exact_kernels_give_what_decoded_weights_give(keras, settings):
    """Padding, dilation, activations, rows made of images: to rounding."""
    result, _ = build(keras, "pq", *settings)
    assert {"block1/conv", "dense", "halved"} <= {line.name for line in result.layers if line.method}
    assert result.proof.relative_difference < 1e-5


def test_uneven_padding_goes_in_front(keras):
    result, out = build(keras, "kmeans", "k=2", layers=("stem",))
    assert result.proof.relative_difference < 1e-2
    model = flatbuffer.read(out / "model.tflite")
    names = [flatbuffer.name_of(schema.BuiltinOperator, model.operatorCodes[op.opcodeIndex].builtinCode) for op in
             model.subgraphs[0].operators]  # fmt: skip
    assert names[:3] == ["PAD", "CUSTOM", "RELU6"]


def test_a_relu_goes_into_the_op(keras):
    result, out = build(keras, "kmeans", "k=4", layers=("block1/conv",))
    assert result.proof.relative_difference < 1e-5
    model = flatbuffer.read(out / "model.tflite")
    names = [flatbuffer.operation(model.operatorCodes[op.opcodeIndex]) for op in model.subgraphs[0].operators]
    assert "edgecomp_codebook_conv2d" in names and "RELU" not in names


def test_a_file_that_is_coded_can_be_coded_further(keras, tmp_path):
    _, out = build(keras, "pq", layers=("dense",))
    again = tmp_path / "again.tflite"
    (out / "model.tflite").rename(again)
    result, _ = build(again, "kmeans", layers=("block1/conv",))
    assert {line.method for line in result.layers if line.name == "block1/conv"} == {"kmeans"}


def test_other_codes_in_the_file_fail_the_proof(keras):
    model = load(Request(model=str(keras)))
    _, out = build(keras)
    net = checkpoint.restore(model.net, out / "model.safetensors")
    assert sum(isinstance(layer, Coded) for layer in net.modules()) == 5
    export._prove(model, "litert", net, out / "model.tflite")
    net.get_submodule("dense").codes[0] ^= 1
    with pytest.raises(BuildError, match="the codes of dense"):
        export._prove(model, "litert", net, out / "model.tflite")


# --- data -------------------------------------------------------------------------------------------------


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


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["svd", "scheme1", "tucker", "cp", "tt", "int8", "int4", "pq+int8", "svd:pq", "coupled_tt"]
)
def test_methods_that_need_other_layers(keras, method):
    with pytest.raises(UsageError, match=r"keras\.tflite.*in place") as caught:
        check(Request(model=str(keras), method=method, on="none"))
    assert "Use one of binary, kmeans, palettize, pq, rq" in str(caught.value)


def test_another_runtime(keras):
    with pytest.raises(UsageError, match="a file of litert; it cannot become one of executorch"):
        check(Request(model=str(keras), runtime="executorch", on="none"))
    with pytest.raises(UsageError, match="Did you mean 'litert'"):
        check(Request(model=str(keras), runtime="litter", on="none"))


def test_missing_empty_and_foreign_files(tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(UsageError, match=r"m\.tflite does not exist"):
        load(Request(model=str(path)))
    for content in (b"", b"PK" + bytes(1000), b"\x1c\0\0\0TFL2" + bytes(100), b"\x1c\0\0\0TFL3" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(BuildError, match=r"m\.tflite is (not|damaged)"):
            load(Request(model=str(path)))


def test_damaged_files_are_named_or_harmless(keras):
    good, chance, refused = keras.read_bytes(), random.Random(0), 0
    structure = [i for i in range(len(good)) if i < 200 or i > len(good) - 12_000]  # where there are no weights
    for trial in range(40):
        data = bytearray(good[: len(good) * trial // 10] if trial < 10 else good)
        for _ in range(0 if trial < 10 else 3):
            data[chance.choice(structure)] ^= 1 << chance.randrange(8)
        keras.write_bytes(data)
        try:
            load(Request(model=str(keras)))
        except BuildError as error:
            refused += 1
            assert "keras" in str(error)
    assert refused > 15


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda m: setattr(m.subgraphs[0].tensors[3], "buffer", 999), "buffer of a tensor 999"),
        (lambda m: setattr(m.subgraphs[0].operators[0], "opcodeIndex", 99), "operator code 99"),
        (lambda m: setattr(m.subgraphs[0].operators[0], "inputs", [0, 7777, 2]), "tensor of an operator 7777"),
        (lambda m: setattr(m.signatureDefs[0], "subgraphIndex", 7), "graph of a signature 7"),
        (lambda m: setattr(m.signatureDefs[0].inputs[0], "tensorIndex", 5000), "tensor of a signature 5000"),
        (lambda m: setattr(m.metadata[0], "buffer", 5000), "buffer of metadata 5000"),
    ],
)
def test_indices_that_point_at_nothing(keras, change, message, monkeypatch):
    model = flatbuffer.read(keras)
    change(model)
    flatbuffer.write(model, keras)
    with pytest.raises(BuildError, match=r"keras\.tflite is damaged"):
        load(Request(model=str(keras)))
    monkeypatch.setattr(flatbuffer, "_VERIFIER", "")  # should the verifier miss it
    with pytest.raises(BuildError, match=message):
        load(Request(model=str(keras)))


def test_a_verifier_that_dies_is_an_error(keras, monkeypatch):
    monkeypatch.setattr(flatbuffer, "_VERIFIER", "import os; os.abort()")
    with pytest.raises(BuildError, match=r"keras\.tflite.*SIGABRT"):
        load(Request(model=str(keras)))


def test_outputs_that_prove_nothing(keras):
    model = flatbuffer.read(keras)
    model.signatureDefs[0].outputs[0].tensorIndex = int(model.subgraphs[0].operators[8].inputs[0])  # fp16
    flatbuffer.write(model, keras)
    with pytest.raises(BuildError, match=r"keras\.tflite"):
        load(Request(model=str(keras)))


# --- as a user does it ------------------------------------------------------------------------------------


def test_command_line_on_the_emulator(edgecomp, keras, tmp_path):
    done = edgecomp("build", keras, "--set", "kinds=dense,conv", "--budget", "1MB", "--max-error", "100", "-o", "out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["runtime"] == "litert" and {m["evidence"] for m in report["measurements"]} == {"host", "qemu-arm64"}
    assert report["check"]["relative_difference"] < 1e-2
    assert any("no data" in note for note in report["notes"])
    assert (tmp_path / "out" / "bundle" / "model.tflite").exists()
    refused = edgecomp("build", keras, "--runtime", "executorch", "-o", "no")
    assert refused.returncode == 2 and "Leave out --runtime" in refused.stderr


@pytest.mark.skipif("EDGECOMP_TENSORFLOW_TFLITE" not in os.environ, reason="names a file that TensorFlow converted")
def test_a_file_of_tensorflows(tmp_path):
    path = Path(shutil.copy(os.environ["EDGECOMP_TENSORFLOW_TFLITE"], tmp_path))
    result, _ = build(path, on="qemu")
    assert result.proof.codes_stored
    assert result.size.artifact_bytes < result.size.original_bytes == path.stat().st_size
    assert result.check.relative_difference < 0.01 and result.proof.relative_difference < 0.05
