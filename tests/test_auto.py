"""`--method auto`: the plan that finds itself, its parts against brute force, and whole builds through the CLI."""

import copy
import itertools
import json
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import TINY_DATA, TINY_MODEL

from edgecomp import engines
from edgecomp.auto import candidates as market
from edgecomp.auto import knapsack
from edgecomp.auto.candidates import Group
from edgecomp.auto.knapsack import Column
from edgecomp.auto.options import options
from edgecomp.auto.pool import Pool
from edgecomp.auto.trials import Bench, Runner, Task, Trial, evaluate
from edgecomp.chain import restore
from edgecomp.errors import UsageError
from edgecomp.layers.matrix import kind_of, parameter_bytes
from edgecomp.load import load
from edgecomp.records import Request
from edgecomp.training.outputs import divergence, predict

FEW = ("--set", "auto.methods=kmeans,int8,svd:kmeans", "--set", "auto.samples=256", "--set", "auto.rounds=2")


def columns(seed, layers=4, each=5):
    generator = torch.Generator().manual_seed(seed)
    return [
        Column((f"layer{i}",), float(damage), {"bytes": float(size), "instructions": float(count)})
        for i in range(layers)
        for damage, size, count in (torch.rand(each, 3, generator=generator) * 100).round().tolist()
    ]


def brute_force(found, limits, least):
    groups = [[c for c in found if c.covers == (name,)] for name in dict.fromkeys(c.covers[0] for c in found)]
    amount = lambda c, r: min(c.damage, knapsack._WORST) if r == "damage" else c.takes[r]  # noqa: E731
    within = [
        picks
        for picks in itertools.product(*groups)
        if all(sum(amount(c, r) for c in picks) <= limit for r, limit in limits.items())
    ]
    return min((sum(amount(c, least) for c in picks) for picks in within), default=None)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", ["damage", "bytes"])
def test_the_choice_is_the_best_there_is(seed, least):
    found = [Column(c.covers, c.damage / 50, c.takes) for c in columns(seed)]
    for limits in ({"bytes": 120.0}, {"bytes": 200.0, "instructions": 150.0}, {"bytes": 90.0, "damage": 4.0}):
        chosen = knapsack.choose(found, limits, least)
        expected = brute_force(found, limits, least)
        if chosen is None:
            assert expected is None
            continue
        picks = [found[j] for j in chosen]
        assert sorted(c.covers[0] for c in picks) == [f"layer{i}" for i in range(4)]
        got = sum(c.damage if least == "damage" else c.takes["bytes"] for c in picks)
        assert got == pytest.approx(expected, abs=1e-3)


def test_instructions_have_a_price_where_damage_is_alike():
    slow, fast = (Column(("layer",), damage, {"bytes": 1, "instructions": n}) for damage, n in ((1.0, 9), (1.1, 1)))
    assert knapsack.choose([slow, fast], {"bytes": 9}) == [0]
    assert knapsack.choose([slow, fast], {"bytes": 9}, prices={"instructions": 0.01}) == [0]
    assert knapsack.choose([slow, fast], {"bytes": 9}, prices={"instructions": 0.02}) == [1]


def test_a_candidate_for_several_layers_takes_the_place_of_all():
    alone = [Column((name,), 1.0, {"bytes": 10.0}) for name in "ab"]
    together = Column(("a", "b"), 1.5, {"bytes": 15.0})
    assert knapsack.choose([*alone, together], {"bytes": 16.0}) == [2]
    assert knapsack.choose([*alone, together], {"bytes": 14.0}) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.py"
    path.write_text(TINY_MODEL + TINY_DATA)
    return load(Request(model=str(path)))


def group_of(model, name):
    layer = model.net.get_submodule(name)
    return Group((name,), kind_of(layer), parameter_bytes(layer))


def some(model, name, *names):
    return market.candidates(model.net, group_of(model, name), names, "executorch")


def test_every_method_and_chain_is_a_candidate_with_its_exact_bytes(model):
    from edgecomp import discover

    found = some(model, "dense1") + some(model, "conv2")
    tried = {name for c in found if c.method for name in c.method.split(":")}
    alike = {"palettize", "coupled_tt", "int2", "int4"}  # kmeans under another name; of several layers; no kernel here
    pruning = {name for name in discover.method_names() if discover.prunes(name)}
    assert tried | alike | pruning >= set(discover.method_names())
    for c in found:
        if c.method:
            layer = model.net.get_submodule(c.layers[0])
            assert restore(c.method, c.settings).predict(layer).bytes == c.bytes < parameter_bytes(layer)


def test_the_damage_is_that_of_the_net_with_the_layer_replaced(model):
    """Layers before it are not computed again, and channels are in another order: neither changes anything."""
    bench = Bench(model, samples=300, seed=0)
    assert bench.divergence({}) == pytest.approx(0, abs=1e-6)
    for name in ("conv2", "dense1", "head"):
        half = copy.deepcopy(bench.net.get_submodule(name))
        with torch.no_grad():
            half.weight.mul_(0.5)
        plain = copy.deepcopy(bench.net)
        plain.set_submodule(name, half)
        (x,) = model.data.calibration.take(slice(-300, None))
        expected = divergence(predict(plain, x), predict(model.net, x)).item()
        assert bench.divergence({name: half}) == pytest.approx(expected, rel=1e-3, abs=1e-6)
        candidate = next(c for c in some(model, name, "kmeans") if c.settings.get("k") == 2)
        trial = bench.trial(Task(Request(), "executorch", 300, candidate))
        assert trial.damage > 0 and 0 < trial.error < 1


def test_workers_of_an_engine_find_what_this_process_finds(model):
    names = ("pq", "kmeans", "svd:int8")
    found = [c for name in ("conv2", "dense1") for c in some(model, name, *names) if c.method][:12]
    tasks = [Task(Request(), "executorch", 256, candidate) for candidate in found]
    here, there, threads = {}, {}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        Runner(model).run(tasks, here.__setitem__)
        with engines.opened("local", workers=2) as engine:
            Runner(model, engine).run(tasks, there.__setitem__)
    finally:
        torch.set_num_threads(threads)
    assert here == there and len(here) == len(tasks)


def test_trials_are_the_same_in_any_process(model, tmp_path):
    candidate = next(c for c in some(model, "dense2", "pq") if c.settings.get("s") == 4)
    task = Task(Request(model=model.source), "executorch", 256, candidate)
    (tmp_path / "task").write_bytes(pickle.dumps(task))
    code = (
        "import pickle, sys; from edgecomp.auto.trials import evaluate; "
        "print(evaluate(pickle.load(open(sys.argv[1], 'rb'))).model_dump_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "task")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(evaluate(task).model_dump_json())


def test_a_chain_is_fitted_only_if_nothing_smaller_and_no_slower_is_nearer_than_its_factorization(model):
    groups = [group_of(model, "dense1")]
    pool = Pool(model, Request(), options(("methods=pq,svd,svd:kmeans",)), "executorch", groups, Runner(model))
    (every,) = pool.every
    svd = next(c for c in every if c.method == "svd")
    chains = [c for c in every if c.method == "svd:kmeans" and c.settings["svd.rank"] == svd.settings["rank"]]
    pool._trials[id(svd)] = Trial(error=0.5, damage=None)
    assert pool._promising(chains, every) == chains
    larger = [c for c in chains if c.bytes > min(chain.bytes for chain in chains)]
    other = next(c for c in every if c.method == "pq").model_copy(update={"bytes": larger[0].bytes, "macs": 0})
    every.append(other)
    pool._trials[id(other)] = Trial(error=0.49, damage=None)
    assert not any(c.bytes >= other.bytes and c is not pool.smallest[0] for c in pool._promising(chains, every))


@pytest.mark.parametrize(
    "setting, message",
    [
        ("auto.methds=pq", "Did you mean .methods.|methods, rounds"),
        ("k=16", "methods, rounds, samples"),
        ("auto.methods=pqq", "pq"),
        ("auto.methods=pq+int8", "commas"),
        ("auto.rounds=0", "rounds"),
    ],
)
def test_a_wrong_setting_is_named(setting, message):
    with pytest.raises(UsageError, match=message):
        options((setting,))


def test_without_data_it_says_what_is_missing(edgecomp, tmp_path):
    (tmp_path / "bare.py").write_text(TINY_MODEL)
    done = edgecomp("build", "bare.py", "--method", "auto", "--on", "none")
    assert done.returncode == 2 and "data()" in done.stderr
    done = edgecomp("build", "bare.py", "--method", "auto", "--set", "auto.methds=pq")
    assert done.returncode == 2 and "methods" in done.stderr


@pytest.mark.xdist_group("auto")
def test_a_model_within_a_budget(edgecomp, right_model, tmp_path):
    """Predicted bytes are the ledger's, container and all; the file meets the budget; every choice is explained."""
    limits = ("--budget", "100kB", "--max-drop", "20")
    done = edgecomp("build", right_model, "--method", "auto", *limits, *FEW, "--on", "host", "-o", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [e["predicted_bytes"] for e in plan["entries"]] == [line["bytes"] for line in report["layers"][:-1]]
    assert plan["search"]["container_bytes"] == report["layers"][-1]["bytes"]
    size = (tmp_path / "out" / "model.pte").stat().st_size
    assert sum(e["predicted_bytes"] for e in plan["entries"]) + plan["search"]["container_bytes"] == size <= 100_000
    assert plan["method"] == "auto" and plan["search"]["split"] == "calibration"
    (chosen,) = [look for look in plan["search"]["looks"] if look["chosen"]]
    assert chosen["file_bytes"] == size and report["accuracy"]["drop_points"] <= 20
    second = next(e["runner_up"] for e in plan["entries"] if e["layers"] == ["3"])
    assert second["bytes"] > 0 and second["plan_damage"] > 0
    assert "runner-up" in done.stdout and "runner-up" in (tmp_path / "out" / "report.html").read_text()

    again = edgecomp("build", right_model, "--method", "auto", *limits, *FEW, "--dry-run", "--json", "-o", "dry")
    dry = json.loads(again.stdout)
    keys = ("method", "settings", "predicted_bytes")
    assert [[e[k] for k in keys] for e in dry["entries"]] == [[e[k] for k in keys] for e in plan["entries"]]
    assert not (tmp_path / "dry" / "model.pte").exists()


@pytest.mark.xdist_group("auto")
def test_a_budget_that_cannot_be_met_names_the_nearest_plan(edgecomp, right_model, tmp_path):
    done = edgecomp("build", right_model, "--method", "auto", "--budget", "5kB", *FEW, "--on", "none", "-o", "out")
    assert done.returncode == 1
    assert (
        "nearest takes" in done.stderr
        and "Held back by 3" in " ".join(done.stderr.split())
        and "The nearest plan" in done.stdout
    )
    assert not (tmp_path / "out" / "model.pte").exists()


@pytest.mark.xdist_group("auto")
def test_what_loses_too_much_is_no_answer_to_a_budget(edgecomp, right_model, tmp_path):
    """The nearest plan that loses no more is named; asked for without a budget, it is built."""
    few = (*FEW, "--set", "auto.rounds=1", "--max-drop", "10", "--on", "host")
    done = edgecomp("build", right_model, "--method", "auto", "--budget", "20kB", *few, "-o", "out")
    message = " ".join(done.stderr.split())
    assert done.returncode == 1 and "loses at most 10 points, but" in message and "The nearest plan" in done.stdout
    nearest = int(re.search(r"Allow ([\d,]+) or more", message)[1].replace(",", ""))
    assert 20_000 < nearest < 300_000 and not (tmp_path / "out" / "model.pte").exists()
    done = edgecomp("build", right_model, "--method", "auto", *few, "-o", "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["interval"][0] <= 10 and (tmp_path / "out" / "model.pte").exists(), done.stderr


@pytest.mark.xdist_group("starter")
def test_an_interrupted_search_goes_on_where_it_was(edgecomp, starter, right_model, fresh_cache, tmp_path):
    folder = fresh_cache("single-layers")
    cache = {"EDGECOMP_CACHE": str(folder)}
    arguments = ("build", right_model, "--method", "auto", "--budget", "100kB", "--on", "none", "-o", tmp_path / "out")
    few = ("--set", "auto.samples=64", "--set", "auto.methods=kmeans,int8", "--set", "auto.rounds=1")
    first = starter.popen(*arguments, *few, cwd=tmp_path, **cache)
    found = folder / "auto"

    def judged():
        """The files of candidates whose damage is known; a second pass adds it to those that are only screened."""
        return [path for path in found.glob("*/*.json") if json.loads(path.read_text())["damage"] is not None]

    while not judged():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert first.returncode == 130
    kept = {path: path.stat().st_mtime_ns for path in judged()}
    second = edgecomp(*arguments, *few, "--dry-run", **cache)
    assert second.returncode == 0, second.stderr
    again = [path.read_text() for path, moment in kept.items() if path.stat().st_mtime_ns != moment]
    assert not again
