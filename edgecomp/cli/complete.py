"""What the shell completes: names of methods, targets, models, runtimes, devices, papers. None of it imports torch."""

from __future__ import annotations

import re


def method(incomplete: str) -> list[str]:
    """The last name of a method expression such as `pq+in`."""
    from ..discover import method_names

    return _last_name(incomplete, [*method_names(), "auto"])


def setting(ctx: object, incomplete: str) -> list[str]:
    """`KEY=` of the settings of the methods that the command line names."""
    from . import catalog

    expression = getattr(ctx, "params", {}).get("method") or "pq"
    known = catalog.methods()
    names = [name for name in re.split("[+:]", expression) if name in known]
    return _beginning(incomplete, dict.fromkeys(f"{s['name']}=" for name in names for s in known[name]["settings"]))


def target(incomplete: str) -> list[str]:
    from ..devices.target import target_names

    return _beginning(incomplete, target_names())


def model(incomplete: str) -> list[str]:
    """Names of the zoo; the shell adds files."""
    from ..discover import model_files

    return _beginning(incomplete, model_files())


def runtime(incomplete: str) -> list[str]:
    from ..discover import runtime_names

    return _beginning(incomplete, runtime_names())


def device(incomplete: str) -> list[str]:
    from ..devices.target import find_target, target_names

    names = [name for target in target_names() for name in find_target(target).devices]
    return _beginning(incomplete, dict.fromkeys(["host", *names, "none"]))


def paper(incomplete: str) -> list[str]:
    from .. import papers
    from ..discover import module_names

    return _beginning(incomplete, module_names(papers))


def _beginning(incomplete: str, names: object) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]  # type: ignore[attr-defined]


def _last_name(incomplete: str, names: list[str]) -> list[str]:
    before, last = re.fullmatch(r"((?:.*[+:,])?)(.*)", incomplete).groups()  # type: ignore[union-attr]
    return [before + name for name in _beginning(last, names)]
