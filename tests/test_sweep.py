"""Sweeps through the real command line and on a real Ray cluster: points, budgets, failures, resumption, the page."""

import contextlib
import dataclasses
import itertools
import json
import signal
import subprocess
import sys

import pytest
from conftest import TINY_MODEL

from edgecomp import engines, plan
from edgecomp.auto import budgets
from edgecomp.discover import method, method_names, prunes
from edgecomp.load import load
from edgecomp.records import Accuracy, Measurement, Request, SweepPoint, SweepRequest
from edgecomp.sweep import sweep
from edgecomp.sweep.page import front
from edgecomp.util.files import sha256_file

pytestmark = pytest.mark.xdist_group("sweep")


@pytest.fixture(scope="module")
def engine():
    """Two local workers, which all sweeps of this file share: starting them is most of a sweep."""
    with engines.opened("local", workers=2) as engine:
        yield engine


@pytest.fixture
def edgecomp_sweep(edgecomp, engine, monkeypatch, tmp_path):
    """`edgecomp sweep …` with these workers; what it makes is in the folder `out`."""
    opened = engines.opened

    def shared(name="local", address=None, workers=None):
        return contextlib.nullcontext(engine) if name == "local" else opened(name, address, workers)

    monkeypatch.setattr(engines, "opened", shared)
    return lambda *arguments: edgecomp("sweep", *arguments, "-o", tmp_path / "out")


def sweep_of(folder):
    return json.loads((folder / "sweep.json").read_text())


def files_of(folder):
    """Digests of what was built, by path."""
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.glob("points/*/model.*"))}


def test_a_sweep_builds_every_point_that_fits_and_says_why_others_do_not(edgecomp_sweep, tiny_model, tmp_path):
    arguments = (tiny_model, "--methods", "pq,int8", "--budgets", "110kB,60kB,20kB", "--set", "tables=exact")
    done = edgecomp_sweep(*arguments, "--json")
    assert done.returncode == 1, done.stderr
    found, out = json.loads(done.stdout), tmp_path / "out"
    assert found == sweep_of(out)
    points = {(p["method"], p["budget_bytes"]): p for p in found["points"]}
    assert list(points) == [(m, b) for m in ("pq", "int8") for b in (110_000, 60_000, 20_000)]
    states = [point["state"] for point in points.values()]
    assert states == ["built", "built", "missed", "missed", "missed", "missed"]
    for (_, budget), point in points.items():
        if point["state"] == "missed":
            assert "smallest file" in point["reason"] and point["folder"] is None
            continue
        file = out / "points" / point["folder"] / "model.pte"
        assert point["artifact_bytes"] == file.stat().st_size <= budget
        plan_file = json.loads(file.with_name("plan.json").read_text())
        assert point["predicted_bytes"] == sum(entry["predicted_bytes"] for entry in plan_file["entries"])
        assert all(entry["settings"]["tables"] == "exact" for entry in plan_file["entries"] if entry["method"])
        report = json.loads(file.with_name("report.json").read_text())
        assert report["budget"]["verdict"] == "pass" and report["accuracy"] == point["test"]
        assert {m["artifact"] for m in report["measurements"]} == {"original", "compressed"}
        assert point["validation"]["split"] == "calibration" and point["validation"]["samples"] == 512
    assert points["pq", 110_000]["artifact_bytes"] > points["pq", 60_000]["artifact_bytes"]
    assert any(point["front"] for point in found["points"])
    assert any("as well, for want of others" in note for note in found["notes"])
    html = (out / "sweep.html").read_text()
    assert "http" not in html and html.count('<svg viewBox="0 0 480') == 2

    again = edgecomp_sweep(*arguments)
    assert again.returncode == 1 and "kept from before: pq-s=2" in again.stderr and "pq" in again.stdout
    assert sweep_of(out)["measurements"] == found["measurements"]  # timed once


def test_auto_is_a_method_among_others(edgecomp_sweep, right_model, tmp_path):
    few = ("--set", "auto.methods=kmeans,int8", "--set", "auto.samples=64", "--set", "auto.rounds=1")
    done = edgecomp_sweep(right_model, "--methods", "auto,kmeans", "--budgets", "110kB,10kB", *few)
    assert done.returncode == 1, done.stderr
    auto, too_small, *others = sweep_of(tmp_path / "out")["points"]
    assert auto["state"] == "built" and auto["artifact_bytes"] <= 110_000
    plan_file = json.loads((tmp_path / "out" / "points" / auto["folder"] / "plan.json").read_text())
    assert plan_file["method"] == "auto" and plan_file["search"]["looks"]
    assert too_small["state"] == "missed" and "the nearest takes" in too_small["reason"]
    assert [point["state"] for point in others] == ["built", "missed"]


def test_a_failing_point_does_not_stop_the_others(edgecomp_sweep, tmp_path):
    (tmp_path / "bare.py").write_text(TINY_MODEL)
    options = ("--set", "activations=static", "--budgets", "200kB", "--on", "none")
    done = edgecomp_sweep(tmp_path / "bare.py", "--methods", "int8,kmeans", *options)
    assert done.returncode == 3, done.stderr
    assert "int8 at 200 kB failed: activations=static" in " ".join(done.stdout.split())
    failed, built = sweep_of(tmp_path / "out")["points"]
    assert failed["state"] == "failed" and failed["folder"] is None
    assert built["state"] == "built" and built["validation"] is None and built["measurements"] == []
    assert "int8 at 200 kB failed" in (tmp_path / "out" / "sweep.html").read_text()


def test_a_killed_sweep_goes_on_from_the_points_it_has(edgecomp_sweep, tiny_model, tmp_path):
    arguments = (str(tiny_model), "--methods", "kmeans,pq", "--budgets", "110kB,60kB", "--on", "none")
    command = [sys.executable, "-m", "edgecomp.cli", "sweep", *arguments, "--workers", "1", "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if line.startswith("  kmeans-k="):
            process.kill()
            break
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/points/*/model.pte")}
    assert len(first) == 1
    done = edgecomp_sweep(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"kept from before: {next(iter(first)).parent.name}" in done.stderr
    assert len(files_of(tmp_path / "out")) == 8
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())


class Killing:
    """An engine, one of whose nodes dies as soon as the first task is done."""

    def __init__(self, engine, kill):
        self.engine, self.kill, self.name, self.share = engine, kill, engine.name, engine.share

    def run(self, function, tasks, *shared, done):
        def killing(index, outcome):
            if self.kill:
                self.kill()
            self.kill = None
            done(index, outcome)

        return self.engine.run(function, tasks, *shared, done=killing)


def test_ray_gives_the_same_bytes_as_local_though_a_node_dies(engine, tiny_model, two_nodes, tmp_path):
    cluster, second = two_nodes
    base = Request(model=str(tiny_model), on="none", out=tmp_path / "local")
    request = SweepRequest(base, ("pq",), (110_000, 60_000))
    local = sweep(request, engine)
    with engines.opened("ray", cluster.address) as nodes:
        assert nodes.workers == 2
        killing = Killing(nodes, lambda: cluster.remove_node(second, allow_graceful=False))
        remote = sweep(dataclasses.replace(request, base=dataclasses.replace(base, out=tmp_path / "ray")), killing)
        assert killing.kill is None and nodes.share(0)
    assert len(files_of(tmp_path / "local")) == 4
    assert files_of(tmp_path / "local") == files_of(tmp_path / "ray")
    assert [(p.folder, p.validation, p.test) for p in local.points] == [
        (p.folder, p.validation, p.test) for p in remote.points
    ]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The small net without data."""
    path = tmp_path_factory.mktemp("model") / "tiny.py"
    path.write_text(TINY_MODEL)
    return load(Request(model=str(path)))


@pytest.mark.parametrize("name", [name for name in method_names() if not prunes(name)])
def test_a_knob_goes_from_more_bytes_to_fewer(name, loaded):
    knob = getattr(method(name).Config, "KNOB", None)
    if knob is None:
        assert name in {"int8", "int4", "int2"}
        return
    steps = budgets.ladder(loaded, Request(method=name), plan.tied_groups(loaded)).steps
    sizes = [step.predicted_bytes for step in steps]
    assert sizes[-1] < sizes[0] and all(after <= 1.05 * before for before, after in itertools.pairwise(sizes))


def test_a_setting_that_decides_the_same_stops_the_knob():
    assert budgets.knob_of("svd:pq", ())[0] == "svd"
    assert budgets.knob_of("int8+kmeans", ())[1].setting == "k"
    for method_, setting in (("pq", "s=4"), ("svd", "rank=3"), ("svd:pq", "svd.macs=0.2"), ("pq+kmeans", "pq.s=2")):
        assert budgets.knob_of(method_, (setting,)) is None


def _point(name, size, drop, milliseconds):
    accuracy = Accuracy(
        metric="top1", split="x", samples=100, original=90, compressed=90 - drop, drop_points=drop, agreement=99
    )
    timed = Measurement(evidence="host", artifact="compressed", runtime="executorch", threads=1, p50_ms=milliseconds)
    common = {"method": name, "budget_bytes": 10**6, "state": "built", "folder": name}
    return SweepPoint(**common, artifact_bytes=size, validation=accuracy, measurements=[timed])


def test_the_front_is_what_nothing_beats():
    points = [
        _point("best", 100, 0.1, 1.0),
        _point("larger", 101, 0.1, 1.0),
        _point("faster by noise", 101, 0.1, 0.98),
        _point("faster", 200, 0.1, 0.5),
        _point("more accurate", 300, 0.0, 2.0),
        _point("smaller", 50, 5.0, 1.0),
        SweepPoint(method="missed", budget_bytes=1, state="missed"),
    ]
    assert [p.method for p in front(points) if p.front] == ["best", "faster", "more accurate", "smaller"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--methods", "pq,kmaens"], "Did you mean 'kmeans'"),
        (["--budgets", "10MB,ten"], "10MB"),
        (["--set", "kk=4"], "Did you mean 'k'"),
        (["--on", "quemu"], "Did you mean 'qemu'"),
        (["--engine", "rai"], "Did you mean 'ray'"),
        (["--address", "1.2.3.4:6379"], "--engine ray"),
    ],
)
def test_bad_requests(edgecomp, arguments, message):
    done = edgecomp("sweep", *arguments)
    assert done.returncode == 2 and message in done.stderr.replace("\n", " "), done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
