"""edgecomp makes a trained PyTorch model fit the app. The seven stages, the records they hand on, the errors."""

import importlib
from typing import Any

_STAGES = ("load", "plan", "compress", "recover", "export", "measure", "report")  # modules: edgecomp.plan.plan()
_HOME = {
    **dict.fromkeys(("Data", "Model", "Plan", "Report", "Request", "Split"), "records"),
    **dict.fromkeys(("BuildError", "DeviceError", "EdgecompError", "UsageError"), "errors"),
    "Recipe": "training.train",
    "build": "pipeline",
}

__all__ = [
    "BuildError",
    "Data",
    "DeviceError",
    "EdgecompError",
    "Model",
    "Plan",
    "Recipe",
    "Report",
    "Request",
    "Split",
    "UsageError",
    "build",
    "compress",
    "export",
    "load",
    "measure",
    "plan",
    "recover",
    "report",
]


def __getattr__(name: str) -> Any:
    if name in _STAGES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module 'edgecomp' has no attribute {name!r}")
