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
from ai_edge_litert.interpreter import Interpreter
from test_export import write as export_tiny
from tflite_files import build

from edgecomp import export
from edgecomp.errors import BuildError, UsageError
from edgecomp.layers import checkpoint
from edgecomp.layers.codebook import Coded
from edgecomp.load import load
from edgecomp.pipeline import check
from edgecomp.records import Request
from edgecomp.runtimes.litert import flatbuffer

METHODS = ("binary", "kmeans", "palettize", "pq", "rq")


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
