"""The process that `local` starts: `python -m edgecomp.engines.worker FD`, with a connection as its open file FD."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

from . import pickling
from .base import attempt
from .local import read_parts, receive_parts, send_parts


def main(file: int) -> None:
    """Does what comes until the connection is closed. If that happens amid a task, the task ends as well."""
    connection = Connection(file)
    threading.Thread(target=_end_with, args=(file,), daemon=True).start()
    while True:
        function, task, shared = pickling.unpack(receive_parts(connection))
        send_parts(connection, pickling.pack(attempt(function, task, _values(shared))))


def _values(shared: Sequence[str]) -> list[Any]:
    return [_value(path) for path in shared]


@cache
def _value(path: str) -> Any:
    return pickling.unpack(read_parts(path))


def _end_with(file: int) -> None:
    """Ends this process and what it has started when the other end of the connection is gone."""
    poll = select.poll()
    poll.register(file, select.POLLHUP)
    while not any(event & select.POLLHUP for _, event in poll.poll()):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
