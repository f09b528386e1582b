"""A phone or tablet with Android, through the adb server of this machine."""

from __future__ import annotations

import os
import secrets
import shlex
import stat
import struct
import subprocess
import time
from pathlib import Path

from adbutils import AdbClient, AdbConnection, AdbError

from ..errors import DeviceError
from ..records import Evidence
from .base import DeviceOptions
from .phones import CONNECT, REMEDIES, Phone, phones
from .remote import Remote
from .target import Target

_PATIENCE_S = 30  # without a sign of life before the phone is asked for one
_CHUNK = 64 * 1024  # the most that the protocol takes at once
_STDOUT, _STDERR, _EXIT = 1, 2, 3  # packets of the shell


def choose(serial: str | None) -> Phone:
    """The phone of that serial number, or the only one there is. One in the network is connected to.

    Raises:
        DeviceError: there is none, there are several to choose from, or it cannot be used as it is.
    """
    serial = serial or os.environ.get("ANDROID_SERIAL")
    connected = phones()
    if serial and ":" in serial and not _usable(serial, connected):
        try:
            AdbClient().disconnect(serial)  # an earlier connection may be a dead one
            answer = AdbClient().connect(serial, timeout=20)
        except (AdbError, OSError) as error:
            answer = str(error)
        connected = _settled(serial)
        if all(phone.serial != serial for phone in connected):
            raise DeviceError(
                f"{serial} cannot be reached: {answer}", "Is adb over the network on, and the port right?"
            )
    wanted = [phone for phone in connected if phone.serial == serial] if serial else connected
    names = ", ".join(f"{phone.serial} ({phone.model or phone.state})" for phone in connected)
    if not wanted:
        raise DeviceError(f"no phone {serial}" if serial else "no phone is connected", _with(names) or CONNECT)
    if len(wanted) > 1:
        raise DeviceError(f"{len(wanted)} phones are connected: {names}", "Say which one with --serial.")
    phone = wanted[0]
    if phone.state != "device":
        remedy = REMEDIES.get(phone.state, "Look at its screen; `edgecomp devices` shows its state.")
        raise DeviceError(f"the phone {phone.serial} is {phone.state}", remedy)
    return phone


def _with(names: str) -> str:
    return f"Connected: {names}." if names else ""


def _usable(serial: str, connected: list[Phone]) -> bool:
    return any(phone.serial == serial and phone.state in ("device", "unauthorized") for phone in connected)


def _settled(serial: str) -> list[Phone]:
    """The list once that phone's state is more than a passing one."""
    for _ in range(20):
        connected = phones()
        if not any(p.serial == serial and p.state in ("offline", "connecting", "authorizing") for p in connected):
            break
        time.sleep(0.25)
    return connected


class Adb(Remote):
    name = "adb"
    evidence: Evidence = "adb-shell"
    parent = "/data/local/tmp"

    def __init__(self, target: Target, place: DeviceOptions) -> None:
        super().__init__(target, place)
        self._phone: Phone | None = None
        self._identity = ""
        self._guard: AdbConnection | None = None

    def __enter__(self) -> Adb:
        self._phone = choose(self.place.serial)
        if "shell_v2" not in self._device().get_features():
            raise DeviceError(f"{self.where} is too old", "Use one with Android 7 or newer.")
        self._identity = self.shell("getprop ro.serialno").stdout.strip() or self._phone.serial
        super().__enter__()
        try:
            self._leave_guard()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _leave_guard(self) -> None:
        """Starts a shell on the phone that waits for the end of its input, which comes with the end of the connection:
        a pulled cable, or a kill of this process. It then cleans up after this session, but not after a later one."""
        token, f = secrets.token_hex(8), self.folder
        self._must(f"echo {token} >{f}/session")
        wait = f"trap '' HUP; cat >/dev/null; if [ \"$(cat {f}/session 2>/dev/null)\" = {token} ]; "
        try:
            self._guard = self._device().open_transport(timeout=_PATIENCE_S)
            self._guard.send_command(f"shell,v2,raw:{wait}then {self._removal()}fi")
            self._guard.check_okay()
        except (AdbError, OSError, EOFError) as error:
            raise self._failure(error) from error

    @property
    def where(self) -> str:
        return f"the phone {self._phone.serial}" if self._phone else "the phone"

    def identity(self) -> str:
        return self._identity

    def _device(self):  # type: ignore[no-untyped-def]
        assert self._phone is not None
        return AdbClient().device(self._phone.serial)

    # --- shell --------------------------------------------------------------------------------------------

    def shell(self, command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        end, texts = time.monotonic() + timeout_s, {_STDOUT: b"", _STDERR: b""}
        try:
            with self._device().open_transport(timeout=_PATIENCE_S) as connection:
                connection.send_command(f"shell,v2,raw:{command}")
                connection.check_okay()
                while True:
                    kind, data = self._packet(connection, end)
                    if kind == _EXIT:
                        out, err = (texts[kind].decode(errors="replace") for kind in (_STDOUT, _STDERR))
                        return subprocess.CompletedProcess(command, data[0], out, err)
                    if kind in texts:
                        texts[kind] += data
        except (AdbError, OSError, EOFError) as error:
            raise self._failure(error) from error

    def _packet(self, connection: AdbConnection, end: float) -> tuple[int, bytes]:
        """The next packet of a shell. While none comes, the phone is asked from time to time whether it is there."""
        header = b""
        while len(header) < 5:
            try:
                got = connection.conn.recv(5 - len(header))
            except TimeoutError:
                if time.monotonic() > end:
                    raise DeviceError(f"{self.where}: a program did not end in time", "Restart the phone.") from None
                self._ask_for_life()
                continue
            if not got:
                raise EOFError("the connection was closed")
            header += got
        kind, length = struct.unpack("<BI", header)
        return kind, connection.read_exact(length)

    def _ask_for_life(self) -> None:
        """Raises a DeviceError or an AdbError if not even `true` gets an answer."""
        with self._device().open_transport(timeout=_PATIENCE_S) as connection:
            connection.send_command("shell,v2,raw:true")
            connection.check_okay()
            connection.read_exact(6)

    def _failure(self, error: Exception) -> DeviceError:
        """What became of the phone, in words."""
        if isinstance(error, DeviceError):
            return error
        serial = self._phone.serial if self._phone else ""
        state = next((phone.state for phone in phones() if phone.serial == serial), "")
        if state == "device" and isinstance(error, (TimeoutError, AdbError)) and "time" in f"{error} {error!r}".lower():
            return DeviceError(
                f"{self.where} does not answer any more",
                "Restart the phone. What is left there is removed when it is used next.",
            )
        if state == "device" and not isinstance(error, (EOFError, ConnectionError)):
            return DeviceError(f"{self.where}: {error}", "Try again; `adb kill-server` starts the server anew.")
        now = f" and is now {state}" if state and state != "device" else ""
        return DeviceError(
            f"the connection to {self.where} broke{now}",
            "Plug it in again and repeat the command. The phone removes by itself what was put there.",
        )

    # --- files --------------------------------------------------------------------------------------------

    def push(self, local: Path, remote: str) -> None:
        mode = stat.S_IFREG | (local.stat().st_mode & 0o777)
        try:
            with self._device().open_transport(timeout=_PATIENCE_S) as connection, open(local, "rb") as file:
                connection.send_command("sync:")
                connection.check_okay()
                name = f"{remote},{mode}".encode()
                connection.conn.sendall(b"SEND" + struct.pack("<I", len(name)) + name)
                try:
                    while data := file.read(_CHUNK):
                        connection.conn.sendall(b"DATA" + struct.pack("<I", len(data)) + data)
                    connection.conn.sendall(b"DONE" + struct.pack("<I", int(time.time())))
                except ConnectionError:
                    pass  # the phone says why below, if it can
                answer, length = struct.unpack("<4sI", connection.read_exact(8))
                if answer != b"OKAY":
                    raise self._refused(local, connection.read_exact(length).decode(errors="replace"))
        except (AdbError, OSError, EOFError) as error:
            raise self._failure(error) from error

    def _refused(self, local: Path, reason: str) -> DeviceError:
        if "space" not in reason:
            return DeviceError(
                f"{self.where} does not take {local.name}: {reason}", f"Can {self.parent} be written to?"
            )
        size = local.stat().st_size / 1e6
        return DeviceError(
            f"{self.where} is full: there is no space for {local.name} ({size:.1f} MB) in {self.parent}",
            "Free some space on it; `adb shell df /data` shows how much there is.",
        )

    def pull(self, remote: str, local: Path) -> None:
        try:
            with self._device().open_transport(timeout=_PATIENCE_S) as connection, open(local, "wb") as file:
                connection.send_command("sync:")
                connection.check_okay()
                connection.conn.sendall(b"RECV" + struct.pack("<I", len(remote.encode())) + remote.encode())
                while True:
                    kind, length = struct.unpack("<4sI", connection.read_exact(8))
                    if kind == b"DONE":
                        return
                    data = connection.read_exact(length)
                    if kind != b"DATA":
                        raise DeviceError(f"{self.where} does not give {shlex.quote(remote)}: {data.decode()}")
                    file.write(data)
        except (AdbError, OSError, EOFError) as error:
            raise self._failure(error) from error
