"""Processes of this machine, each started afresh, with one thread. What they share lies in memory once."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any

from ..errors import BuildError
from ..util.files import cache_folder
from . import pickling
from .base import Done, Outcome

_TRIES = 2  # of a task whose worker dies
_ALIGNMENT = 64
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Local:
    """The engine; workers are started when there are tasks for them."""

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, int] = {}
        self._files: list[int] = []

    def share(self, value: Any) -> str:
        """The path of an unnamed file in memory, which ends with this process."""
        file = os.memfd_create("edgecomp")
        self._files.append(file)
        write_parts(file, pickling.pack(value))
        return f"/proc/{os.getpid()}/fd/{file}"

    def run(
        self, function: Callable[..., Any], tasks: Sequence[Any], *shared: str, done: Done | None = None
    ) -> list[Outcome]:
        """See `Engine`."""
        outcomes: list[Outcome | None] = [None] * len(tasks)
        waiting, tries = deque(range(len(tasks))), [0] * len(tasks)
        try:
            while waiting or self._busy:
                while waiting and len(self._busy) < self.workers:
                    self._give(waiting.popleft(), function, tasks, shared, tries)
                for index, outcome in self._finished():
                    if outcome is None and tries[index] < _TRIES:
                        waiting.appendleft(index)
                        continue
                    outcomes[index] = outcome or Outcome(error=BuildError(self._cause))
                    if done is not None:
                        done(index, outcomes[index])  # type: ignore[arg-type]
        except BaseException:
            self.close()
            raise
        return outcomes  # type: ignore[return-value]

    def close(self) -> None:
        """Kills all workers and what they have started."""
        for worker in [*self._idle, *self._busy]:
            worker.kill()
        self._idle, self._busy = [], {}
        for file in self._files:
            os.close(file)
        self._files = []

    def _give(self, index: int, function: Callable, tasks: Sequence[Any], shared: tuple[str, ...], tries: list[int]):
        tries[index] += 1
        worker = self._idle.pop() if self._idle else _Worker()
        self._busy[worker] = index
        with contextlib.suppress(OSError):  # it has died: `_finished` sees that
            worker.send((function, tasks[index], shared))

    def _finished(self) -> list[tuple[int, Outcome | None]]:
        """Waits for tasks to end: their indices and outcomes, None where a worker has died."""
        ended: list[tuple[int, Outcome | None]] = []
        ready = wait([worker.connection for worker in self._busy])
        for worker in [worker for worker in self._busy if worker.connection in ready]:
            index, outcome = self._busy.pop(worker), None
            try:
                outcome = worker.receive()
                self._idle.append(worker)
            except (EOFError, OSError):
                self._cause = worker.cause()
                worker.kill()
            ended.append((index, outcome))
        return ended


class _Worker:
    """A process that does one task after the other, and the connection to it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # Without it torch leaves a folder of its own among temporary files.
        kept = {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder("torch"))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgecomp.engines.worker", str(theirs.fileno())],
                env={**os.environ, **kept, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which then ends them
            )

    def send(self, message: Any) -> None:
        send_parts(self.connection, pickling.pack(message))

    def receive(self) -> Outcome:
        return pickling.unpack(receive_parts(self.connection))

    def cause(self) -> str:
        """Why it has died."""
        code = self._process.wait()
        self._log.seek(0)
        last = (self._log.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"the worker process {how}" + (f": {last}" if last else "")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.connection.close()
        self._log.close()


def write_parts(file: int, parts: list[Any]) -> None:
    """Parts one after the other, each behind its length and aligned."""
    for part in parts:
        view = memoryview(part).cast("B")
        header = view.nbytes.to_bytes(_ALIGNMENT, "little")
        for piece in (memoryview(header), view, memoryview(bytes(-view.nbytes % _ALIGNMENT))):
            while piece:
                piece = piece[os.write(file, piece) :]


def read_parts(path: str) -> list[memoryview]:
    """What `write_parts` wrote, mapped, not read; whoever writes to it gets a page of his own."""
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    parts, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + _ALIGNMENT], "little")
        parts.append(data[position + _ALIGNMENT : position + _ALIGNMENT + size])
        position += _ALIGNMENT + size + -size % _ALIGNMENT
    return parts


def send_parts(connection: Connection, parts: list[Any]) -> None:
    connection.send(len(parts))
    for part in parts:
        connection.send_bytes(part)


def receive_parts(connection: Connection) -> list[bytearray]:
    return [bytearray(connection.recv_bytes()) for _ in range(connection.recv())]
