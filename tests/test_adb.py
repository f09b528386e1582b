"""A phone through the real adb: what it is asked, what runs there, what can go wrong, and that nothing is left."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import export_tiny
from phone import Phone, Server, wait_until

from edgecomp.devices import adb, remote
from edgecomp.devices.adb import Adb
from edgecomp.devices.base import DeviceOptions
from edgecomp.devices.bundle import host_bundle, make_bundle
from edgecomp.devices.facts import Facts
from edgecomp.devices.host import HOST_TARGET, Host
from edgecomp.devices.target import find_target
from edgecomp.errors import DeviceError, UsageError

ANDROID = find_target("android-arm64")
pytestmark = pytest.mark.xdist_group("starter")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("home"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def phone(server, tmp_path, monkeypatch):
    """A phone that adb is connected to, and no other."""
    for name in ("ANDROID_ADB_SERVER_PORT", "ADB_MDNS"):
        monkeypatch.setenv(name, server.environment[name])
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    phone = Phone(tmp_path / "phone", "SERIAL1")
    yield phone
    server.adb("disconnect")
    phone.close()
    assert wait_until(lambda: not phone.programs)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An exported net, inputs, and the bundle for a phone."""
    folder = tmp_path_factory.mktemp("scene")
    make_bundle(ANDROID, "executorch", folder / "bundle")
    return folder / "bundle", *export_tiny(folder)


def test_a_build_measured_on_a_phone(phone, edgecomp, tiny_model, tmp_path):
    tiny_model.write_text(tiny_model.read_text().replace("split(100)", "split(600)"))
    options = ("--target", "android-arm64", "--method", "pq", "--budget", "1MB", "-o", "out", "--on", "adb", *at(phone))
    done = edgecomp("build", tiny_model, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert phone.left == []
    r = json.loads((tmp_path / "out/report.json").read_text())
    by = {(m["evidence"], m["artifact"]): m for m in r["measurements"]}
    assert set(by) == {(e, a) for e in ("host", "adb-shell") for a in ("original", "compressed")}
    for artifact in ("original", "compressed"):
        m = by["adb-shell", artifact]
        assert len(m["samples"]) == sum(m["samples_by_process"]) >= 100 and len(m["samples_by_process"]) == 5
        for p in (50, 90, 99):
            low, high = m[f"p{p}_interval_ms"]
            assert low <= m[f"p{p}_ms"] <= high
        assert m["peak_rss_bytes"] > m["empty_rss_bytes"] > 0 and m["rss_anon_bytes"] > 0
        assert m["first_ms"] > 0 and m["load_ms"] > 0
        device = m["device"]
        assert device["model"] == "Example Peer 1" and device["soc"] == "ARM A76x2" and device["cores"] == 4
        assert device["android"] == "14 (SDK 34)" and device["identity"] == "SERIAL1"
        for state in (device["before"], device["after"]):
            assert state["governor"] == ["schedutil"] and state["temperature_c"] == 35
            assert state["battery"] == {"percent": 80, "charging": True, "temperature_c": 29.1}
    assert r["check"]["evidence"] == "adb-shell" and r["check"]["samples"] == 500
    accuracy = r["check"]["accuracy"]
    low, high = accuracy["interval"]
    assert low <= accuracy["drop_points"] <= high and "Newcombe" in accuracy["interval_method"]


def at(phone):
    return "--serial", phone.address


def code_and_stderr(done):
    return done.returncode, done.stderr


def test_the_same_numbers_as_on_the_host(phone, scene, tmp_path):
    bundle, model, inputs = scene
    with Adb(ANDROID, at_place(phone)) as device:
        run = device.run(bundle, model, inputs, tmp_path / "there", threads=1, warmup=1, repeat=2)
        pushed = list(phone.path(remote_folder(phone)).rglob("*"))
        device.run(bundle, model, inputs, tmp_path / "there", threads=1)
        assert list(phone.path(remote_folder(phone)).rglob("*")) == pushed  # nothing is copied twice
    host = host_bundle(find_target(HOST_TARGET), "executorch")
    Host().run(host, model, inputs, tmp_path / "here", threads=1)
    a, b = (np.fromfile(tmp_path / name, np.float32) for name in ("here", "there"))
    assert len(run.samples_ms) == 2 and len(run.warmup_ms) == 1
    assert np.allclose(a, b, atol=1e-4 * abs(a).max()) and a.any()
    assert phone.left == []


def remote_folder(phone):
    (name,) = phone.left
    return f"/data/local/tmp/{name}"


def test_several_phones_at_once(server, phone, scene, tmp_path, edgecomp):
    others = [Phone(tmp_path / f"phone{i}", f"SERIAL{i}") for i in (2, 3)]
    every = [phone, *others]

    def measure(one):
        with Adb(ANDROID, DeviceOptions(serial=one.address)) as device:
            return device.identity(), device.run(*scene, threads=1).samples_ms, one.left

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(measure, every))
    assert [serial for serial, _, _ in results] == ["SERIAL1", "SERIAL2", "SERIAL3"]
    assert all(samples and len(left) == 1 for _, samples, left in results)
    assert not any(one.left for one in every)
    code, text = code_and_stderr(edgecomp("build", "--on", "adb"))
    assert code == 4 and "3 phones are connected" in text and "--serial" in text
    assert all(one.address in text.replace("\n", "") for one in every)
    for one in others:
        one.close()


def test_no_phone_and_phones_that_are_not_ready(server, phone, edgecomp):
    code, text = code_and_stderr(edgecomp("build", "--on", "adb"))
    assert code == 4 and "no phone is connected" in text and "USB debugging" in text
    code, text = code_and_stderr(edgecomp("build", "--on", "adb", "--serial", "ABSENT"))
    assert code == 4 and "no phone ABSENT" in text
    code, text = code_and_stderr(edgecomp("build", "--on", "adb", "--serial", "127.0.0.1:1"))
    assert code == 4 and "cannot be reached" in text
    phone.unauthorized = True
    code, text = code_and_stderr(edgecomp("build", "--on", "adb", *at(phone)))
    assert code == 4 and "is unauthorized" in text and "Unlock the phone" in text
    assert phone.left == []


def test_a_phone_that_adb_knows_and_cannot_reach(server, phone, edgecomp):
    server.adb("connect", phone.address)
    phone.hung = True
    phone.unplug()
    assert wait_until(lambda: "offline" in server.adb("devices"))
    code, text = code_and_stderr(edgecomp("build", "--on", "adb"))
    assert code == 4 and "is offline" in text and "reconnect" in text


def test_list_of_devices(server, phone, edgecomp):
    server.adb("connect", phone.address)
    done = edgecomp("devices", COLUMNS="200")
    assert done.returncode == 0
    for text in (f"adb --serial {phone.address}", "Peer 1", "host", "qemu-aarch64", "ssh --host"):
        assert text in done.stdout


def fails(phone, scene, match):
    """A session in which a run fails so, with exit code 4."""
    with pytest.raises(DeviceError, match=match) as caught, Adb(ANDROID, at_place(phone)) as device:
        device.run(*scene, threads=1, repeat=20, least_ms=2000)
    assert caught.value.exit_code == 4 and caught.value.remedy


def nothing_stays(phone):
    return wait_until(lambda: phone.left == [] and not phone.programs)


@pytest.mark.parametrize("at", ["--repeat", "libexecutorch.so"])
def test_cable_pulled(phone, scene, at):
    phone.misbehave(at, "drop")
    fails(phone, scene, "connection to the phone .* broke")
    assert nothing_stays(phone)
    with Adb(ANDROID, at_place(phone)) as device:  # plugged in again
        assert device.run(*scene, threads=1).samples_ms
    assert phone.left == []


@pytest.mark.parametrize("at", ["--repeat", "libexecutorch.so"])
def test_phone_that_hangs(phone, scene, at, monkeypatch):
    monkeypatch.setattr(adb, "_PATIENCE_S", 1)
    phone.misbehave(at, "hang")
    fails(phone, scene, "does not answer any more")
    phone.hung = False
    phone.unplug()
    assert nothing_stays(phone)


def test_program_killed_by_the_phone(phone, scene):
    phone.misbehave("--repeat", "kill")
    fails(phone, scene, "killed by SIGKILL")
    assert phone.left == [] and nothing_stays(phone)


def test_full_phone(phone, scene):
    phone.space = 5_000_000
    fails(phone, scene, r"is full: there is no space for \S+ \([\d.]+ MB\) in /data/local/tmp")
    assert phone.left == [] and nothing_stays(phone)


def test_build_whose_cable_is_pulled(phone, tiny_model, tmp_path, monkeypatch, edgecomp):
    """The whole command: its exit code and message, and nothing of it in this machine's temporary folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    phone.misbehave("--least_ms", "drop")
    code, text = code_and_stderr(edgecomp("build", tiny_model, "--on", "adb", *at(phone), "-o", tmp_path / "out"))
    text = " ".join(text.split())
    assert code == 4 and f"connection to the phone {phone.address} broke" in text and "Plug it in again" in text
    assert all(path.name.startswith("torchinductor") for path in (tmp_path / "temporary").iterdir())  # torch's own
    assert not list((tmp_path / "out").glob(".*.partial"))
    assert (tmp_path / "out/model.pte").exists() and not (tmp_path / "out/report.json").exists()
    assert nothing_stays(phone)


def test_what_lies_there_when_a_phone_is_used_is_removed(phone):
    """Of a session that the phone's own clean-up did not see the end of, such as one before it was switched off."""
    (phone.path(Adb(ANDROID, at_place(phone)).folder) / "bundle").mkdir(parents=True)
    with Adb(ANDROID, at_place(phone)) as device:
        assert phone.left == [device.folder.rpartition("/")[2]] and not phone.path(f"{device.folder}/bundle").exists()
        (phone.path(device.folder) / "session").write_text("another's")  # a guard leaves alone what is not its own
        device._guard.close()
        assert not wait_until(lambda: phone.left == [], 1)
    assert phone.left == []


def test_second_run_on_the_same_phone_is_kept_off(phone):
    with Adb(ANDROID, at_place(phone)):
        with pytest.raises(DeviceError, match="in use by another run"), Adb(ANDROID, at_place(phone)):
            pass
        assert len(phone.left) == 1
    assert phone.left == []


def test_phone_of_another_kind(phone):
    phone._program("getprop", "echo '[ro.product.cpu.abilist]: [x86_64]'")
    with pytest.raises(DeviceError, match="is no arm64-v8a: its processor is x86_64"), Adb(ANDROID, at_place(phone)):
        pass
    assert phone.left == []


def at_place(phone, **more):
    return DeviceOptions(serial=phone.address, **more)


@pytest.mark.parametrize("cores,mask", [("big", "c"), ("little", "3"), ("0x6", "6")])
def test_cores(phone, scene, cores, mask):
    with Adb(ANDROID, at_place(phone, cores=cores)) as device:
        device.run(*scene, threads=1)
        assert device.describe()["pinned_to"] == f"{cores}: mask {mask}"
    assert set((phone.folder / "pinned").read_text().split()) == {mask}
    assert any(f"exec taskset {mask} sh " in command for command in phone.commands)


def test_cores_that_cannot_be_had(phone):
    with pytest.raises(UsageError, match="cores are 0-3"), Adb(ANDROID, at_place(phone, cores="f0")):
        pass
    phone._program("taskset", "exit 1")
    with pytest.raises(DeviceError, match="does not let programs be pinned"), Adb(ANDROID, at_place(phone, cores="1")):
        pass
    assert phone.left == []


def test_waits_until_it_is_cool(phone, monkeypatch):
    monkeypatch.setattr(remote, "_LOOK_EVERY_S", 0.2)
    phone.set_temperature(60)
    with Adb(ANDROID, at_place(phone, max_temp_c=40)) as device:
        threading.Timer(1, phone.set_temperature, (38,)).start()
        device.rest()
        assert device.state()["temperature_c"] == 38
        phone.set_temperature(60)
        monkeypatch.setattr(remote, "_COOLING_S", 0.5)
        with pytest.raises(DeviceError, match=r"still at 60.0 °C \(cpu-big\)"):
            device.rest()


def test_what_cannot_be_read_is_said(phone, scene):
    for path in (phone.folder / "sys").rglob("*"):
        if path.is_file() and path.name != "online":
            path.unlink()
    phone._program("dumpsys", "exit 1")
    with Adb(ANDROID, at_place(phone)) as device:
        assert device.run(*scene, threads=1).samples_ms
        for what in ("the governor", "the clocks", "the temperature", "the battery"):
            assert f"{what} cannot be read" in device.remarks()
    with (
        pytest.raises(DeviceError, match="does not tell its temperature"),
        Adb(ANDROID, at_place(phone, max_temp_c=40)),
    ):
        pass
    with pytest.raises(DeviceError, match="how fast its cores are"), Adb(ANDROID, at_place(phone, cores="big")):
        pass


def test_ended_from_outside(phone, starter, tiny_model):
    process = starter.popen("build", tiny_model, "--on", "adb", *at(phone), cwd=tiny_model.parent)
    assert wait_until(lambda: any("--repeat" in command for command in phone.commands), 120)
    process.send_signal(signal.SIGTERM)
    assert "interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == 130 and phone.left == []


def test_killed_outright(phone, scene):
    """The phone notices, and cleans up."""
    script = "from edgecomp.devices.adb import *; from pathlib import Path\n"
    script += "from edgecomp.devices.target import find_target\n"
    script += f"with Adb(find_target('android-arm64'), DeviceOptions(serial='{phone.address}')) as device:\n"
    script += f"    device.run(*map(Path, {[str(path) for path in scene]}), threads=1, least_ms=60000)"
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ, stderr=subprocess.PIPE)
    runs = lambda: any("--least_ms" in command for command in phone.commands)  # noqa: E731
    assert wait_until(lambda: runs() or process.poll() is not None, 120)
    process.kill()
    assert runs(), process.communicate()[1].decode()
    process.communicate()
    assert nothing_stays(phone)
    with Adb(ANDROID, at_place(phone)) as device:
        assert device.run(*scene, threads=1).samples_ms
    assert phone.left == []


def test_options_of_other_devices(edgecomp):
    for options, text in [
        (("--on", "qemu", "--serial", "X"), "--serial is for --on adb"),
        (("--on", "qemu", "--cores", "big"), "--on adb and --on ssh"),
        (("--on", "adb", "--cores", "fast"), "big, little"),
        (("--on", "adb", "--cores", "0"), "big, little"),
    ]:
        code, shown = code_and_stderr(edgecomp("build", *options))
        assert code == 2 and text in " ".join(shown.split())


def test_facts_of_phones():
    thermal = "Current temperatures from HAL:\n\tTemperature{mValue=41.5, mType=0, mName=CPU0, mStatus=0}"
    answer = f"== zones\n 55000\n31 battery\n== thermal\n{thermal}\n== battery\n  level: 7\n  temperature: 305\n"
    facts = Facts.parse(answer.replace("\n", "\r\n"))
    assert facts.temperature == (41.5, "CPU0")
    assert facts.battery == {"percent": 7, "charging": False, "temperature_c": 30.5}
    assert Facts.parse("== battery\n  level: 7\n  temperature: 305").temperature == (30.5, "battery")
    zones = "== zones\n43000 cpu-0-0\n45100 cpu-1-3-usr\n97000 pa-therm\n-40000 tsens0\n390 soc\n200000 big"
    assert Facts.parse(zones).temperature == (45.1, "cpu-1-3-usr")
    assert Facts.parse("== online\n0-2,5").online == [0, 1, 2, 5]
    nothing = Facts.parse("")
    assert nothing.describe() == nothing.state() == {} and nothing.temperature is None


def test_a_checkup_of_a_phone(phone, edgecomp):
    done = edgecomp("doctor", "--phone", *at(phone)[:2], "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["what"]: check for check in json.loads(done.stdout)}
    assert checks["phone"]["state"] == "Example Peer 1, 14 (SDK 34), ARM A76x2"
    assert {"executorch program", "litert program", "temperature", "battery", "cores", "clocks"} <= set(checks)
    assert phone.left == []
    phone.set_temperature(60)
    done = edgecomp("doctor", "--phone", *at(phone)[:2])
    assert done.returncode == 4 and "--max-temp" in done.stdout
    done = edgecomp("doctor", "--phone", "--serial", "other")
    assert done.returncode == 4 and "no phone other" in done.stdout
