"""The gate against regressions: what is better, the same, worse, noisy, or not comparable; and its statistics."""

import json
import math
import shutil

import numpy as np
import pytest

from edgecomp import report
from edgecomp.errors import UsageError
from edgecomp.report.compare import compare
from edgecomp.util import statistics

pytestmark = pytest.mark.xdist_group("judged")


@pytest.fixture
def folder(judged):
    return judged[0]


@pytest.fixture
def result(folder):
    return report.read_report(folder)


def verdicts(before, after, **options):
    return {found.figure: found.verdict for found in compare(before, after, **options).findings}


def with_measurements(result, **changes):
    changed = [m.model_copy(update=changes) for m in result.measurements]
    return result.model_copy(update={"measurements": changed})


def run(result, compressed=1.0, original=2.0, spread=0.01, processes=5, seed=0):
    """The report with simulated samples: medians as given, processes that differ by `spread`."""
    generator = np.random.default_rng(seed)
    changed = []
    for m in result.measurements:
        if m.evidence != "host":
            changed.append(m)
            continue
        median = {"compressed": compressed, "original": original}[m.artifact]
        factors = generator.normal(0, spread, (processes, 1)) + generator.normal(0, 0.01, (processes, 50))
        by_process = median * np.exp(factors)
        facts = {"samples": by_process.flatten().tolist(), "samples_by_process": [50] * processes}
        changed.append(m.model_copy(update={**facts, "p50_ms": float(np.median(by_process))}))
    return result.model_copy(update={"measurements": changed})


# --- verdicts ---------------------------------------------------------------------------------------------


def test_a_report_is_the_same_as_itself(result):
    compared = compare(result, result)
    assert {found.verdict for found in compared.findings} <= {"same", "noisy"}  # a time may be noisy here
    assert compared.differences == []
    exact = {"file", "download", "installed", "accuracy, top1", "instructions", "memory"}
    assert all(found.verdict == "same" for found in compared.findings if found.figure in exact)
    assert compare(run(result), run(result)).exit_code == 0


@pytest.mark.parametrize(
    "change,verdict",
    [(1.0, "same"), (1.04, "same"), (1.06, "worse"), (0.96, "same"), (0.9, "better")],
)
def test_exact_figures_are_judged_as_they_are(result, change, verdict):
    size = result.size.model_copy(update={"artifact_bytes": round(change * result.size.artifact_bytes)})
    assert verdicts(result, result.model_copy(update={"size": size}))["file"] == verdict
    assert verdicts(result, result.model_copy(update={"size": size}), tolerance=0.5)["file"] == "same"


def test_accuracy_is_judged_in_points(result):
    def losing(points):
        accuracy = result.accuracy.model_copy(update={"compressed": result.accuracy.compressed - points})
        return result.model_copy(update={"accuracy": accuracy})

    found = [verdicts(result, losing(points))["accuracy, top1"] for points in (0.05, 0.15, -0.15)]
    assert found == ["same", "worse", "better"]
    assert verdicts(result, losing(0.15), points=0.2)["accuracy, top1"] == "same"
    other = result.model_copy(update={"accuracy": result.accuracy.model_copy(update={"samples": 50})})
    (finding,) = [f for f in compare(result, other).findings if f.figure == "accuracy, top1"]
    assert finding.verdict == "not comparable" and finding.reason == "samples: 100 → 50"


def test_other_metrics_are_judged_by_their_share_and_direction(result):
    def with_score(score, **more):
        facts = {"metric": "mse", "unit": "", "higher_is_better": False, "compressed": score, **more}
        return result.model_copy(update={"accuracy": result.accuracy.model_copy(update=facts)})

    found = [verdicts(with_score(2.0), with_score(score))["accuracy, mse"] for score in (2.05, 2.2, 1.8)]
    assert found == ["same", "worse", "better"]
    higher = {"metric": "psnr", "unit": "dB", "higher_is_better": True}
    assert verdicts(with_score(30, **higher), with_score(28, **higher))["accuracy, psnr"] == "worse"


def test_outputs_that_are_further_off_are_worse(result):
    def off(percent):
        return result.model_copy(update={"error": result.error.model_copy(update={"percent": percent})})

    found = [verdicts(off(2.0), off(percent))["outputs off by"] for percent in (2.05, 2.2, 1.8, None)]
    assert found == ["same", "worse", "better", "worse"]
    assert verdicts(result.model_copy(update={"error": None}), result)["outputs off by"] == "not comparable"


def test_a_few_pages_of_memory_mean_nothing(result):
    def with_peak(peak):
        return with_measurements(result, peak_rss_bytes=peak, empty_rss_bytes=1_000_000)

    found = [verdicts(with_peak(2_000_000), with_peak(peak))["memory"] for peak in (2_200_000, 2_400_000, 1_700_000)]
    assert found == ["same", "worse", "better"]
    old = with_measurements(result, peak_rss_bytes=2_000_000, empty_rss_bytes=None)
    assert verdicts(old, with_peak(2_000_000))["memory"] == "same"


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"threads": 2}, "threads: 1 → 2"),
        ({"inputs": "other"}, "inputs: "),
        ({"runtime": "litert"}, "runtime: executorch → litert"),
        ({"device": {"name": "host", "processor": "another"}}, "processor: "),
        ({"device": {"max_mhz": {"0": 1800}}}, "max_mhz"),
        ({"device": {"before": {"governor": ["powersave"]}}}, "governor: null → "),
    ],
)
def test_under_other_circumstances_nothing_is_compared(result, changes, reason):
    compared = compare(result, with_measurements(result, **changes))
    by_figure = {found.figure: found for found in compared.findings}
    assert by_figure["latency p50"].verdict == by_figure["memory"].verdict == "not comparable"
    assert reason in by_figure["latency p50"].reason and by_figure["file"].verdict == "same"


def test_what_one_report_lacks(result):
    bare = result.model_copy(update={"measurements": [], "accuracy": None})
    found = {f.figure: (f.verdict, f.reason) for f in compare(bare, result).findings}
    assert found["latency p50"] == found["accuracy, top1"] == ("not comparable", "not measured before")
    assert compare(result, bare).findings[-1].reason == "not measured after"


def test_the_state_of_a_device_is_not_its_identity(result):
    states = ((1, {0: 9}), (2, {"0": 9}))  # in JSON all keys are text
    devices = [{"name": "adb", "max_mhz": mhz, "identity": i, "before": {"mhz": i}} for i, mhz in states]
    a, b = (with_measurements(run(result), device=device) for device in devices)
    assert verdicts(a, b)["latency p50"] == "same"


# --- times ------------------------------------------------------------------------------------------------


def test_two_runs_of_one_file_are_hardly_ever_worse(result):
    """Whatever shifts the whole run shifts the original too; the interval covers what differs between processes."""
    found = []
    for seed, shift in enumerate(np.random.default_rng(0).normal(0, 0.2, 30)):
        a = run(result, spread=0.02, seed=seed)
        b = run(result, np.exp(shift), 2 * np.exp(shift), spread=0.02, seed=1000 + seed)
        found.append(verdicts(a, b)["latency p50"])
    assert not {"worse", "better"} & set(found)
    quiet = [verdicts(run(result, seed=i), run(result, seed=1000 + i))["latency p50"] for i in range(10)]
    assert quiet.count("same") >= 7 and set(quiet) <= {"same", "noisy"}


def test_a_slower_kernel_is_worse(result):
    found = [verdicts(run(result, seed=i), run(result, 1.3, seed=1000 + i))["latency p50"] for i in range(10)]
    assert set(found) == {"worse"}
    assert verdicts(run(result, 1.3), run(result, seed=1))["latency p50"] == "better"


@pytest.mark.parametrize(
    "compressed,original,verdict",
    [
        (1.3, 2.6, "noisy"),  # all became slower: the machine, or the runtime
        (1.3, 2.0, "worse"),
        (1.0, 1.5, "noisy"),  # slower against the original: hidden by a faster machine?
        (1.0, 3.0, "same"),
        (0.7, 1.4, "noisy"),
    ],
)
def test_the_original_is_the_witness(result, compressed, original, verdict):
    assert verdicts(run(result), run(result, compressed, original, seed=1))["latency p50"] == verdict


def test_times_of_few_processes_are_noisy(result):
    compared = compare(run(result, processes=4), run(result, processes=4, seed=1))
    (latency,) = [found for found in compared.findings if found.figure == "latency p50"]
    assert latency.verdict == "noisy" and "measure again" in latency.reason and compared.exit_code == 5


def test_tails_of_small_samples_are_those_of_students_t():
    """With quantiles as they are tabled."""
    for n, quantile in ((3, 4.303), (5, 2.776), (6, 2.571), (10, 2.262), (30, 2.045)):
        expected = 0.5 * math.erfc(quantile * math.sqrt(n / (n - 1)) / math.sqrt(2))
        assert statistics._tail(n) == pytest.approx(expected, rel=0.02)


# --- the command line -------------------------------------------------------------------------------------


def test_exit_codes_and_json(edgecomp, folder, result, tmp_path):
    larger = json.loads((folder / "report.json").read_text())
    larger["size"]["artifact_bytes"] *= 2
    (tmp_path / "larger.json").write_text(json.dumps(larger))
    for name, simulated in (("a", run(result)), ("b", run(result, seed=1)), ("slow", run(result, 2.0))):
        (tmp_path / f"{name}.json").write_text(simulated.model_dump_json(by_alias=True))
    done = edgecomp("compare", folder, "larger.json")
    assert done.returncode == 1 and "worse" in done.stdout
    assert edgecomp("compare", "a.json", "b.json").returncode == 0
    done = edgecomp("compare", "a.json", "slow.json", "--json")
    found = {finding["figure"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1 and found["latency p50"]["verdict"] == "worse"
    assert found["latency p50"]["interval"][0] > 1.05 < found["latency p50"]["relative_interval"][0]
    assert edgecomp("compare", "a.json", "slow.json", "--tolerance", "300%").returncode == 0


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "does not exist"),
        (b"", "no report of edgecomp"),
        (b'{"schema": "edgecomp.report/1", "model": {"na', "no report of edgecomp"),
        (b"\xff\xfe\x00binary", "it is not text"),
        (b'{"schema": "another/1"}', "schema: "),
        (b"[1, 2]", "no report of edgecomp"),
    ],
)
def test_files_that_are_no_reports(tmp_path, content, message):
    if content is not None:
        (tmp_path / "report.json").write_bytes(content)
    for path in (tmp_path, tmp_path / "report.json"):
        with pytest.raises(UsageError, match=message) as caught:
            report.read_report(path)
        assert str(tmp_path / "report.json") in str(caught.value)


@pytest.mark.parametrize("command", [["compare", "other.json"], ["bench", "--baseline", "other.json"]])
def test_a_damaged_report_is_a_usage_error(edgecomp, folder, tmp_path, command):
    (tmp_path / "other.json").write_text((folder / "report.json").read_text()[:-100])
    done = edgecomp(*command, folder)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert "other.json is no report of edgecomp" in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


def test_a_report_of_a_newer_version_says_so(folder, tmp_path):
    newer = json.loads((folder / "report.json").read_text())
    newer["new_field"], newer["environment"]["edgecomp"] = 1, "99.0"
    (tmp_path / "newer.json").write_text(json.dumps(newer))
    with pytest.raises(UsageError, match=r"edgecomp 99\.0.*update"):
        report.read_report(tmp_path / "newer.json")


def test_bench_measures_again(edgecomp, folder, tmp_path):
    """Times are not judged here: another test may run beside this one."""
    shutil.copytree(folder.parent, tmp_path, dirs_exist_ok=True)
    before = report.read_report(tmp_path / "out")
    done = edgecomp("bench", "out", "--on", "qemu", "--baseline", "out/report.json", "--json")
    compared, after = json.loads(done.stdout), report.read_report(tmp_path / "out")
    assert done.returncode in (0, 1, 5), done.stderr
    found = {finding["figure"]: finding["verdict"] for finding in compared["findings"]}
    assert found["file"] == found["installed"] == found["accuracy, top1"] == "same"
    assert found["latency p50"] != "not comparable"
    assert after.measurements[0].samples != before.measurements[0].samples
    assert after.layers == before.layers and after.notes == before.notes and after.proof == before.proof


def test_bench_refuses_what_is_not_the_build(edgecomp, folder, tmp_path):
    def refused(message, *options):
        done = edgecomp("bench", "out", *options)
        assert done.returncode == 2 and message in " ".join(done.stderr.split()), done.stderr

    refused("does not exist")
    shutil.copytree(folder.parent, tmp_path, dirs_exist_ok=True)
    refused("would measure nothing", "--on", "none")
    model = tmp_path / "out" / "model.pte"
    model.unlink()  # a link: the other name of the file stays as it is
    model.write_bytes(b"another file")
    refused("not the file that report.json tells of")
    (tmp_path / "tiny.py").write_text((tmp_path / "tiny.py").read_text().replace("manual_seed(0)", "manual_seed(1)"))
    refused("not one that you have built as it is now")
    refused("weights of tiny.py are not those", "--model", "tiny.py")
    (tmp_path / "out" / "plan.json").write_text("{")
    refused("is not the plan of a build")
