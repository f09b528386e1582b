"""What the command line lists: methods with their settings, targets, models, as plain data.

Listings must come at once, and the methods import torch. What is read from them is kept in the user's cache under the
digest of the code, so that a changed or new file is read again.
"""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

from ..util.files import cache_folder, write_text
from ..util.workspace import code_digest

if TYPE_CHECKING:
    from types import ModuleType

_KINDS = "Kinds of layers that the method takes, separated by commas."


def methods() -> dict[str, dict[str, Any]]:
    """By name: `name`, `summary` and `details` (its docstring), `kinds`, `settings` (see `_setting`), `one_of`
    (settings of which at most one is given), `default` (the one that holds if none is), `knob` (what sweeps vary)."""
    path = cache_folder("listings") / "methods.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["code"] == code_digest():
            return kept["methods"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged: made again
    from .. import discover

    made = {name: _method(name, discover.method(name)) for name in discover.method_names()}
    write_text(path, json.dumps({"code": code_digest(), "methods": made}, ensure_ascii=False))
    return made


def targets() -> list[dict[str, Any]]:
    """Every target: `name`, `description`, `runtimes`, `devices`."""
    from ..devices.target import find_target, target_names

    known = [find_target(name) for name in target_names()]
    return [
        {"name": t.name, "description": t.description, "runtimes": list(t.runtimes), "devices": t.devices}
        for t in known
    ]


def models() -> list[dict[str, Any]]:
    """Every model of the zoo: `name`, `summary`, `file`, `weights`: are they shipped with edgecomp?"""
    from .. import discover

    known = []
    for name, path in discover.model_files().items():
        summary, _ = _texts(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
        shipped = path.with_suffix(".safetensors").exists()
        known.append({"name": name, "summary": summary, "file": str(path), "weights_shipped": shipped})
    return known


def _method(name: str, module: ModuleType) -> dict[str, Any]:
    from ..layers.matrix import KINDS

    config = module.Config
    summary, details = _texts(module.__doc__)
    kinds = {"name": "kinds", "default": ", ".join(module.KINDS), "range": " | ".join(KINDS), "description": _KINDS}
    properties = config.model_json_schema()["properties"]
    own_first = dict.fromkeys(key for base in config.__mro__ for key in getattr(base, "__annotations__", ()))
    return {
        "name": name,
        "summary": summary.removeprefix(f"{name}: "),
        "details": details,
        "kinds": list(module.KINDS),
        "settings": [*(_setting(key, properties[key]) for key in own_first if key in properties), kinds],
        "one_of": [key for key, field in config.model_fields.items() if field.default is None],
        "default": dict(getattr(config, "DEFAULT", {})),
        "knob": getattr(getattr(config, "KNOB", None), "setting", None),
    }


def _setting(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """`name`, `default`, `range` (as text) and `description` of a field, from its JSON schema."""
    return {
        "name": name,
        "default": schema.get("default"),
        "range": _range(schema),
        "description": schema.get("description", ""),
    }


def _range(schema: dict[str, Any]) -> str:
    """What a setting may be, such as `2 … 256`, `> 0, < 1`, `x | y`."""
    if "anyOf" in schema:
        return " | ".join(filter(None, map(_range, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum") or [schema["const"]]))
    if schema["type"] == "boolean":
        return "true | false"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low} … {high}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return ", ".join(bounds) or ("" if schema["type"] == "null" else schema["type"])


def _texts(docstring: str | None) -> tuple[str, str]:
    """The first line without its full stop, and the rest."""
    first, _, rest = (docstring or "").strip().partition("\n")
    return first.rstrip("."), rest.strip()
