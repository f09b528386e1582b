"""Stage 1, load: a model file, factory, zoo name, .pt2 or .tflite becomes a Model. No module is ever unpickled."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import pickle
import re
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .discover import model_files
from .errors import BuildError, EdgecompError, UsageError, unknown
from .graph.trace import fold_norms, note_image_sizes, trace, with_layers
from .records import Data, Model, Request, Split
from .training.train import train
from .util import progress

DEFAULT_MODEL = "fashion"


def load(request: Request) -> Model:
    """Loads the model that is asked for, with its trained weights, in evaluation mode and with batch norms folded.

    Raises:
        UsageError: there is no such model.
        BuildError: the file raises, lacks `build` or `example_inputs`, or its weights do not fit it.
    """
    reference = request.model or DEFAULT_MODEL
    with progress.stage("load", reference):
        model = _from_anywhere(reference, request.quick)
        _require_finite(model)
        program = trace(model.net, model.example_inputs, model.name)
        net = fold_norms(model.net, program)
        note_image_sizes(net, model.example_inputs)
        progress.note(
            f"{model.name}: {model.parameters:,} parameters, {model.data.test.name if model.data else 'no data'}"
        )
        return Model(**{**vars(model), "net": net, "trained": model.net})


def _from_anywhere(reference: str, quick: bool) -> Model:
    if reference.endswith(".pt2"):
        return _from_archive(Path(reference))
    if reference.endswith(".tflite"):
        return _from_tflite(Path(reference))
    return _from_module(reference, quick)


def train_model(reference: str, quick: bool) -> tuple[Model, Path]:
    """`edgecomp train`: the model with trained weights, and the file they are kept in."""
    module, source = _module(reference)
    if not hasattr(module, "recipe") or not hasattr(module, "data"):
        raise UsageError(f"{source} has no `recipe` and `data`, so it cannot be trained here")
    net, data = _build(module, source), _data(module, source)
    path = _train(module, net, data, quick)
    _load_weights(net, path)
    return _model(Path(source).stem, source, net, _examples(module, source), data), path


def _train(module: ModuleType, net: nn.Module, data: Data, quick: bool) -> Path:
    if quick:
        return train(net, data, module.recipe.quick())
    return train(net, data, module.recipe, module.head_start() if hasattr(module, "head_start") else None)


def _from_module(reference: str, quick: bool) -> Model:
    module, source = _module(reference)
    net, data = _build(module, source), _data(module, source)
    weights = getattr(module, "weights", None)
    if weights is not None:
        _load_weights(net, Path(source).parent / weights)
    elif hasattr(module, "recipe") and data is not None:
        _load_weights(net, _train(module, net, data, quick))
    return _model(Path(source).stem, source, net, _examples(module, source), data)


def _model(name: str, source: str, net: nn.Module, examples: tuple[Tensor, ...], data: Data | None) -> Model:
    return Model(name, source, net.eval(), examples, data, _digest(net))


# --- model files ------------------------------------------------------------------------------------------


def _module(reference: str) -> tuple[ModuleType, str]:
    """The Python module behind a path, a zoo name or `package.module:factory`, and what to call its source."""
    zoo = model_files()
    if reference in zoo:
        return _import_file(zoo[reference]), str(zoo[reference])
    if reference.endswith(".py"):
        path = Path(reference)
        if path.is_file():
            return _import_file(path), str(path)
        if path.parent.name == "models" and path.stem in zoo:
            return _import_file(zoo[path.stem]), str(zoo[path.stem])
        raise unknown("model file", reference, [*(str(p) for p in path.parent.glob("*.py")), *zoo])
    if ":" in reference:
        return _import_factory(reference), reference
    raise unknown("model", reference, zoo)


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"edgecomp_model_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except EdgecompError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise BuildError(
            f"{path} raises {type(error).__name__}: {error}", "Run it with python to see where."
        ) from error
    return module


def _import_factory(reference: str) -> ModuleType:
    module_name, _, factory = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
        build = getattr(module, factory)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot import {reference!r}: {error}", "Write it as package.module:factory.") from error
    facade = ModuleType(f"{module_name}:{factory}")
    names = ("example_inputs", "data", "weights", "recipe", "head_start")
    facade.__dict__.update({k: v for k, v in vars(module).items() if k in names})
    facade.build = build  # type: ignore[attr-defined]
    return facade


def _call(module: ModuleType, source: str, name: str) -> Any:
    function = getattr(module, name, None)
    if not callable(function):
        raise BuildError(f"{source} has no function {name}()", "A model file defines build() and example_inputs().")
    try:
        return function()
    except EdgecompError:
        raise
    except Exception as error:
        raise BuildError(f"{source}: {name}() raises {type(error).__name__}: {error}") from error


def _build(module: ModuleType, source: str) -> nn.Module:
    net = _call(module, source, "build")
    if not isinstance(net, nn.Module):
        raise BuildError(f"{source}: build() returns {type(net).__name__}, not a torch.nn.Module")
    return net


def _examples(module: ModuleType, source: str) -> tuple[Tensor, ...]:
    examples = _call(module, source, "example_inputs")
    if not isinstance(examples, tuple) or not all(isinstance(x, Tensor) for x in examples):
        raise BuildError(f"{source}: example_inputs() must return a tuple of tensors")
    return examples


def _data(module: ModuleType, source: str) -> Data | None:
    """The model's data: a `Data`, or a dict {train, calibration, test: (inputs, targets)} with an optional metric."""
    if not hasattr(module, "data"):
        return None
    data = _call(module, source, "data")
    if isinstance(data, Data):
        return data
    try:
        splits = {name: Split(name, *data[name]) for name in ("train", "calibration", "test")}
        return Data(**splits, metric=data.get("metric", "top1"))
    except (KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"{source}: data() returns neither edgecomp.Data nor a dict of splits ({error!r})",
            "Return {'train': (inputs, targets), 'calibration': …, 'test': …, 'metric': 'top1'}.",
        ) from error


# --- weights ----------------------------------------------------------------------------------------------


def _load_weights(net: nn.Module, path: Path) -> None:
    """Fills `net`; tensors are converted to the net's dtype (the zoo stores fp16)."""
    state = _read_weights(path)
    expected = net.state_dict()
    for name, tensor in state.items():
        if name in expected and expected[name].shape != tensor.shape:
            raise BuildError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the model expects {tuple(expected[name].shape)}",
                "The weights belong to another version of the model.",
            )
    # Counters of batches do not matter for inference, and are often left out.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    surplus = [name for name in state if name not in expected]
    if missing or surplus:
        parts = [f"{path}: does not fit the model"]
        parts += [f"missing: {', '.join(missing[:5])}"] if missing else []
        parts += [f"not in the model: {', '.join(surplus[:5])}"] if surplus else []
        raise BuildError("; ".join(parts), "The weights belong to another version of the model.")
    net.load_state_dict(state, strict=False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BuildError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BuildError(
            f"{path} holds pickled Python objects, which run code when they are loaded; it is not opened",
            "Save the weights alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors').",
        ) from error
    except (safetensors.SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise BuildError(f"cannot read weights from {path}: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BuildError(f"{path} is not a state dict (names → tensors)", "Save model.state_dict().")
    return state


def _require_finite(model: Model) -> None:
    for name, tensor in model.net.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise BuildError(
                f"{model.source}: {name} holds {bad} NaN or infinite values of {tensor.numel()}",
                "The training has diverged; use an earlier checkpoint.",
            )


def _digest(net: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# --- .tflite files ----------------------------------------------------------------------------------------


def _from_tflite(path: Path) -> Model:
    try:
        from .runtimes.litert import reader
    except ImportError as error:
        raise BuildError(f"LiteRT cannot be imported: {error}", "pip install 'edgecomp[litert]'") from error
    return reader.load_file(path)


# --- torch.export archives --------------------------------------------------------------------------------

_PLAIN_MEMBERS = re.compile(
    r"[^/]+/(data/weights/(weight_\d+|\w+_config\.json)|data/constants/(tensor_\d+|\w+_config\.json)"
    r"|data/sample_inputs/\w+\.pt|models/\w+\.json|archive_format|archive_version|byteorder|\.data/\w+|version|extra/.*)"
)


def _from_archive(path: Path) -> Model:
    if not path.is_file():
        raise UsageError(f"model file {path} does not exist")
    _refuse_pickles(path)
    try:
        program = torch.export.load(path)
        net = with_layers(program)
        examples = program.example_inputs[0] if program.example_inputs else ()
    except Exception as error:
        raise BuildError(f"{path} is not a readable torch.export archive: {error}") from error
    if not examples:
        raise BuildError(f"{path} holds no example inputs", "Export it again with torch.export.save.")
    return _model(path.stem, str(path), net, tuple(examples), None)


def _refuse_pickles(path: Path) -> None:
    """torch.export.load falls back to unpickling for some members; such archives are not opened at all."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                text = archive.read(name).decode(errors="replace") if name.endswith("_config.json") else ""
                if not _PLAIN_MEMBERS.fullmatch(name) or re.search(r'"use_pickle":\s*true', text):
                    raise BuildError(
                        f"{path}: member {name} may hold pickled Python objects; the archive is not opened",
                        "Save it again with torch.export.save of torch 2.13, plain tensors only.",
                    )
                if name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    except (zipfile.BadZipFile, OSError) as error:
        raise BuildError(f"{path} is not a torch.export archive: {error}") from error
    except pickle.UnpicklingError as error:
        raise BuildError(f"{path}: {name} holds pickled Python objects; the archive is not opened") from error
