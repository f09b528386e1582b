"""Another computer that runs Linux, such as a Raspberry Pi, through this machine's ssh."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Self

from ..errors import DeviceError
from ..records import Evidence
from ..util.files import temporary_folder
from .base import DeviceOptions
from .remote import Remote
from .target import Target

_LOST = 255  # ssh's own exit code; those of programs there are handed on
_OPTIONS = {
    "BatchMode": "yes",  # never asks: a question nobody sees would wait for ever
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
}
_REMEDIES = {
    "Host key verification failed": "Connect once by hand, and compare its key: ssh {host}",
    "Permission denied": "Put your key there: ssh-copy-id {host}",
    "Could not resolve": "Is the name right?",
}


class Ssh(Remote):
    """`EDGECOMP_SSH` is the command to use, like `ssh -i KEY`; everything else is in ~/.ssh/config."""

    name = "ssh"
    evidence: Evidence = "ssh"
    parent = "/var/tmp"  # /tmp is often in memory, which is what we measure

    def __init__(self, target: Target, place: DeviceOptions) -> None:
        super().__init__(target, place)
        self._command = shlex.split(os.environ.get("EDGECOMP_SSH", "ssh"))
        self._control = contextlib.ExitStack()
        self._socket: Path | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._identity = ""

    def __enter__(self) -> Self:
        if shutil.which(self._command[0]) is None:
            raise DeviceError(f"{self._command[0]} is not installed", "Run: sudo apt-get install openssh-client")
        self._identity = self.shell("cat /etc/machine-id 2>/dev/null || hostname").stdout.strip()
        # One connection for all that follows. Until it stands, and if it does not, each command has its own.
        self._socket = self._control.enter_context(temporary_folder()) / "c"  # paths of sockets are short
        nothing = subprocess.DEVNULL
        self._master = subprocess.Popen(
            [*self._ssh(), "-M", "-N", self._host], stdin=nothing, stdout=nothing, stderr=nothing
        )
        try:
            super().__enter__()
        except BaseException:
            self._hang_up()
            raise
        return self

    def __exit__(self, *what: object) -> None:
        super().__exit__(*what)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._master:
            self._master.terminate()
            self._master.wait()
        self._control.close()
        self._master = self._socket = None

    @property
    def _host(self) -> str:
        return self.place.host or ""

    @property
    def where(self) -> str:
        return f"the computer {self._host}"

    def identity(self) -> str:
        return self._identity

    def _ssh(self) -> list[str]:
        options = dict(_OPTIONS)
        if self._socket:
            options["ControlPath"] = str(self._socket)
        return [*self._command, "-T", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]

    def shell(self, command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        done = self._call(command, timeout_s, subprocess.DEVNULL, subprocess.PIPE)
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def push(self, local: Path, remote: str) -> None:
        with open(local, "rb") as file:
            done = self._call(f"cat >{remote}", 3600, file, subprocess.PIPE)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            size = local.stat().st_size / 1e6
            raise DeviceError(
                f"{self.where} does not take {local.name} ({size:.1f} MB): {reason}",
                f"Look whether {self.parent} can be written to, and is not full.",
            )

    def pull(self, remote: str, local: Path) -> None:
        with open(local, "wb") as file:
            done = self._call(f"cat {remote}", 3600, subprocess.DEVNULL, file)
        if done.returncode:
            raise DeviceError(f"{self.where} does not give {remote}: {done.stderr.decode(errors='replace').strip()}")

    def _call(
        self, command: str, timeout_s: float, stdin: object, stdout: object
    ) -> subprocess.CompletedProcess[bytes]:
        """`sh -c` on the computer, whatever the user's own shell there is. The outer one turns a signal that ends the
        command into an exit code; ssh itself says 255 then, as if the connection were lost."""
        line = [*self._ssh(), self._host, f"sh -c {shlex.quote(f'sh -c {shlex.quote(command)}; exit $?')}"]
        try:
            done = subprocess.run(line, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=timeout_s)  # type: ignore[call-overload]
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{self.where}: a program did not end in time", "Look what it does.") from error
        if done.returncode == _LOST:
            raise self._lost(done.stderr.decode(errors="replace"))
        return done

    def _lost(self, text: str) -> DeviceError:
        reason = (text.strip().splitlines() or ["the connection broke"])[-1]
        remedy = next((remedy for key, remedy in _REMEDIES.items() if key in text), "Try: ssh {host} true")
        return DeviceError(f"{self.where} cannot be reached: {reason}", remedy.format(host=self._host))
