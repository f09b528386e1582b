"""Real processes of the command line that start in no time: a program that has imported everything forks them.

A process made so has its own number, its own signals and its own output, and ends as Python ends. The fixture
`started_edgecomp` starts `python -m edgecomp.cli` itself.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


class Starter:
    """The program that forks; `popen` is like subprocess.Popen with text pipes, one process at a time."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._server = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def popen(self, *arguments: object, cwd: Path, **environment: str) -> "Started":
        out, err = os.pipe(), os.pipe()
        request = {"argv": [str(a) for a in arguments], "cwd": str(cwd), "env": {**os.environ, **environment}}
        socket.send_fds(self.socket, [json.dumps(request).encode()], [out[1], err[1]])
        os.close(out[1])
        os.close(err[1])
        return Started(self.socket, out[0], err[0])

    def close(self) -> None:
        self.socket.close()
        self._server.wait(timeout=60)


class Started:
    """A process: its number, its output, and how it ended."""

    def __init__(self, socket_: socket.socket, out: int, err: int) -> None:
        self._socket = socket_
        self.pid = int(socket_.recv(100))
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        self._socket.setblocking(False)
        try:
            self.returncode = int(self._socket.recv(100))
        except BlockingIOError:
            pass
        finally:
            self._socket.setblocking(True)
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What is left of its output, when it has ended."""
        with self.stdout, self.stderr:
            texts = self.stdout.read(), self.stderr.read()
        self._socket.settimeout(timeout)
        if self.returncode is None:
            self.returncode = int(self._socket.recv(100))
        self._socket.settimeout(None)
        return texts


def serve(number: int) -> None:
    """Forks a process for every request, and tells its number and how it ended. Returns in what was forked."""
    with socket.socket(fileno=number) as channel:
        while True:
            text, files, _, _ = socket.recv_fds(channel, 1 << 20, 2)
            if not text:
                os._exit(0)
            if (pid := os.fork()) == 0:
                break
            for file in files:
                os.close(file)
            channel.send(b"%d" % pid)
            _, status = os.waitpid(pid, 0)
            channel.send(b"%d" % os.waitstatus_to_exitcode(status))
    request = json.loads(text)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv[:] = ["edgecomp", *request["argv"]]
    for file, standard in zip(files, (1, 2), strict=True):
        os.dup2(file, standard)
        os.close(file)


def prepare() -> None:
    """Imports what a build imports; some of that only the first export does."""
    import tempfile

    import torch

    from edgecomp import discover, pipeline  # noqa: F401

    runtime = discover.runtime("executorch")
    with tempfile.TemporaryDirectory() as folder:
        runtime.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), Path(folder, f"m{runtime.SUFFIX}"))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from edgecomp.cli import main

    prepare()
    serve(int(sys.argv[1]))
    main()
