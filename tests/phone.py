"""The device's side of adb, for tests: a TCP server that the real adb binary connects to as to a phone.

It speaks the transport protocol (CNXN, AUTH, OPEN, OKAY, WRTE, CLSE) with the services that edgecomp uses:
`shell,v2,raw:` and `sync:` (SEND, RECV). Commands run in mksh with toybox, as on a phone; `/data/local/tmp`, `/sys` and
Android's own programs are those of a folder. ARM64 programs run under qemu, with no C library but what was pushed. It
misbehaves on demand: see `Phone`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

PARENT = "/data/local/tmp"
MAX_DATA = 256 * 1024
PROPERTIES = {
    "ro.product.manufacturer": "Example",
    "ro.product.model": "Peer 1",
    "ro.soc.manufacturer": "ARM",
    "ro.soc.model": "A76x2",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.build.id": "TEST.1",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
}
BATTERY = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  level: 80\n  temperature: 291\n"
APPLETS = (
    "cat chmod cp df dirname echo env false grep head kill ls mkdir mv printf ps rm sed sleep sh tail tr true uname"
)


class Phone:
    """A phone in `folder`. Set what it is to do wrong before it is used:

    unauthorized: asks for a key it never accepts.
    space: bytes of pushed files after which it is full.
    at: a text; when a pushed file's name has it, or 0.3 s after a command line that has it, `then` happens, once:
        "drop" closes the connection, "hang" answers nothing any more, "kill" kills the program.
    """

    def __init__(self, folder: Path, serial: str) -> None:
        self.folder, self.serial = folder, serial
        self.unauthorized, self.space, self.at, self.then = False, 1 << 40, "", ""
        self.commands: list[str] = []
        self.hung = False
        self.lock = threading.Lock()
        self._make_system()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    # --- what a test looks at, and changes ----------------------------------------------------------------

    @property
    def left(self) -> list[str]:
        """What lies in /data/local/tmp."""
        return sorted(path.name for path in (self.folder / PARENT[1:]).iterdir())

    @property
    def programs(self) -> list[int]:
        """Numbers of the processes that run a program of this phone."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"{self.folder}{PARENT}".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def set_temperature(self, celsius: float) -> None:
        zone = self.folder / "sys/class/thermal/thermal_zone0"
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "type").write_text("cpu-big\n")
        (zone / "temp").write_text(f"{1000 * celsius:.0f}\n")

    def misbehave(self, at: str, then: str) -> None:
        self.at, self.then = at, then

    def close(self) -> None:
        self._server.close()
        self.unplug()

    def unplug(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # --- the system ---------------------------------------------------------------------------------------

    def _make_system(self) -> None:
        (self.folder / PARENT[1:]).mkdir(parents=True)
        bin_folder = self.folder / "bin"
        bin_folder.mkdir()
        for name in APPLETS.split():
            (bin_folder / name).symlink_to(shutil.which("mksh" if name == "sh" else "toybox"))
        lines = "".join(f"[{key}]: [{value}]\n" for key, value in {**PROPERTIES, "ro.serialno": self.serial}.items())
        self._program("getprop", f'if [ "$1" ]; then echo {self.serial}; else cat <<"E"\n{lines}E\nfi')
        self._program("dumpsys", f'if [ "$1" = battery ]; then cat <<"E"\n{BATTERY}E\nfi')
        self._program("taskset", f'echo "$1" >>{self.folder}/pinned; shift; exec "$@"')
        for core in range(4):
            cpu = self.folder / f"sys/devices/system/cpu/cpu{core}"
            (cpu / "cpufreq").mkdir(parents=True)
            (cpu / "cpufreq/cpuinfo_max_freq").write_text("1800000\n" if core < 2 else "2400000\n")
            (cpu / "cpufreq/scaling_cur_freq").write_text("1200000\n")
            (cpu / "cpufreq/scaling_governor").write_text("schedutil\n")
        (self.folder / "sys/devices/system/cpu/online").write_text("0-3\n")
        self.set_temperature(35)
        cpuinfo = "processor\t: 0\nFeatures\t: fp asimd aes crc32 atomics asimdhp asimdrdm asimddp\n"
        cpuinfo += "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n"
        (self.folder / "qemu/proc").mkdir(parents=True)
        (self.folder / "qemu/proc/cpuinfo").write_text(cpuinfo)

    def _program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!{shutil.which('mksh')}\n{script}\n")
        path.chmod(0o755)

    def path(self, remote: str) -> Path:
        return self.folder / remote.lstrip("/")

    def received(self, path: Path) -> None:
        """What the kernel of a phone does with ARM64 programs, a script in place of the loader does with qemu."""
        if path.name.startswith("ld-linux-aarch64"):
            real = path.with_name(f".{path.name}")
            path.rename(real)
            command = f"{shutil.which('qemu-aarch64')} -cpu cortex-a76 -L {self.folder}/qemu {real}"
            path.write_text(f'#!{shutil.which("mksh")}\nexec {command} "$@"\n')
            path.chmod(0o755)

    def start(self, command: str, stdin: int) -> subprocess.Popen[bytes]:
        """A shell with this command line; the phone's folders take the place of the machine's."""
        self.commands.append(command)
        for top in (f"{PARENT}", "/sys/"):
            command = command.replace(top, f"{self.folder}{top}")
        environment = {"PATH": str(self.folder / "bin"), "HOME": "/"}
        shell = [shutil.which("mksh") or "mksh", "-c", command]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            shell, stdin=stdin, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
        if self.at and self.at in command:
            threading.Timer(0.3, self.go_wrong, (process.pid,)).start()
        return process

    def go_wrong(self, program: int = 0) -> None:
        self.at = ""
        if self.then == "drop":
            self.unplug()
        elif self.then == "kill":
            os.killpg(program, signal.SIGKILL)
        self.hung = self.then == "hang"

    # --- connections --------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.append(connection)
                threading.Thread(target=Transport(self, connection).serve, daemon=True).start()


class Transport:
    """One connection of an adb server: packets in, and the streams that they belong to."""

    def __init__(self, phone: Phone, connection: socket.socket) -> None:
        self.phone, self.connection = phone, connection
        self.streams: dict[int, Stream] = {}
        self._lock = threading.Lock()

    def serve(self) -> None:
        try:
            while True:
                command, first, second, data = self._read()
                if not self.phone.hung:
                    self._handle(command, first, second, data)
        except (OSError, EOFError):
            pass
        finally:
            for stream in list(self.streams.values()):
                stream.closed()
            self.connection.close()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        if self.phone.hung:
            return
        number = int.from_bytes(command, "little")
        header = struct.pack("<4sIIIII", command, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF)
        with self._lock:
            self.connection.sendall(header + data)

    def _read(self) -> tuple[bytes, int, int, bytes]:
        command, first, second, length, _, _ = struct.unpack("<4sIIIII", self._exactly(24))
        return command, first, second, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.connection.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def _handle(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command in (b"CNXN", b"AUTH") and self.phone.unauthorized:
            if command == b"CNXN" or first == 2:  # a signature; 3 is the key, for the person at the phone to accept
                self.send(b"AUTH", 1, 0, bytes(20))
        elif command == b"CNXN":
            banner = "device::ro.product.name=peer;ro.product.model=Peer 1;ro.product.device=peer;features=shell_v2,cmd"
            self.send(b"CNXN", 0x01000001, MAX_DATA, banner.encode())
        elif command == b"OPEN":
            service = data.rstrip(b"\0").decode()
            kind = Shell if service.startswith("shell,v2") else Sync if service == "sync:" else None
            if kind is None:
                self.send(b"CLSE", 0, first)
                return
            own = max(self.streams, default=0) + 1
            self.streams[own] = kind(self, own, first)
            self.send(b"OKAY", own, first)
            self.streams[own].begin(service)
        elif second in self.streams:
            if command == b"WRTE":
                self.streams[second].received(data)
                self.send(b"OKAY", second, first)
            elif command == b"OKAY":
                self.streams[second].ready.release()
            elif command == b"CLSE":
                self.streams.pop(second).closed()


class Stream:
    def __init__(self, transport: Transport, own: int, other: int) -> None:
        self.transport, self.phone, self.own, self.other = transport, transport.phone, own, other
        self.ready = threading.Semaphore(1)  # the other side has taken the last packet

    def begin(self, service: str) -> None: ...

    def received(self, data: bytes) -> None: ...

    def closed(self) -> None: ...

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), MAX_DATA):
            self.ready.acquire()
            self.transport.send(b"WRTE", self.own, self.other, data[at : at + MAX_DATA])

    def close(self) -> None:
        self.ready.acquire()
        self.transport.send(b"CLSE", self.own, self.other)


class Shell(Stream):
    process: subprocess.Popen[bytes] | None = None
    input = -1

    def begin(self, service: str) -> None:
        command = service.partition(":")[2]
        given, self.input = os.pipe()
        self.process = self.phone.start(command, given)
        os.close(given)
        threading.Thread(target=self._finish, daemon=True).start()

    def _finish(self) -> None:
        assert self.process is not None
        texts = self.process.communicate()
        self._end_input()
        code = self.process.returncode
        packets = [(1, texts[0]), (2, texts[1]), (3, bytes([code if code >= 0 else 128 - code]))]
        with contextlib.suppress(OSError):
            self.write(b"".join(struct.pack("<BI", kind, len(data)) + data for kind, data in packets if data))
            self.close()

    def closed(self) -> None:
        """As adbd does: who listened is gone, the program gets a hangup, and the end of its input."""
        self._end_input()
        if self.process and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGHUP)

    def _end_input(self) -> None:
        with self.phone.lock:
            if self.input >= 0:
                os.close(self.input)
            self.input = -1


class Sync(Stream):
    def begin(self, service: str) -> None:
        self.buffer = b""
        self.file: object = None
        self.refused = ""

    def received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 8:
            kind, length = struct.unpack("<4sI", self.buffer[:8])
            body = 0 if kind in (b"DONE", b"QUIT") else length
            if len(self.buffer) < 8 + body:
                return
            payload, self.buffer = self.buffer[8 : 8 + body], self.buffer[8 + body :]
            getattr(self, f"_{kind.decode().lower()}")(payload)

    def _answer(self, kind: bytes, data: bytes = b"") -> None:
        threading.Thread(target=self.write, args=(kind + struct.pack("<I", len(data)) + data,), daemon=True).start()

    def _send(self, payload: bytes) -> None:
        name, _, mode = payload.decode().rpartition(",")
        self.path, self.mode, self.refused = self.phone.path(name), int(mode) & 0o777, ""
        if self.phone.at and self.phone.at in name:
            self.phone.go_wrong()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")

    def _data(self, payload: bytes) -> None:
        self.phone.space -= len(payload)
        if self.phone.space < 0 and not self.refused:
            self.refused = "couldn't write file: No space left on device"
            self._answer(b"FAIL", self.refused.encode())
        if not self.refused:
            with open(self.path, "ab") as file:
                file.write(payload)

    def _done(self, _: bytes) -> None:
        if not self.refused:
            self.path.chmod(self.mode)
            self.phone.received(self.path)
            self._answer(b"OKAY")

    def _recv(self, payload: bytes) -> None:
        path = self.phone.path(payload.decode())
        if not path.is_file():
            self._answer(b"FAIL", b"No such file or directory")
            return
        data = path.read_bytes()
        parts = [data[at : at + 65536] for at in range(0, len(data), 65536)]
        stream = b"".join(b"DATA" + struct.pack("<I", len(part)) + part for part in parts) + b"DONE" + bytes(4)
        threading.Thread(target=self.write, args=(stream,), daemon=True).start()

    def _quit(self, _: bytes) -> None: ...


class Server:
    """A private adb server, so that the developer's is left alone; `environment` is what clients need to find it."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {"ANDROID_ADB_SERVER_PORT": str(port), "HOME": str(home), "ADB_MDNS": "0"}

    def adb(self, *arguments: str) -> str:
        done = subprocess.run(
            ["adb", *arguments], env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=30
        )
        return done.stdout + done.stderr

    def start(self) -> None:
        self.adb("start-server")

    def stop(self) -> None:
        self.adb("kill-server")


def wait_until(condition, seconds: float = 10) -> bool:  # type: ignore[no-untyped-def]
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())
