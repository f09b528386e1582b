"""Listening to a net while it runs: hooks that are taken off again, whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn


class Enough(Exception):
    """Raised by a listener to end the pass, and with it the `with capture(…)` around it."""


@contextlib.contextmanager
def capture(modules: Mapping[Any, nn.Module], see: Callable[..., None], before: bool = False) -> Iterator[None]:
    """Calls `see(key, inputs, output)` after every call of one of the modules, with its key in `modules`:

        with capture({"fc1": net.fc1}, see):
            net(x)

    Args:
        see: gets the tuple of the module's positional arguments; may raise `Enough`.
        before: call `see(key, inputs)` ahead of the module instead.
    """
    handles = []
    try:
        for key, module in modules.items():
            if before:
                handles.append(module.register_forward_pre_hook(lambda _, x, key=key: see(key, x)))
            else:
                handles.append(module.register_forward_hook(lambda _, x, y, key=key: see(key, x, y)))
        with contextlib.suppress(Enough):
            yield
    finally:
        for handle in handles:
            handle.remove()


def named(net: nn.Module, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
    """The modules of these kinds by name, for `capture`."""
    return {name: module for name, module in net.named_modules() if isinstance(module, kinds)}
