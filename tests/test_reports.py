"""What is made of a report: the page in a real browser, Markdown, JUnit; and the verdicts on limits."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgecomp import measure, report
from edgecomp.errors import UsageError
from edgecomp.records import Accuracy, Limits, Measured, Measurement, OutputError, Plan, SizeReport
from edgecomp.report import figures, limits, markdown
from edgecomp.report import html as page
from edgecomp.report import junit as junit_file
from edgecomp.util.units import parse_bytes, parse_count, parse_ms, parse_share

pytestmark = pytest.mark.xdist_group("judged")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture
def result(judged):
    return report.read_report(judged[0])


# --- limits -----------------------------------------------------------------------------------------------


def test_every_limit_has_a_verdict_and_one_missed_exits_1(judged, result):
    _, done = judged
    assert done.returncode == 1, done.stderr
    verdicts = {limit.name: (limit.verdict, limit.evidence) for limit in result.limits}
    assert verdicts == {
        "file": ("pass", "on disk"),
        "installed": ("pass", "on disk"),
        "drop": ("pass", "host"),
        "ram": ("fail", "qemu-arm64"),
        "instructions": ("pass", "qemu-arm64"),
    }
    assert result.budget.verdict == result.budget.drop_verdict == "pass"
    assert "FAIL memory" in done.stdout and "PASS instructions" in done.stdout


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--max-latency", "5ms"], "--max-latency cannot be judged on qemu"),
        (["--max-instructions", "5M", "--on", "host"], "only the emulator counts instructions"),
        (["--max-latency", "5 parsecs", "--on", "host"], "Write it like 5ms"),
        (["--max-drop", "nan"], "--max-drop nan is not a number"),
    ],
)
def test_limits_that_nothing_could_decide_are_refused(edgecomp, tmp_path, arguments, message):
    done = edgecomp("build", *arguments, "-o", "out")
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_was_not_measured_is_inconclusive(edgecomp, tiny_model, tmp_path):
    asked = ("--budget", "1MB", "--max-ram", "1GB", "--max-latency", "1s")
    assert edgecomp("build", tiny_model, *asked, "--on", "none", "-o", "out").returncode == 5
    verdicts = {limit.name: limit.verdict for limit in report.read_report(tmp_path / "out").limits}
    assert verdicts == {"file": "pass", "ram": "inconclusive", "latency": "inconclusive"}


def _judged(measurements=(), accuracy=None, drop=None, **asked):
    plan = Plan(
        **dict.fromkeys(("model", "model_sha256", "target", "runtime", "method"), ""),
        seed=0,
        budget_bytes=10,
        max_drop_points=drop,
        limits=Limits(**asked),
        entries=(),
    )
    size = SizeReport(original_bytes=100, artifact_bytes=10, ratio=10, download_bytes=9, installed_bytes=20)
    return limits.judge(plan, size, Measured(tuple(measurements), accuracy))[-1]


def _measurement(evidence, **figures):
    return Measurement(evidence=evidence, artifact="compressed", runtime="executorch", threads=1, **figures)


@pytest.mark.parametrize("limit,verdict", [(0.8, "fail"), (0.9, "inconclusive"), (1.0, "inconclusive"), (1.2, "pass")])
def test_a_latency_near_its_limit_is_not_decided(limit, verdict):
    found = [_measurement("host", p50_ms=1.0, p50_interval_ms=(0.9, 1.1))]
    assert _judged(found, latency_ms=limit).verdict == verdict


def test_the_strongest_evidence_decides():
    found = [
        _measurement("host", p50_ms=1.0, peak_rss_bytes=10, empty_rss_bytes=1),
        _measurement("qemu-arm64", instructions=7, peak_rss_bytes=60, empty_rss_bytes=20),
        _measurement("adb-shell", p50_ms=3.0, peak_rss_bytes=30, empty_rss_bytes=5),
    ]
    latency, ram = _judged(found, latency_ms=2), _judged(found, ram_bytes=26)
    assert (latency.value, latency.evidence, latency.verdict) == (3.0, "adb-shell", "fail")
    assert (ram.value, ram.evidence, ram.verdict) == (25, "adb-shell", "pass")
    assert _judged(found[:2], ram_bytes=26).value == 40
    assert _judged(found, instructions=6).verdict == "fail" and _judged(found[:1], instructions=6).value is None


def test_memory_without_a_baseline_is_an_upper_bound():
    found = [_measurement("host", peak_rss_bytes=30)]
    assert _judged(found, ram_bytes=30).verdict == "pass"
    assert _judged(found, ram_bytes=29).verdict == "inconclusive"


def test_a_drop_is_decided_by_its_interval_if_it_has_one():
    facts = {"metric": "top1", "split": "s", "samples": 100, "original": 90, "compressed": 89.5, "agreement": 99}
    sure, unsure = Accuracy(**facts, drop_points=0.5), Accuracy(**facts, drop_points=0.5, interval=(-0.4, 1.4))
    assert [_judged((), sure, drop).verdict for drop in (0.4, 0.5)] == ["fail", "pass"]
    assert [_judged((), unsure, drop).verdict for drop in (-1, 0.5, 1.3, 1.4)] == [
        "fail",
        *["inconclusive"] * 2,
        "pass",
    ]


def test_a_drop_of_a_metric_in_its_own_unit(result):
    facts = {"metric": "psnr", "unit": "dB", "split": "s", "samples": 9, "original": 31.25, "compressed": 30.5}
    accuracy = Accuracy(**facts, drop_points=0.75, agreement=None)
    found = _judged((), accuracy, 0.5)
    assert (found.unit, found.verdict) == ("score", "fail")
    told = result.model_copy(update={"accuracy": accuracy, "limits": [found]})
    assert figures.limits(told)[0].sentence == "accuracy lost 0.75 dB of at most 0.5 dB"
    assert ("psnr, 9 test samples", "31.25 dB", "30.5 dB", "drop +0.75 dB", "host") in figures.figures(told)
    text = page.html(told)
    assert "31.25 dB before, 30.5 dB in the exported file, a drop of 0.75 dB" in text and "same answer" not in text


@pytest.mark.parametrize("percent,limit,verdict", [(2.0, 2.0, "pass"), (2.1, 2.0, "fail"), (None, 100.0, "fail")])
def test_the_error_of_all_outputs_is_a_limit(result, percent, limit, verdict):
    error = OutputError(percent=percent, samples=32, inputs="random inputs", reference="the model as it was given")
    plan = Plan(
        **dict.fromkeys(("model", "model_sha256", "target", "runtime", "method"), ""),
        seed=0,
        budget_bytes=10,
        max_drop_points=None,
        max_error_percent=limit,
        entries=(),
    )
    size = SizeReport(original_bytes=100, artifact_bytes=10, ratio=10, download_bytes=9, installed_bytes=20)
    judged = limits.judge(plan, size, Measured((), None, error=error))
    assert (judged[-1].name, judged[-1].verdict) == ("error", verdict)
    budget = result.budget.model_copy(update={"verdict": "pass", "drop_verdict": None})
    told = result.model_copy(update={"accuracy": None, "error": error, "limits": judged, "budget": budget})
    assert told.exit_code == (verdict == "fail")
    row = next(row for row in figures.figures(told) if row[0].startswith("outputs off by"))
    assert row[2] == ("not finite" if percent is None else f"{percent:.3g} %")
    for text in (page.html(told), markdown.report(told), junit_file.report(told)):
        assert "outputs off by" in text
    assert (measure._warnings(error, None) != []) == (percent is None)


@pytest.mark.parametrize(
    "real,drop,named", [(False, None, "error"), (True, None, ""), (True, 12, "drop"), (True, 3, "")]
)
def test_a_destroyed_net_does_not_pass_unasked(real, drop, named):
    error = OutputError(percent=35.0, samples=32, inputs="inputs", reference="the model as it was given", real=real)
    facts = {"metric": "top1", "split": "s", "samples": 9, "original": 90, "compressed": 0, "agreement": 9}
    accuracy = None if drop is None else Accuracy(**facts, drop_points=drop)
    texts = dict.fromkeys(("model", "model_sha256", "target", "runtime", "method"), "")
    plan = Plan(**texts, seed=0, budget_bytes=10, max_drop_points=None, entries=())
    size = SizeReport(original_bytes=100, artifact_bytes=10, ratio=10, download_bytes=9, installed_bytes=20)
    file, *others = limits.judge(plan, size, Measured((), accuracy, error=error))
    assert file.verdict == "pass"
    assert [(limit.name, limit.stated, limit.verdict) for limit in others] == [(named, False, "fail")] * bool(named)


def test_what_is_far_off_is_probably_broken():
    error = OutputError(percent=35.0, samples=32, inputs="random inputs", reference="the model as it was given")
    (text,) = measure._warnings(error, None)
    assert "35 % off" in text and "this model is probably broken" in text
    facts = {"metric": "top1", "split": "s", "samples": 9, "original": 90, "compressed": 90, "drop_points": 0}
    assert not measure._warnings(error, Accuracy(**facts, agreement=99))


@pytest.mark.parametrize("asked", ["-1", "nan", "inf"])
def test_an_error_that_is_no_limit(edgecomp, tiny_model, asked):
    done = edgecomp("build", tiny_model, "--max-error", asked)
    assert done.returncode == 2 and "is not a number of percent" in " ".join(done.stderr.split())


def test_units():
    assert (parse_bytes("1.1kB"), parse_bytes("2 MiB"), parse_count("20M")) == (1100, 2**21, 20_000_000)
    assert [parse_ms(text) for text in ("5", "5ms", "800us", "1.5 s")] == [5, 5, pytest.approx(0.8), 1500]
    assert [parse_share(text) for text in ("5%", "0.05", "0")] == [pytest.approx(0.05), 0.05, 0]
    for parse, text in (
        (parse_ms, "0"),
        (parse_ms, "1 MB"),
        (parse_count, "0.5"),
        (parse_bytes, "big"),
        (parse_share, "-5%"),
    ):
        with pytest.raises(UsageError, match="Write it like"):
            parse(text)


# --- the page ---------------------------------------------------------------------------------------------


def look(text, width, script, tmp_path, *options):
    """What `script`, a JavaScript expression on the document `d`, gives for a page in a frame of that width."""
    show = 'document.body.append(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(found)}))'
    frame, run = (
        tmp_path / "frame.html",
        f"const w = this.contentWindow, d = w.document; const found = {script}; {show}",
    )
    style = f"width:{width}px;height:900px;border:0"
    frame.write_text(
        f"<meta charset=utf8><iframe srcdoc='{html.escape(text)}' style='{style}' onload='{html.escape(run)}'></iframe>"
    )
    done = _chromium(f"file://{frame}", "--window-size=1400,1000", "--dump-dom", *options)
    return json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", done.stdout, re.S)[1]))


def _chromium(url, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@browser
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window(result, tmp_path, width):
    """Nothing but tables, which scroll by themselves, is wider than the window, and all plots have a size."""
    script = """({page: d.documentElement.scrollWidth,
        wide: [...d.body.querySelectorAll("*")].filter(e => !e.closest(".scroll, svg") &&
              e.getBoundingClientRect().right > d.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 80)),
        plots: [...d.querySelectorAll("svg")].map(e => e.getBoundingClientRect().width),
        bars: d.querySelectorAll(".track i").length})"""
    found = look(page.html(result), width, script, tmp_path)
    assert found["page"] == width and found["wide"] == []
    assert len(found["plots"]) == 4 and min(found["plots"]) > 100 and found["bars"] > 10


@browser
def test_layers_can_be_sorted(result, tmp_path):
    script = """["original", "layer"].map(name => { const names = () => [...d.querySelectorAll(".layers tbody th")].map(
        e => e.firstChild.textContent.trim()); const button = [...d.querySelectorAll(".layers button")].find(
        b => b.textContent === name); return [0, 1].map(() => { button.click();
        return [button.parentElement.getAttribute("aria-sort"), ...names()]; }); })"""
    by_bytes, by_name = look(page.html(result), 1000, script, tmp_path)
    lines = sorted(result.layers, key=lambda line: line.original_bytes)
    assert by_bytes[1] == ["ascending", *(line.name for line in lines)]
    assert by_bytes[0] == ["descending", *(line.name for line in reversed(lines))]
    assert by_name[1][1:] == sorted(line.name for line in lines)


@browser
def test_the_page_is_dark_where_that_is_preferred_and_prints(result, tmp_path):
    text, script = page.html(result), "w.getComputedStyle(d.body).backgroundColor"
    light, dark = (
        look(text, 1000, script, tmp_path, f"--blink-settings=preferredColorScheme={scheme}") for scheme in (1, 0)
    )
    assert light == "rgb(255, 255, 255)" and dark != light
    (tmp_path / "report.html").write_text(text)
    _chromium(f"file://{tmp_path}/report.html", f"--print-to-pdf={tmp_path}/report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_the_page_needs_nothing_else(result):
    text = page.html(result)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=", re.sub(r"//.*", "", text))
    assert len(text) < 200_000
    assert text.count('role="img" aria-label="') == text.count("<svg") == 4
    for heading in ("Accuracy", "Latency", "Memory", "Layers", "What was left alone", "How it was made"):
        assert f"<h2>{heading}" in text
    assert "interval of the drop" in text and "✗ FAIL" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(scheme):
    """WCAG 2 AA: a contrast of 4.5 for text."""
    css = (Path(report.__file__).with_name("report.css")).read_text()
    roots = re.findall(r":root \{(.*?)\}", css, re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", roots[0 if scheme == "light" else 1]))
    for ink, ground in (
        *(
            (ink, ground)
            for ink in ("ink", "soft")
            for ground in ("page", "card", "pass-bg", "fail-bg", "inconclusive-bg")
        ),
        *((name, f"{name}-bg") for name in ("pass", "fail", "inconclusive")),
    ):
        lights = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
        assert (lights[0] + 0.05) / (lights[1] + 0.05) >= 4.5, (ink, ground)


def _luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_names_cannot_break_out(result):
    evil = "<script>alert(1)</script>|`\"'&\n"
    line = result.layers[2].model_copy(update={"name": evil, "reason": evil, "tables": evil})
    model = result.model.model_copy(update={"name": evil, "source": evil})
    broken = result.model_copy(update={"layers": [line], "model": model, "notes": [evil], "settings": {evil: evil}})
    assert "<script>alert" not in page.html(broken)
    text = markdown.report(broken)
    assert "<script>" not in text.replace("\\<", "") and "|`" not in text
    assert ElementTree.fromstring(junit_file.report(broken).encode())


# --- Markdown, JUnit, rendering again ---------------------------------------------------------------------


def test_for_a_pull_request(judged, result):
    text = (judged[0] / "report.md").read_text()
    assert text.startswith("### ❌ fail: tiny")
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    assert len(tables) == 3
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert "dense1" in text and len(text) < 4000


def test_for_a_ci(judged, result):
    suite = ElementTree.parse(judged[0] / "report.junit.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "1", "0")
    failed = [case for case in suite if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["memory at most 1.00 kB"]
    assert "at most 1.00 kB" in failed[0].find("failure").get("message")
    unsure = result.model_copy(update={"limits": [result.limits[0].model_copy(update={"verdict": "inconclusive"})]})
    assert ElementTree.fromstring(junit_file.report(unsure).encode()).find("testsuite").get("errors") == "1"


def test_a_report_renders_again(judged, edgecomp, tmp_path):
    out = shutil.copytree(judged[0], tmp_path / "out", ignore=shutil.ignore_patterns("bundle"))
    names = ("report.html", "report.md", "report.junit.xml")
    before = {name: (out / name).read_text() for name in names}
    for name in names:
        (out / name).unlink()
    done = edgecomp("report", "out")
    assert done.returncode == 0 and "FAIL memory" in done.stdout
    assert {name: (out / name).read_text() for name in names} == before


def test_reports_without_limits_are_still_read(judged, result, tmp_path):
    """Those of before there were any."""
    old = json.loads((judged[0] / "report.json").read_text())
    for name in ("limits", "artifact_sha256", "measure_notes"):
        del old[name]
    for measurement in old["measurements"]:
        measurement["device"] = {}
        for name in [name for name in measurement if "interval" in name or name in ("empty_rss_bytes", "first_ms")]:
            del measurement[name]
    (tmp_path / "report.json").write_text(json.dumps(old))
    read = report.read_report(tmp_path)
    assert read.exit_code == 0
    report.render(read, tmp_path)
    assert "✓ PASS" in (tmp_path / "report.html").read_text()
