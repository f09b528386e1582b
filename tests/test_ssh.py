"""Another computer through the real ssh: the peer is an SSH server in this process that runs what it is told here."""

import asyncio
import json
import os
import signal
import socket
import threading
from pathlib import Path

import asyncssh
import numpy as np
import pytest
from conftest import export_tiny

from edgecomp.devices import bundle
from edgecomp.devices.base import DeviceOptions
from edgecomp.devices.host import HOST_TARGET, Host
from edgecomp.devices.ssh import Ssh
from edgecomp.devices.target import find_target
from edgecomp.errors import DeviceError

LINUX = find_target(HOST_TARGET)
pytestmark = pytest.mark.xdist_group("ssh")


class Computer:
    """Listens for one user with one key; `host` is what to give --host. `then`: "kill" or "drop", 0.3 s after a command
    that measures has begun."""

    def __init__(self, folder):
        self.then, self.processes = "", []
        self.key, self.own = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        self.key.write_private_key(folder / "key")
        (folder / "key").chmod(0o600)
        self.key.write_public_key(folder / "authorized")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        known = f"[127.0.0.1]:{self.port} {self.own.export_public_key().decode()}"
        (folder / "known").write_text(known)
        self.host = f"ssh://someone@127.0.0.1:{self.port}"
        self.ssh = f"ssh -F none -i {folder}/key -o UserKnownHostsFile={folder}/known"
        self.folder, self.loop = folder, asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait(10)

    def _serve(self, ready):
        async def listen():
            self.server = await asyncssh.listen(
                "127.0.0.1",
                self.port,
                server_host_keys=[self.own],
                authorized_client_keys=str(self.folder / "authorized"),
                process_factory=self._run,
                encoding=None,
            )
            ready.set()

        self.loop.run_until_complete(listen())
        self.loop.run_forever()

    async def _run(self, process):
        child = await asyncio.create_subprocess_exec(
            *("sh", "-c", process.command.replace("/var/tmp", str(self.folder / "tmp"))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        if self.then and "--repeat" in process.command:
            self.loop.call_later(0.3, self._go_wrong, process, child)
        out, err = await child.communicate(await process.stdin.read())
        process.stdout.write(out)
        process.stderr.write(err)
        process.exit(child.returncode)

    def _go_wrong(self, process, child):
        if self.then == "kill":
            for pid in children(child.pid):
                os.kill(pid, signal.SIGKILL)
        else:
            process.channel.get_connection().abort()
        self.then = ""

    @property
    def left(self):
        return sorted(path.name for path in (self.folder / "tmp").iterdir())

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)


def children(pid):
    """The innermost processes below one."""
    below = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [found for child in below for found in children(child)] or [pid]


@pytest.fixture
def computer(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    computer = Computer(tmp_path)
    monkeypatch.setenv("EDGECOMP_SSH", computer.ssh)
    yield computer
    computer.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return bundle.host_bundle(LINUX, "executorch"), *export_tiny(tmp_path_factory.mktemp("scene"))


def test_a_build_measured_on_a_computer(computer, edgecomp, tiny_model, tmp_path):
    options = ("--target", HOST_TARGET, "--on", "ssh", "--host", computer.host, "--cores", "1", "-o", "out")
    done = edgecomp("build", tiny_model, "--budget", "1MB", *options)
    assert done.returncode == 0, done.stderr
    r = json.loads((tmp_path / "out/report.json").read_text())
    there = [m for m in r["measurements"] if m["evidence"] == "ssh"]
    assert [m["artifact"] for m in there] == ["original", "compressed"]
    for m in there:
        assert len(m["samples"]) >= 100 and m["peak_rss_bytes"] > m["empty_rss_bytes"] > 0
        assert m["device"]["kernel"].startswith("Linux") and m["device"]["pinned_to"] == "1: mask 1"
    assert r["check"]["evidence"] == "ssh" and r["check"]["samples"] == 100
    assert computer.left == []


def test_the_same_numbers_as_here(computer, scene, tmp_path):
    with Ssh(LINUX, DeviceOptions(host=computer.host)) as device:
        device.run(*scene, tmp_path / "there", threads=1)
        assert len(computer.left) == 1
    Host().run(*scene, tmp_path / "here", threads=1)
    assert np.array_equal(*(np.fromfile(tmp_path / name, np.float32) for name in ("here", "there")))
    assert computer.left == []


@pytest.mark.parametrize("then,match", [("kill", "killed by SIGKILL"), ("drop", "cannot be reached")])
def test_what_can_go_wrong_meanwhile(computer, scene, then, match):
    computer.then = then
    with pytest.raises(DeviceError, match=match) as caught, Ssh(LINUX, DeviceOptions(host=computer.host)) as device:
        device.run(*scene, threads=1, repeat=1, least_ms=1500)
    assert caught.value.exit_code == 4 and caught.value.remedy
    assert computer.left == []


def test_computers_that_cannot_be_reached(computer, edgecomp, monkeypatch):
    def refused(host):
        with pytest.raises(DeviceError, match="cannot be reached") as caught, Ssh(LINUX, DeviceOptions(host=host)):
            pass
        return caught.value

    assert "Try: ssh" in refused("someone@127.0.0.1").remedy or "ssh-copy-id" in refused("someone@127.0.0.1").remedy
    monkeypatch.setenv("EDGECOMP_SSH", computer.ssh.replace("/key", "/known"))
    assert "ssh-copy-id" in refused(computer.host).remedy
    monkeypatch.setenv("EDGECOMP_SSH", computer.ssh.replace("/known", "/unknown"))
    assert "compare its key" in refused(computer.host).remedy
    done = edgecomp("build", "--target", HOST_TARGET, "--on", "ssh", "--host", computer.host)
    assert done.returncode == 4
    done = edgecomp("build", "--target", HOST_TARGET, "--on", "ssh")
    assert done.returncode == 2 and "--host USER@HOST" in done.stderr


def test_computer_of_another_kind(computer):
    arm = find_target("linux-arm64")
    with pytest.raises(DeviceError, match="is no aarch64-linux-gnu"), Ssh(arm, DeviceOptions(host=computer.host)):
        pass
    assert computer.left == []
