"""torch.export looks up all composite operators in every step of an export, for a third of a second each time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from torch._export import utils


@contextlib.contextmanager
def looked_up_once() -> Iterator[None]:
    """Within, they are looked up once: nothing registers operators during an export."""
    kept = utils._materialize_cpp_cia_ops
    utils._materialize_cpp_cia_ops = functools.cache(kept)
    try:
        yield
    finally:
        utils._materialize_cpp_cia_ops = kept
