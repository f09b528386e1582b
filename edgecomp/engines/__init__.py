"""Where independent tasks run: processes of this machine, or a cluster. One file, one engine, one interface, `Engine`.

A task is a top-level function of this package with picklable arguments, and pure: the same arguments give the same
bytes, in whatever process. For that every task computes with one thread; there are as many tasks at a time as cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import UsageError, unknown
from .base import Done, Engine, Outcome

__all__ = ["Done", "Engine", "Outcome", "check", "opened"]

ENGINES = ("local", "ray")


def check(name: str | None, address: str | None, workers: int | None) -> None:
    """Refuses what `opened` cannot do, before anything long begins.

    Raises:
        UsageError: an unknown engine, an address of one that has none, Ray where it is not installed.
    """
    if name is not None and name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if address and name != "ray":
        raise UsageError(f"--address {address} is that of a Ray cluster", "Add --engine ray.")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least one is needed")
    if name == "ray":
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UsageError(f"Ray cannot be imported: {error}", "pip install 'edgecomp[ray]'") from error


@contextlib.contextmanager
def opened(name: str, address: str | None = None, workers: int | None = None) -> Iterator[Engine]:
    """The engine of that name, closed again at the end, at an exception and at Ctrl-C.

    Args:
        address: of an existing Ray cluster; one is started on this machine if there is none.
        workers: tasks at a time; as many as there are cores unless told, and on a cluster as it has.
    """
    check(name, address, workers)
    engine: Engine
    if name == "ray":
        from .ray import Ray

        engine = Ray(address, workers)
    else:
        from .local import Local

        engine = Local(workers)
    try:
        yield engine
    finally:
        engine.close()
