"""Tasks of a Ray cluster, or of one that is started on this machine. A task whose node dies is done again elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import ray

from ..errors import BuildError, DeviceError
from ..util.workspace import code_digest
from . import pickling
from .base import Done, Outcome, attempt

_RETRIES = 3
_OBJECT_STORE = 1 << 30  # bytes, of a cluster that is started here


class Ray:
    """The engine; one task, one CPU."""

    name = "ray"

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tell nobody
        options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": "error"}
        if address is None:
            cores = workers or len(os.sched_getaffinity(0))
            options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _object_store()}
        try:
            _answers(address)
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise DeviceError(
                f"no Ray cluster at {address or 'this machine'}: {str(error).strip().splitlines()[0]}",
                "Start one with `ray start --head` (docs/scale-out.md), or leave out --address.",
            ) from error
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._limit = workers
        self._remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(_task)

    def share(self, value: Any) -> ray.ObjectRef:
        """Puts it into the object store, from where every node fetches it once."""
        return ray.put(arrays(pickling.pack(value)))

    def run(
        self, function: Callable[..., Any], tasks: Sequence[Any], *shared: ray.ObjectRef, done: Done | None = None
    ) -> list[Outcome]:
        """See `Engine`."""
        outcomes: list[Outcome | None] = [None] * len(tasks)
        waiting, running = list(range(len(tasks)))[::-1], {}
        try:
            while waiting or running:
                while waiting and (self._limit is None or len(running) < self._limit):
                    index = waiting.pop()
                    message = arrays(pickling.pack((function, tasks[index])))
                    running[self._remote.remote(code_digest(), message, list(shared))] = index
                for reference in ray.wait(list(running), num_returns=1)[0]:
                    index = running.pop(reference)
                    outcomes[index] = _outcome(reference)
                    if done is not None:
                        done(index, outcomes[index])  # type: ignore[arg-type]
        except BaseException:
            for reference in running:
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=True)
            raise
        return outcomes  # type: ignore[return-value]

    def close(self) -> None:
        """Leaves the cluster; ends it if it was started here."""
        ray.shutdown()


def _answers(address: str | None) -> None:
    """Raises an OSError at once if nothing is at HOST:PORT; Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _outcome(reference: ray.ObjectRef) -> Outcome:
    try:
        return pickling.unpack(ray.get(reference))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        return Outcome(error=BuildError(f"Ray lost the task, and {_RETRIES} more tries at it: {reason}"))


def _task(digest: str, message: list[Any], shared: list[ray.ObjectRef]) -> list[Any]:
    """What a node of the cluster does."""
    node, same = ray.util.get_node_ip_address(), "Install the same on every node."
    if code_digest() != digest:
        outcome = Outcome(error=BuildError(f"node {node} has another edgecomp than this machine", same))
    else:
        try:
            function, task = pickling.unpack(message)
            values = [_value(reference) for reference in shared]
        except ImportError as error:
            outcome = Outcome(error=BuildError(f"node {node}: {error}", same))
        else:
            outcome = attempt(function, task, values)
    return arrays(pickling.pack(outcome))


@lru_cache(maxsize=64)
def _value(reference: ray.ObjectRef) -> Any:
    return pickling.unpack(ray.get(reference))


def arrays(parts: list[Any]) -> list[np.ndarray]:
    """Parts as Ray keeps them apart and gives them out without a copy."""
    return [np.frombuffer(part, np.uint8) for part in parts]


def _object_store() -> int:
    """Not more than half of what /dev/shm has room for."""
    try:
        space = os.statvfs("/dev/shm")
    except OSError:
        return _OBJECT_STORE
    return int(min(_OBJECT_STORE, max(80 << 20, space.f_bavail * space.f_frsize // 2)))
