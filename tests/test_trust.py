"""Nothing that comes from a file is trusted: archives, folders of others, names, damaged records."""

import importlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from torch import nn

from edgecomp import pipeline
from edgecomp.cli.printing import print_table
from edgecomp.discover import model_files
from edgecomp.errors import BuildError, UsageError
from edgecomp.export import reopen
from edgecomp.graph import archive, archive_grammar
from edgecomp.util import progress, sources
from edgecomp.util.files import sha256_file
from edgecomp.util.text import printable, printable_values

main = importlib.import_module("edgecomp.cli.main")  # of the same name as its function

# --- archives ---------------------------------------------------------------------------------------------


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(1), nn.Linear(4 * 5 * 5, 3)).eval()


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    """Those of a good archive, whose batch is dynamic, without their root folder."""
    any_batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(small_net(), (torch.rand(2, 1, 12, 12),), dynamic_shapes=any_batch)
    file = io.BytesIO()
    torch.export.save(program, file)
    with zipfile.ZipFile(file) as saved:
        return {name.partition("/")[2]: saved.read(name) for name in saved.namelist()}


WEIGHTS, MODEL = "data/weights/model_weights_config.json", "models/model.json"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def refused(tmp_path, canary, members):
    """Writes an archive with some members changed; it must not be opened, and nothing in it may run."""

    def write(why: str, more: tuple[tuple[str, bytes], ...] = (), compression=zipfile.ZIP_STORED, **changed: bytes):
        path = tmp_path / "crafted.pt2"
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, data in (*{**members, **changed.get("members", {})}.items(), *more):
                file.writestr(f"crafted/{name}", data)
        with pytest.raises(BuildError, match=why) as error:
            archive.load(path)
        assert error.value.exit_code == 3 and not canary.exists()

    return write


class Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def code(canary: Path) -> str:
    return f"__import__('pathlib').Path({str(canary)!r}).touch()"


def test_a_good_archive_is_read(tmp_path, members):
    torch.manual_seed(0)
    net, x = small_net(), torch.rand(3, 1, 12, 12)
    program = torch.export.export(net, (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "good.pt2")
    read = archive.load(tmp_path / "good.pt2")
    assert torch.equal(read.module(check_guards=False)(x), net(x))
    assert {name for node in read.graph.nodes for name, _ in node.meta.get("nn_module_stack", {}).values()} >= {"0"}


@pytest.mark.parametrize(
    ("spelling", "why"),
    [
        (b'"use_pickle" :\ttrue', "is pickled"),
        (b'"use\\u005fpickle": true', "is pickled"),
        (b'"use_pickle": false, "use_pickle": true', "has a key twice"),
        (b'"use_pickle": 1', "is no bool"),
    ],
)
def test_use_pickle_however_it_is_spelled(refused, members, canary, spelling, why):
    changed = members[WEIGHTS].replace(b'"use_pickle": false', spelling, 1)
    pickled = pickle.dumps(Touches(canary))
    refused(why, members={WEIGHTS: changed, "data/weights/weight_0": pickled})


def test_a_size_that_calls(refused, members, canary):
    def crafted(text: str) -> bytes:
        model = json.loads(members[MODEL])
        for tensor in model["graph_module"]["graph"]["tensor_values"].values():
            for size in tensor["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text
        return json.dumps(model).encode()

    for text in (code(canary), f"Symbol({code(canary)})", "9**9**9", "(lambda: 1)()", "s0.__class__", "x", "[1][0]"):
        refused("the size", members={MODEL: crafted(text)})


def test_sizes_of_integers_symbols_and_their_sums_and_products():
    for text in ("s0", "2*s0 + 1", "(s0 - 1)//2", "Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(-1))"):
        assert archive_grammar.expression(text, {"s0"})
    for text in (
        "s1",
        "Integer(Integer(2))",
        "Pow(s0, Integer(99))",
        "1.5",
        "'s0'",
        "Add(s0, evaluate=s0)",
        "s0 if s0 else 1",
    ):
        with pytest.raises(archive_grammar.Refused):
            archive_grammar.expression(text, {"s0"})


def renamed(data: object, old: str, new: str) -> object:
    if isinstance(data, dict):
        return {new if key == old else key: renamed(value, old, new) for key, value in data.items()}
    if isinstance(data, list):
        return [renamed(value, old, new) for value in data]
    return new if data == old else data


def test_names_with_code_in_them(refused, members, canary):
    model, weights = json.loads(members[MODEL]), json.loads(members[WEIGHTS])
    inner, outer = f"x\n    {code(canary)}\n    y", f'0")); {code(canary)}; (("weight'
    refused("TensorArgument.name is", members={MODEL: json.dumps(renamed(model, "conv2d", inner)).encode()})
    for part in (MODEL, WEIGHTS):
        data = model if part == MODEL else weights
        refused(
            "parameter_name is|PayloadConfig.config",
            members={part: json.dumps(renamed(data, "0.weight", outer)).encode()},
        )


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.ops.aten.from_file.default; import os",
        "_operator.methodcaller",
        "math.__loader__",
        "torch.ops.load_library",
        "#ns:name",
        "os.system",
    ],
)
def test_an_operator_that_is_none(refused, members, target):
    model = renamed(json.loads(members[MODEL]), "torch.ops.aten.relu.default", target)
    refused("Node.target", members={MODEL: json.dumps(model).encode()})


def test_an_operator_that_writes_files(refused, members, canary):
    model = json.loads(members[MODEL])
    node = next(n for n in model["graph_module"]["graph"]["nodes"] if "relu" in n["target"])
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [
        {"name": "filename", "arg": {"as_string": str(canary)}, "kind": 1},
        {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
        {"name": "size", "arg": {"as_int": 100}, "kind": 1},
    ]
    refused("filename", members={MODEL: json.dumps(model).encode()})


def test_guards_and_structures_are_not_run(refused, members, canary, tmp_path):
    model = json.loads(members[MODEL])
    model["guards_code"] = [code(canary)]
    with zipfile.ZipFile(tmp_path / "guards.pt2", "w") as file:
        for name, data in {**members, MODEL: json.dumps(model).encode()}.items():
            file.writestr(f"a/{name}", data)
    archive.load(tmp_path / "guards.pt2").module()(torch.rand(2, 1, 12, 12))
    assert not canary.exists()
    model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(
        [1, {"type": "collections.defaultdict", "context": '{"default_factory_module": "os"}', "children_spec": []}]
    )
    refused("structure", members={MODEL: json.dumps(model).encode()})


def test_a_pickled_member(refused, canary):
    refused("pickled Python", members={"data/sample_inputs/model.pt": pickle.dumps(Touches(canary))})
    buffer = io.BytesIO()
    torch.save(((Touches(canary),), {}), buffer)
    refused("holds pickled Python objects", members={"data/sample_inputs/model.pt": buffer.getvalue()})
    refused("none of a plain program", more=(("data/weights/model.pt", pickle.dumps(Touches(canary))),))
    refused("none of a plain program", more=(("data/constants/custom_obj_0", pickle.dumps(Touches(canary))),))


def test_a_bomb(refused, members):
    bomb = (("data/weights/weight_99", bytes(70_000_000)),)
    refused("unpack to 7", bomb, compression=zipfile.ZIP_DEFLATED)
    weights = json.loads(members[WEIGHTS])
    meta = weights["config"]["0.weight"]["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 10**6}] * 2, [{"as_int": 0}] * 2
    refused("has values of", members={WEIGHTS: json.dumps(weights).encode()})


def test_members_twice_or_damaged(refused, tmp_path, members):
    with pytest.warns(UserWarning, match="Duplicate"):
        refused("is there twice", more=((WEIGHTS, members[WEIGHTS]),))
    path = tmp_path / "damaged.pt2"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(f"a/{name}", data)
    data = bytearray(path.read_bytes())
    data[data.index(members["data/weights/weight_0"]) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BuildError, match="Bad CRC-32"):
        archive.load(path)
    refused("nested too deeply|is not JSON", members={MODEL: b"[" * 100_000})


# --- folders of others, unexpected errors, texts ----------------------------------------------------------


def test_a_model_file_is_run_again_only_as_it_was_built(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "net.py"
    path.write_text("x = 1\n")
    assert not sources.is_known(str(path))
    sources.remember(str(path), tmp_path / "out")
    assert sources.is_known(str(path))
    path.write_text("x = 2\n")
    assert not sources.is_known(str(path)) and not sources.is_known("os:system")


def test_bench_finds_the_model_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("net.py").write_text("x = 1\n")
    sources.remember("net.py", Path("out"))
    named = SimpleNamespace(model=SimpleNamespace(source="net.py"))
    assert pipeline._source(named, Path("out")) == "net.py"
    monkeypatch.chdir(tmp_path)
    assert pipeline._source(named, Path("here/out")) == str(tmp_path / "here/net.py")
    with pytest.raises(UsageError, match="--model FILE"):
        pipeline._source(named, Path("other"))
    (tmp_path / "here/net.py").write_text("x = 2\n")
    with pytest.raises(UsageError, match="--model FILE"):
        pipeline._source(named, Path("here/out"))


@pytest.mark.parametrize("source", ["evil.py", "os:getcwd", "../models/fashion.py"])
def test_bench_does_not_run_what_a_report_names(tmp_path, monkeypatch, canary, source):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    named = SimpleNamespace(model=SimpleNamespace(source=source))
    with pytest.raises(UsageError, match="--model FILE"):
        pipeline._source(named, tmp_path)
    assert not canary.exists()
    for data in ("net.pt2", "net.tflite", str(model_files()["fashion"])):
        assert pipeline._source(SimpleNamespace(model=SimpleNamespace(source=data)), tmp_path) == data


def ended(monkeypatch, capsys, raised: BaseException) -> tuple[int, str]:
    def app(standalone_mode: bool) -> None:
        raise raised

    monkeypatch.setattr(main, "app", app)
    with pytest.raises(SystemExit) as end:
        main.main()
    return end.value.code, capsys.readouterr().err


def test_what_nobody_has_foreseen(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path))
    monkeypatch.delenv("EDGECOMP_DEBUG", raising=False)
    code, said = ended(monkeypatch, capsys, KeyError("x\x1b[2J"))
    assert code == 3 and "Traceback" not in said and "\x1b" not in said
    (kept,) = (tmp_path / "failures").iterdir()
    assert str(kept) in said and "Traceback" in kept.read_text()
    monkeypatch.setenv("EDGECOMP_DEBUG", "1")
    assert "Traceback" in ended(monkeypatch, capsys, KeyError("x"))[1]


def test_missing_memory_end_of_input_and_interruptions(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EDGECOMP_CACHE", str(tmp_path))
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")):
        code, said = ended(monkeypatch, capsys, error)
        assert code == 3 and "not enough memory" in said and "more memory" in said
    aborted = typer.Abort()
    aborted.__cause__ = EOFError()
    assert ended(monkeypatch, capsys, aborted)[0] == 3
    assert ended(monkeypatch, capsys, KeyboardInterrupt())[0] == 130


def test_texts_from_files():
    assert printable("a\x1b[31mb\nc\u202e") == r"a\x1b[31mb\nc\u202e"
    assert printable("Größe 图 🙂") == "Größe 图 🙂"
    assert len(printable("x" * 10_000)) <= 2001
    assert printable_values({"a\n": ["b\r", 1, None]}) == {r"a\n": [r"b\r", 1, None]}


def test_markup_in_names_is_shown_as_it_is(capsys):
    print_table(("layer",), [("[red]conv[/red][link=x]",)])
    assert "[red]conv[/red][link=x]" in capsys.readouterr().out
    with progress.console.capture() as shown, progress.stage("load", "[/]\x07[bold]"):
        progress.note("[/nothing]")
    assert r"[/]\x07[bold]" in shown.get() and "[/nothing]" in shown.get()


def test_a_tflite_is_verified_before_it_is_measured(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"damaged" * 100)
    result = SimpleNamespace(artifact_sha256=sha256_file(path))
    work = SimpleNamespace(path=lambda name: tmp_path / name)
    with pytest.raises(BuildError, match="is not a .tflite file"):
        reopen(None, SimpleNamespace(runtime="litert"), result, work)
