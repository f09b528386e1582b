"""Weights from files, whoever wrote them; and what to do with files of other tools."""

from __future__ import annotations

import pickle
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import BuildError
from . import progress

_OTHERS = "The weights belong to another version of the model."
# What checkpoints hold a state dict under; where there are several, the first of these is taken.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights"),
    *("model_ema", "ema_state_dict", "state_dict_ema", "params_ema", "ema", "ema_model"),
)
_PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "network.",
)  # of wrappers: data parallel, torch.compile, Lightning
_LFS = b"version https://git-lfs.github.com/spec/"
_ARCHIVE = "Write a model file with build() and example_inputs(), or export it with torch.export.save to a .pt2."
_TFLITE = "Convert it to a .tflite, which is taken as MODEL: tf.lite.TFLiteConverter."
_FOREIGN = {
    ".onnx": (
        "an ONNX model",
        "onnx2tf 2.0 or later (Python 3.12) writes a .tflite and a .pt2, which are taken.",
    ),
    ".keras": ("a Keras model", f"{_TFLITE}from_keras_model(keras.models.load_model(…)).convert()."),
    ".h5": ("a Keras model or its weights", f"{_TFLITE}from_keras_model(keras.models.load_model(…)).convert()."),
    ".pb": ("a TensorFlow graph", f"{_TFLITE}from_saved_model(…).convert()."),
    ".mlpackage": ("a Core ML model, whose weights are Apple's runtime's", f"Start from the PyTorch model. {_ARCHIVE}"),
    ".mlmodel": ("a Core ML model, whose weights are Apple's runtime's", f"Start from the PyTorch model. {_ARCHIVE}"),
    ".pte": ("a finished file of ExecuTorch", f"Start from the PyTorch model. {_ARCHIVE}"),
}
_STATE_DICTS = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}


def refuse_foreign(path: Path, as_model: bool = True) -> None:
    """Refuses files of other tools, saying the way from them to here.

    Args:
        as_model: it is given as MODEL; else as weights.

    Raises:
        BuildError: it is such a file, or only stands for one.
    """
    what, remedy = _foreign(path)
    if not what and as_model and path.suffix in _STATE_DICTS and path.is_file():
        what = "not a model but its weights, without the code that computes with them"
        remedy = f"Write a model file with build(), example_inputs() and weights = {path.name!r}, which is MODEL."
    if what:
        raise BuildError(f"{path} is {what}", remedy)


def _foreign(path: Path) -> tuple[str, str]:
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "a TensorFlow SavedModel", f"{_TFLITE}from_saved_model({str(path)!r}).convert()."
        return _FOREIGN.get(path.suffix, ("", ""))
    if not path.is_file():
        return "", ""
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(_LFS):
        return "a Git LFS pointer, not the file itself", "Fetch it: git lfs pull."
    if start.startswith(b"\x89HDF"):
        return _FOREIGN[".h5"]
    if path.suffix != ".pt2" and _is_torchscript(path):
        return "a TorchScript program", f"torch can no longer look into those. {_ARCHIVE}"
    return _FOREIGN.get(path.suffix, ("", ""))


def _is_torchscript(path: Path) -> bool:
    try:  # is_zipfile, too, raises where the end of an archive is damaged
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/__torch__" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def load_weights(net: nn.Module, path: Path) -> None:
    """Fills `net` from a .safetensors, or from what torch.save wrote of tensors. They become the net's dtype.

    Prefixes and wrappers around names are taken off, and said; of tensors that the net ties one is enough.

    Raises:
        BuildError: the file cannot be read, or its tensors are not those of the net.
    """
    expected = net.state_dict()
    state = _without_prefixes(_read(path), expected, path)
    for name, tensor in state.items():
        if name in expected and expected[name].shape != tensor.shape:
            raise BuildError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the model expects {tuple(expected[name].shape)}",
                _OTHERS,
            )
    tied = _tied(net)
    for names in tied.values():
        given = [name for name in names if name in state]
        if other := next((name for name in given if not torch.equal(state[name], state[given[0]])), None):
            raise BuildError(
                f"{path}: {given[0]} and {other} are one tensor in the model, and differ in the file", _OTHERS
            )
    # Counters of batches do not matter for inference, and are often left out.
    missing = [
        name
        for name in expected
        if not any(other in state for other in tied.get(name, [name])) and not name.endswith("num_batches_tracked")
    ]
    surplus = [name for name in state if name not in expected]
    if missing or surplus:
        parts = [f"{path}: does not fit the model"]
        parts += [f"missing: {', '.join(missing[:5])}"] if missing else []
        parts += [f"not in the model: {', '.join(surplus[:5])}"] if surplus else []
        raise BuildError("; ".join(parts), _OTHERS)
    net.load_state_dict(state, strict=False)


def _tied(net: nn.Module) -> dict[str, list[str]]:
    """All names of a tensor that has several, by each of them."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in net.state_dict(keep_vars=True).items():
        names[id(tensor)].append(name)
    return {name: several for several in names.values() if len(several) > 1 for name in several}


def _require_whole(path: Path) -> None:
    """Members of a zip file have CRCs, which torch does not check."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"member {damaged} is damaged")


def _read(path: Path) -> dict[str, Tensor]:
    refuse_foreign(path, as_model=False)
    if not path.is_file():
        raise BuildError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _require_whole(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BuildError(
            f"{path} holds pickled Python objects, which run code when they are loaded; it is not opened",
            "Save the weights alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors').",
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file torch raises nearly anything
        raise BuildError(f"cannot read weights from {path}: {error}") from error
    taken, weights = _unwrapped(state)
    if weights is None:
        raise BuildError(f"{path} is not a state dict (names → tensors)", "Save model.state_dict().")
    if taken:
        others = [key for key in state if key in _WRAPPERS and key != taken[0]]
        beside = f", not {' or '.join(others)}" if others else ""
        progress.note(f"{path.name}: weights are those under {' → '.join(taken)}{beside}")
    return weights


def _unwrapped(state: Any) -> tuple[list[str], dict[str, Tensor] | None]:
    """The state dict in a checkpoint, and the keys that lead to it; None if there is none."""
    if not isinstance(state, dict) or not state:
        return [], None
    if all(isinstance(value, Tensor) for value in state.values()):
        return [], state
    for key in _WRAPPERS:
        taken, weights = _unwrapped(state.get(key))
        if weights is not None:
            return [key, *taken], weights
    return [], None


def _without_prefixes(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state with the names that the net has, where wrappers have added to them."""
    removed = []
    while prefix := next((p for p in _PREFIXES if _is_wrapped(p, state, expected)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        removed.append(prefix)
    inside = "._orig_mod."  # where parts of a net were compiled
    if any(inside in name for name in state) and not any(inside in name for name in expected):
        state = {name.replace(inside, "."): tensor for name, tensor in state.items()}
        removed.append(inside)
    if removed:
        progress.note(f"{path.name}: names without {', '.join(removed)}")
    return state


def _is_wrapped(prefix: str, state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return (
        bool(state)
        and all(name.startswith(prefix) for name in state)
        and not all(name.startswith(prefix) for name in expected)
    )
