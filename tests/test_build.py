"""Whole builds through the command line: files, figures, exit codes, bad input, interruption."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import TINY_MODEL, of_build
from running import read_first
from safetensors import safe_open

from edgecomp.devices.bundle import host_bundle
from edgecomp.devices.host import HOST_TARGET, Host
from edgecomp.devices.qemu import Qemu
from edgecomp.devices.target import find_target
from edgecomp.devices.tensors import write_records
from edgecomp.records import Proof, Request
from edgecomp.report import read_report
from edgecomp.report.report import _about_outputs

STAGES = ("load", "plan", "compress", "recover", "export", "measure", "report")


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_the_default_build_meets_its_budget_on_the_emulator(started_edgecomp, tmp_path):
    done = started_edgecomp("build", "-o", "out", "--max-drop", "1.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout and "dense1" in done.stdout
    out, r = tmp_path / "out", report_of(tmp_path / "out")

    size = r["size"]
    assert size["artifact_bytes"] == (out / "model.pte").stat().st_size <= r["budget"]["limit_bytes"]
    assert r["budget"]["limit_bytes"] == size["original_bytes"] // 20 and not r["budget"]["stated"]
    assert sum(line["bytes"] for line in r["layers"]) == size["artifact_bytes"]
    assert sum(line["original_bytes"] for line in r["layers"]) == size["original_bytes"]
    assert r["layers"][-1]["name"] == "container" and 0 < r["layers"][-1]["bytes"] < 30_000
    assert 0 < size["download_bytes"] <= size["artifact_bytes"] < size["installed_bytes"]
    plan = json.loads((out / "plan.json").read_text())
    for entry, line in zip(plan["entries"], r["layers"], strict=False):
        assert entry["predicted_bytes"] == line["bytes"]
        assert line["method"] or line["reason"]

    accuracy = r["accuracy"]
    assert accuracy["samples"] == 10_000 and accuracy["original"] >= 91
    assert accuracy["drop_points"] == pytest.approx(accuracy["original"] - accuracy["compressed"], abs=1e-3)
    assert r["proof"]["codes_stored"] and r["check"]["agreement"] >= 95

    by = {(m["evidence"], m["artifact"]): m for m in r["measurements"]}
    assert set(by) == {(e, a) for e in ("host", "qemu-arm64") for a in ("original", "compressed")}
    for artifact in ("original", "compressed"):
        emulated = by["qemu-arm64", artifact]
        assert emulated["p50_ms"] is emulated["load_ms"] is None and emulated["samples"] == []
        assert len(by["host", artifact]["samples"]) >= 100
    assert by["qemu-arm64", "original"]["instructions"] > by["qemu-arm64", "compressed"]["instructions"]
    assert by["host", "original"]["peak_rss_bytes"] > by["host", "compressed"]["peak_rss_bytes"]

    assert (out / "bundle" / "model.pte").exists() and (out / "bundle" / "run.sh").exists()
    with safe_open(out / "model.safetensors", "pt") as checkpoint:
        assert "dense1.codes" in checkpoint.keys()  # noqa: SIM118
    html = (out / "report.html").read_text()
    assert "http" not in html and "dense1" in html and "PASS" in html
    assert read_report(out / "report.json").exit_code == 0


COMBINED = {"scheme2:kmeans", "tucker+int8", "cp+pq", "int4+int8"}  # run on the emulator too
CODED = {*("kmeans", "palettize", "pq", "rq", "binary", "int8"), *("svd:pq", "scheme2:int8", "cp:pq"), *COMBINED}
PLAIN = ["svd", "scheme1", "scheme2", "tucker", "cp", "tt", "coupled_tt"]


@pytest.mark.parametrize("method", [of_build(m, "executorch", m) for m in [*sorted(CODED), *PLAIN]])
def test_every_method_builds_what_it_planned(built, method, tmp_path):
    result, out = built(method, "executorch")
    size = (out / "model.pte").stat().st_size
    assert result.exit_code == (0 if size <= result.budget.limit_bytes else 1)
    assert result.proof.codes_stored == (method in CODED)
    plan = json.loads((out / "plan.json").read_text())
    assert [entry["predicted_bytes"] for entry in plan["entries"]] == [line.bytes for line in result.layers[:-1]]
    assert set(method.split("+")) == {line.method for line in result.layers} - {None}
    if method in COMBINED:
        here, there = outputs_of(out, tmp_path)
        assert (here - there).norm() < 1e-2 * here.norm() and here.norm() > 0


def outputs_of(out, folder):
    """Of a build of the tiny model, for 32 inputs: this machine's and the emulator's."""
    write_records(folder / "inputs", [torch.rand(32, 1, 12, 12)])
    here, there, found = Host(), Qemu(find_target(Request().target)), []
    for device, files in ((here, host_bundle(find_target(HOST_TARGET), "executorch")), (there, out / "bundle")):
        device.run(files, out / "model.pte", folder / "inputs", folder / device.name, threads=1)
        found.append(read_first(folder / device.name, 32, 10))
    return found


@pytest.mark.parametrize("method,bits", [("int2+int8", 2), ("int4", 4), ("pq+int8", 1), ("int8+kmeans", 8)])
def test_integer_layers_run_on_litert(edgecomp, tmp_path, method, bits):
    done = edgecomp("build", "--runtime", "litert", "--method", method, "--on", "qemu", "-o", "out")
    assert done.returncode in (0, 1), done.stderr
    r = report_of(tmp_path / "out")
    assert r["proof"]["codes_stored"] and r["check"]["relative_difference"] < 1e-2
    assert r["accuracy"]["drop_points"] < 1 and r["size"]["ratio"] > 0.85 * 32 / bits * (0.75 if bits < 4 else 1)
    lines = {line["name"]: line for line in r["layers"]}
    assert lines["dense1"]["method"] == method.split("+")[0]
    assert all(line["method"] or line["reason"] for line in lines.values())


def test_a_missed_budget_exits_1_and_keeps_everything(edgecomp, tiny_model, tmp_path):
    done = edgecomp("build", tiny_model, "--budget", "1kB", "--on", "host", "-o", "out")
    assert done.returncode == 1, done.stderr
    assert "FAIL" in done.stdout
    assert (
        report_of(tmp_path / "out")["budget"] | {"verdict": "fail", "limit_bytes": 1000}
        == report_of(tmp_path / "out")["budget"]
    )
    assert (tmp_path / "out" / "model.pte").exists()


def test_a_budget_turns_the_knob_that_nobody_has(edgecomp, tiny_model, tmp_path):
    """Where the default misses it the mildest setting that keeps to it is taken; what settings say stays."""
    done = edgecomp("build", tiny_model, "--budget", "60kB", "--on", "none", "-o", "out")
    assert done.returncode == 0 and "pq.s=6" in done.stderr
    assert report_of(tmp_path / "out")["settings"]["s"] == 6
    done = edgecomp("build", tiny_model, "--budget", "60kB", "--set", "s=4", "--dry-run")
    assert "mildest" not in done.stderr
    done = edgecomp("build", tiny_model, "--budget", "30kB", "--dry-run")
    assert "keeps to no such budget: the smallest file it makes takes about" in " ".join(done.stderr.split())


def test_codes_that_would_ruin_a_net_become_finer(edgecomp, tmp_path):
    """Where no setting decides, as far as a budget allows; without data the error of the outputs tells."""
    (tmp_path / "bare.py").write_text(TINY_MODEL)
    done = edgecomp("build", "bare.py", "--on", "none", "-o", "out")
    report = report_of(tmp_path / "out")
    assert "finer codes instead" in done.stderr and report["settings"]["k"] == 256, done.stderr
    assert report["error"]["percent"] <= 5 and [limit["name"] for limit in report["limits"]] == ["file"]
    done = edgecomp("build", "bare.py", "--set", "s=4", "--set", "k=16", "--on", "none", "-o", "out")
    assert "finer" not in done.stderr and done.returncode == 1
    done = edgecomp("build", "bare.py", "--budget", "120kB", "--on", "none", "-o", "out")
    report = report_of(tmp_path / "out")
    assert "finer codes instead, pq.s=2 pq.k=256" in " ".join(done.stderr.split()), done.stderr
    assert 80_000 < report["size"]["artifact_bytes"] <= 120_000


def test_a_missed_drop_exits_1(edgecomp, tiny_model, tmp_path):
    done = edgecomp("build", tiny_model, "--budget", "1MB", "--max-drop", "-100", "--on", "host", "-o", "out")
    assert done.returncode == 1
    assert report_of(tmp_path / "out")["budget"]["drop_verdict"] == "fail"


def test_without_data_everything_still_works(edgecomp, tmp_path):
    (tmp_path / "bare.py").write_text(TINY_MODEL)
    limits = ("--budget", "1MB", "--max-error", "100")
    done = edgecomp("build", "bare.py", *limits, "--on", "host", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    r = json.loads(done.stdout)
    assert r["accuracy"] is None and r["calibration"] == "data-free"
    assert any("no data" in note for note in r["notes"])
    limited = edgecomp("build", "bare.py", *limits, "--max-drop", "1", "--on", "host", "-o", "out")
    assert limited.returncode == 5


def test_convolutions_too_and_only_named_layers(edgecomp, tiny_model, tmp_path):
    done = edgecomp(
        "build",
        tiny_model,
        "--set",
        "kinds=dense,conv",
        "--set",
        "s=2",
        "--layers",
        "conv*",
        "--layers",
        "dense2",
        "--on",
        "host",
        "-o",
        "out",
    )
    assert done.returncode in (0, 1), done.stderr
    lines = {line["name"]: line for line in report_of(tmp_path / "out")["layers"]}
    assert lines["conv2"]["method"] == lines["dense2"]["method"] == "pq"
    assert lines["dense1"]["reason"] == "not named by --layers"
    assert "not named" in lines["depthwise"]["reason"] and "no less than" in lines["conv1"]["reason"]


def test_two_runs_write_identical_models(edgecomp, tiny_model, tmp_path):
    for name in ("a", "b"):
        assert edgecomp("build", tiny_model, "--on", "none", "--budget", "1MB", "-o", name).returncode == 0
    assert (tmp_path / "a" / "model.pte").read_bytes() == (tmp_path / "b" / "model.pte").read_bytes()


def test_dry_run_prints_the_plan_and_builds_nothing(edgecomp, tiny_model, tmp_path):
    done = edgecomp("build", tiny_model, "--dry-run", "-o", "out")
    assert done.returncode == 0 and "dense1" in done.stdout and "predicted" in done.stdout
    assert not (tmp_path / "out" / "model.pte").exists()


def test_outputs_far_from_exact_ones_are_remarked():
    proof = {"codes_stored": True, "max_abs_difference": 1.0, "reference": "torch module on 32 random inputs"}
    assert _about_outputs(Proof(relative_difference=0.05, **proof)) == []
    (note,) = _about_outputs(Proof(relative_difference=0.28, **proof))
    assert "28 % from those of the torch module" in note


@pytest.mark.parametrize(
    "arguments,code,message",
    [
        (["--method", "pg"], 2, "Did you mean 'pq'"),
        (["--target", "andriod-arm64"], 2, "Did you mean 'android-arm64'"),
        (["--runtime", "executorhc"], 2, "Did you mean 'executorch'"),
        (["--on", "quemu"], 2, "Did you mean 'qemu'"),
        (["--set", "kk=4"], 2, "Did you mean 'k'"),
        (["--set", "k"], 2, "KEY=VALUE"),
        (["--set", "k=many"], 2, "k=many"),
        (["--set", "k=1000"], 2, "k=1000"),
        (["--set", "kinds=desne"], 2, "Did you mean 'dense'"),
        (["--budget", "ten"], 2, "10MB"),
        (["--budget", "0"], 2, "10MB"),
        (["--budget", "-3MB"], 2, "10MB"),
        (["--layers", "danse*"], 2, "Did you mean"),
        (["--no-such-option"], 2, "No such option"),
        (["absent.py"], 2, "absent.py"),
        (["fashoin"], 2, "Did you mean 'fashion'"),
        (["no.such.module:build"], 2, "no.such"),
        (["-o", "/proc/out"], 3, "/proc/out"),
    ],
)
def test_bad_requests(edgecomp, arguments, code, message):
    done = edgecomp("build", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_missing_emulator_exits_4_before_anything_is_built(edgecomp, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    done = edgecomp("build", "-o", "out", PATH=str(tools))
    assert done.returncode == 4
    assert "qemu-user" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(tiny_model, tmp_path, edgecomp):
    from edgecomp.util.workspace import Workspace

    with Workspace(tmp_path / "out"):
        done = edgecomp("build", tiny_model, "-o", "out")
    assert done.returncode == 3 and "another build" in done.stderr


def _run_until(stage, sent, starter, model, folder):
    """Starts a build, sends a signal as soon as `stage` has begun, returns (exit code, stderr)."""
    process = starter.popen("build", model, "--on", "host", "--budget", "1MB", "-o", "out", cwd=folder)
    seen = ""
    for line in process.stderr:
        seen += line
        if line.startswith(f"▸ {stage}"):
            process.send_signal(sent)
            break
    seen += process.communicate(timeout=120)[1]
    return process.returncode, seen


def _nothing_is_half_written(out):
    for path in out.iterdir() if out.exists() else []:
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                file.keys()
        assert path.name in {
            "plan.json",
            "model.safetensors",
            "model.pte",
            "model.edgecomp",
            "bundle",
            "report.json",
            "report.html",
            "report.md",
            "report.junit.xml",
            ".stages",
        } or (path.name.startswith(".") and path.name.endswith(".partial"))


@pytest.mark.xdist_group("starter")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_interruption_in_every_stage_loses_nothing(edgecomp, starter, tiny_model, tmp_path, sent):
    """The build is stopped in each stage in turn, in one folder; the last run finds the work of those before it."""
    for stage in STAGES:
        code, stderr = _run_until(stage, sent, starter, tiny_model, tmp_path)
        if code in (0, 1):  # the stage was over before the signal arrived
            assert stage in ("recover", "report"), stderr
            continue
        assert code == (130 if sent == signal.SIGINT else -signal.SIGKILL), stderr
        assert sent == signal.SIGKILL or "interrupted" in stderr
        _nothing_is_half_written(tmp_path / "out")
    done = edgecomp("build", tiny_model, "--on", "host", "--budget", "1MB", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cached") == 2  # compress, export
    assert not list((tmp_path / "out").glob(".*.partial"))
    fresh = edgecomp("build", tiny_model, "--on", "none", "--budget", "1MB", "-o", "fresh")
    assert fresh.returncode == 0
    assert (tmp_path / "out" / "model.pte").read_bytes() == (tmp_path / "fresh" / "model.pte").read_bytes()


def test_changed_settings_are_not_served_from_the_cache(edgecomp, tiny_model, tmp_path):
    assert edgecomp("build", tiny_model, "--on", "none", "--budget", "1MB", "-o", "out").returncode == 0
    first = (tmp_path / "out" / "model.pte").read_bytes()
    done = edgecomp("build", tiny_model, "--on", "none", "--budget", "1MB", "-o", "out", "--set", "k=8")
    assert done.returncode == 0 and "cached" not in done.stderr
    assert (tmp_path / "out" / "model.pte").read_bytes() != first


def test_data_goes_to_stdout_and_progress_to_stderr(edgecomp):
    for command in ("methods", "targets", "models"):
        done = edgecomp(command)
        assert done.returncode == 0 and done.stdout and not done.stderr
    done = edgecomp("doctor")
    assert done.returncode == 0 and "qemu-aarch64" in done.stdout
    assert edgecomp("doctor", PATH=os.path.dirname(sys.executable)).returncode == 4


def test_started_processes_have_the_same_exit_codes_and_streams(started_edgecomp):
    done = started_edgecomp("build", "--method", "pg")
    assert done.returncode == 2 and "Did you mean 'pq'" in done.stderr and done.stdout == ""
    done = started_edgecomp("methods")
    assert done.returncode == 0 and "kmeans" in done.stdout and done.stderr == ""


def test_nobody_reads_to_the_end(tmp_path):
    """As in `edgecomp methods | head -1`."""
    command = [sys.executable, "-m", "edgecomp.cli", "methods"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    _, stderr = process.communicate(timeout=120)
    assert "Traceback (most recent call last)" not in stderr and process.returncode != 0
