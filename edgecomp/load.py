"""Stage 1, load: a model file, factory, zoo name, .pt2 or .tflite becomes a Model. No module is ever unpickled."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from .discover import model_files
from .errors import BuildError, EdgecompError, UsageError, unknown
from .graph import archive
from .graph.batches import Tensors, records
from .graph.canonical import batch_of, canonical, given_outputs, of_program, records_for
from .graph.given import Given
from .graph.net import CanonicalNet
from .graph.order import note_image_sizes
from .graph.precision import other_precision, single
from .records import Data, Model, Request, Split
from .runtimes.litert.file_net import FileNet
from .training.arrays import folder_data
from .training.splits import data_of, judged
from .training.train import train
from .util import progress
from .util.weights import load_weights, refuse_foreign

DEFAULT_MODEL = "fashion"


def load(request: Request) -> Model:
    """Loads the model that is asked for, with its trained weights, as a canonical net, see `edgecomp.graph`; and data
    for it, if some are named.

    Raises:
        UsageError: there is no such model.
        BuildError: the file raises, lacks `build` or `example_inputs`, its weights or data do not fit it, or it cannot
            be traced.
    """
    reference = request.model or DEFAULT_MODEL
    with progress.stage("load", reference):
        model = _from_anywhere(reference, request)
        if request.data is not None:
            model = _with_data(model, request.data)
        progress.note(
            f"{model.name}: {model.parameters:,} parameters, {model.data.test.name if model.data else 'no data'}"
        )
        return model


def _from_anywhere(reference: str, request: Request) -> Model:
    refuse_foreign(Path(reference))
    if reference.endswith(".pt2"):
        return _from_archive(Path(reference))
    if reference.endswith(".tflite"):
        return _from_tflite(Path(reference))
    return _from_module(reference, request.quick, request.data is not None)


def train_model(reference: str, quick: bool) -> tuple[Model, Path]:
    """`edgecomp train`: the model with trained weights, and the file they are kept in."""
    module, source = _module(reference)
    if not hasattr(module, "recipe") or not hasattr(module, "data"):
        raise UsageError(f"{source} has no `recipe` and `data`, so it cannot be trained here")
    net, (names, examples) = _build(module, source), _examples(module, source)
    data = _data(module, source, net, names, examples)
    assert data is not None
    path = _train(module, net, data, quick)
    load_weights(net, path)
    return _model(source, net, names, examples, data), path


def _train(module: ModuleType, net: nn.Module, data: Data, quick: bool) -> Path:
    if quick:
        return train(net, data, module.recipe.quick())
    return train(net, data, module.recipe, module.head_start() if hasattr(module, "head_start") else None)


def _from_module(reference: str, quick: bool, other_data: bool) -> Model:
    """other_data: its own are needed only if it must be trained."""
    module, source = _module(reference)
    net, (names, examples) = _build(module, source), _examples(module, source)
    weights = getattr(module, "weights", None)
    needed = not other_data or (weights is None and hasattr(module, "recipe"))
    data = _data(module, source, net, names, examples) if needed else None
    if weights is not None:
        load_weights(net, Path(source).parent / weights)
    elif hasattr(module, "recipe") and data is not None:
        load_weights(net, _train(module, net, data, quick))
    return _model(source, net, names, examples, data)


def _model(
    source: str, module: nn.Module, names: tuple[str, ...], examples: tuple[Tensor, ...], data: Data | None
) -> Model:
    """The model with its canonical net, for inputs in fp32 whose elements lie in order."""
    name = Path(source).stem
    _require_finite(module, source)
    given = Given(module.eval(), names, tuple(x.dtype for x in examples))
    examples = tuple(single(x).contiguous() for x in examples)
    net = canonical(given, examples, records_for(examples, data and data.calibration.inputs), name)
    _say_what_changed(given, net)
    return _finished(Model(name, source, net, examples, data, "", given))


def _finished(model: Model) -> Model:
    note_image_sizes(model.net, model.example_inputs)
    return replace(model, sha256=model.net.digest())


def _say_what_changed(given: Given, net: CanonicalNet) -> None:
    """Tells of another precision, and of weights that the forward pass does not use."""
    if precision := other_precision(given):
        progress.note(f"computed in fp32 from here on, not in {precision}")
    learned = dict(given.module.named_parameters(remove_duplicate=False))
    memory = {tensor.data_ptr() for name, tensor in learned.items() if name in net.used}
    if unused := [name for name, tensor in learned.items() if tensor.numel() and tensor.data_ptr() not in memory]:
        progress.note(f"not used in evaluation, and so not in the file: {', '.join(unused)}")


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
        defines = (
            "A file of --data defines data()."
            if name == "data"
            else "A model file defines build() and example_inputs()."
        )
        raise BuildError(f"{source} has no function {name}()", defines)
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


def _examples(module: ModuleType, source: str) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """The names of the example inputs, if they have some, and the tensors."""
    examples = _call(module, source, "example_inputs")
    if isinstance(examples, Tensor):
        raise BuildError(
            f"{source}: example_inputs() returns a single tensor, not a tuple of them",
            "Return (x,), with one entry for each argument of forward(), or a dict by their names.",
        )
    names = tuple(map(str, examples)) if isinstance(examples, Mapping) else ()
    tensors = tuple(examples.values()) if isinstance(examples, Mapping) else examples
    if not isinstance(tensors, tuple) or not tensors or not all(isinstance(x, Tensor) for x in tensors):
        raise BuildError(f"{source}: example_inputs() must return a tuple of tensors, or a dict of them by name")
    return names, tensors


def _data(
    module: ModuleType, source: str, net: nn.Module, names: tuple[str, ...], examples: tuple[Tensor, ...]
) -> Data | None:
    """The model's data, if there are any: a `Data`, or splits by name; checked, see `training.splits`."""
    if not hasattr(module, "data"):
        return None
    data = data_of(_call(module, source, "data"), tuple(map(single, examples)), names, source)
    given = Given(net.eval(), names, tuple(x.dtype for x in examples))
    return _with_metric(data, lambda record: given_outputs(given, record)[0], batch_of(examples), source)


def _with_metric(data: Data, first: Callable[[Tensors], Tensor], batch: int, source: str) -> Data:
    """The data with a metric that fits. first: what metrics see of the model's outputs for a record."""
    checked = judged(data, _first_outputs(first, data.test, batch, source), source)
    if data.metric is None:
        progress.note(f"no metric is named; {checked.metric} is taken")
    return checked


def _first_outputs(first: Callable[[Tensors], Tensor], test: Split, count: int, source: str) -> Tensor:
    """What metrics see of the first samples, whatever the weights."""
    (record,) = records(test.take(slice(count)), count)
    try:
        outputs = first(record)
    except EdgecompError:
        raise
    except Exception as error:
        raise BuildError(
            f"{source}: the model does not take the first samples of data(), test: {type(error).__name__}: {error}",
            "They should be what forward() takes, as example_inputs() are.",
        ) from error
    if outputs.dim() == 0 or len(outputs) != count:
        raise BuildError(
            f"{source}: the model's first output has shape {tuple(outputs.shape)} for {count} samples",
            "With data() it must be (N, …), one row a sample; leave out data() to build without a metric.",
        )
    return outputs


def _require_finite(net: nn.Module, source: str) -> None:
    """Minus infinity is for masks, which are buffers; what training has made is finite."""
    learned = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    for name, tensor in net.state_dict().items():
        statistic = name in learned or name.endswith(("running_mean", "running_var"))
        good = tensor.isfinite() if statistic else ~tensor.isnan()
        if tensor.is_floating_point() and not good.all():
            bad = int((~good).sum())
            raise BuildError(
                f"{source}: {name} holds {bad} NaN or infinite values of {tensor.numel()}",
                "The training has diverged; use an earlier checkpoint.",
            )


# --- data that are not the model's own ---------------------------------------------------------------------


def _with_data(model: Model, source: str) -> Model:
    """The model with the data of a Python file, or of a folder, in place of its own.

    Raises:
        UsageError: it is neither.
        BuildError: the data do not fit the model's inputs.
    """
    path, owner, batch = Path(source), Path(model.source).name, batch_of(model.example_inputs)
    names = model.given.names if model.given is not None else _inputs_of(model.net, owner)
    if path.is_dir():
        data = folder_data(path, model.example_inputs, names, owner)
    elif path.suffix == ".py" and path.is_file():
        data = data_of(_call(_import_file(path), source, "data"), model.example_inputs, names, source, owner)
    else:
        what = "is neither a Python file nor a folder" if path.exists() else "does not exist"
        raise UsageError(f"--data {source} {what}", "Name a Python file with data(), or a folder of .npy files.")
    return replace(model, data=_with_metric(data, _first_of(model, batch), batch, source), data_source=source)


def _inputs_of(net: nn.Module, owner: str) -> tuple[str, ...]:
    """The names of a file's inputs, whose sizes must be known."""
    from .runtimes.litert.reader import FIX_SIZES

    assert isinstance(net, FileNet)
    for name in (given.name for given in net.inputs if given.open):
        raise BuildError(f"input {name} of {owner} leaves its size open", f"{FIX_SIZES[:1].upper()}{FIX_SIZES[1:]}.")
    return tuple(given.name for given in net.inputs)


def _first_of(model: Model, batch: int) -> Callable[[Tensors], Tensor]:
    """What gives the model's first output for a record."""
    if isinstance(model.net, FileNet):
        from .runtimes.litert.interpreter import first_output

        return lambda record: first_output(model.net, record, batch)  # type: ignore[arg-type]
    return lambda record: given_outputs(model.given, record)[0]  # type: ignore[arg-type]


# --- .tflite files ----------------------------------------------------------------------------------------


def _from_tflite(path: Path) -> Model:
    try:
        from .runtimes.litert import reader
    except ImportError as error:
        raise BuildError(f"LiteRT cannot be imported: {error}", "pip install 'edgecomp[litert]'") from error
    return reader.load_file(path)


# --- torch.export archives --------------------------------------------------------------------------------


def _from_archive(path: Path) -> Model:
    if not path.is_file():
        raise UsageError(f"model file {path} does not exist")
    program = archive.load(path)
    if not program.example_inputs or not any(program.example_inputs):
        raise BuildError(f"{path} holds no example inputs", "Export it again with torch.export.save.")
    net, given, examples = of_program(program, path.stem)
    return _finished(Model(path.stem, str(path), net, examples, None, "", given))
