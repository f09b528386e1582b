"""Finds methods, runtimes, targets and models by file. A new file is a new name; there is no list to edit."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from . import methods as methods_package
from . import runtimes as runtimes_package
from .errors import UsageError, unknown
from .util.files import data_folder


def method_names() -> list[str]:
    return module_names(methods_package)


def method(name: str) -> ModuleType:
    """The method module of that name."""
    return module("method", methods_package, name)


def prunes(name: str) -> bool:
    """The method of that name takes channels out of the net, instead of treating layers."""
    return getattr(method(name), "PRUNES", False)


def runtime_names() -> list[str]:
    return module_names(runtimes_package)


def runtime(name: str) -> ModuleType:
    """The runtime module of that name."""
    return module("runtime", runtimes_package, name)


def runtime_of_file(path: str) -> str | None:
    """The runtime whose files have the suffix of this one, and are models that one can start from."""
    return next((name for name in runtime_names() if path.endswith(runtime(name).SUFFIX)), None)


def model_files() -> dict[str, Path]:
    """The models of the zoo, by name."""
    return {path.stem: path for path in sorted(data_folder("models").glob("*.py"))}


def configure(method_name: str, settings: dict[str, str]) -> Any:
    """The method's Config with `settings` (text, as from `--set k=16`) filled in.

    Raises:
        UsageError: an unknown setting (the nearest one is named) or a value that does not fit.
    """
    config = method(method_name).Config
    for key in settings:
        if key not in config.model_fields:
            raise unknown(f"setting of {method_name}", key, config.model_fields)
    try:
        return config(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--set {key}={settings.get(key)}: {first['msg']}") from error


def module_names(package: ModuleType) -> list[str]:
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_"))


def module(kind: str, package: ModuleType, name: str) -> ModuleType:
    if name not in module_names(package):
        raise unknown(kind, name, module_names(package))
    return importlib.import_module(f"{package.__name__}.{name}")
