"""One point of a sweep, as a task: build a method with its settings, and judge the file that comes out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from .. import measure, pipeline
from ..compress import compress
from ..export import export
from ..plan import AUTO
from ..records import Accuracy, Measured, Model, Request, Split
from ..recover import recover
from ..report import report
from ..training.scores import compare_answers
from ..util.cache import RUNNING
from ..util.files import temporary_folder
from ..util.workspace import Workspace

POINT_CODE = (*RUNNING, "auto", "pipeline", "report", "sweep.point")  # that makes a point and its report


@dataclass(frozen=True)
class SharedInputs:
    """What all tasks share. `outputs`: of the original's file, by the name of the split; none if nothing is run."""

    model: Model
    request: Request
    validation: Split | None
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Wanted:
    """What a task is to build. `setting` is what the budget decided, one of `settings`."""

    method: str
    budget_bytes: int
    setting: str = ""
    settings: tuple[str, ...] = ()
    predicted_bytes: int | None = None

    @property
    def folder(self) -> str:
        """A name for its files: that of its setting, so that budgets which lead to the same one share them."""
        key, equals, value = self.setting.partition("=")
        what = key.rpartition(".")[2] + equals + (str(self.budget_bytes) if self.method == AUTO else value)
        return self.method.replace(":", "_") + (f"-{what}" if what else "")


@dataclass(frozen=True)
class Built:
    """What a task gives back: the files for its folder, and figures."""

    files: dict[str, bytes]
    artifact_bytes: int
    container_bytes: int
    validation: Accuracy | None
    test: Accuracy | None


def build_point(wanted: Wanted, base: SharedInputs) -> Built:
    """Does all stages in a folder that is gone afterwards: the task may run on another machine.

    Raises:
        EdgecompError: of the stage that cannot be done.
    """
    model = base.model
    with temporary_folder() as folder, Workspace(Path(folder, "point")) as work:
        asked = {"method": wanted.method, "settings": wanted.settings, "budget_bytes": wanted.budget_bytes}
        decided = pipeline.make_plan(model, replace(base.request, out=work.folder, **asked), work)
        recovered = recover(model, decided, compress(model, decided, work), work)
        artifact = export(model, decided, recovered, work)
        validation, test = (_judged(base, split, artifact.path, decided.runtime) for split in _splits(base))
        error = measure.output_error(model, decided, artifact)
        report(model, decided, recovered, artifact, Measured((), test, error=error), work)
        names = (artifact.path.name, "model.safetensors", "plan.json", "report.json")
        return Built(
            files={name: work.path(name).read_bytes() for name in names},
            artifact_bytes=work.path(artifact.path.name).stat().st_size,
            container_bytes=artifact.layers[-1].bytes,
            validation=validation,
            test=test,
        )


def _splits(base: SharedInputs) -> tuple[Split | None, Split | None]:
    data = base.model.data
    return (base.validation, data.test) if data is not None and base.outputs else (None, None)


def _judged(base: SharedInputs, split: Split | None, path: Path, runtime: str) -> Accuracy | None:
    if split is None or base.model.data is None:
        return None
    outputs = measure.outputs_on(base.model, runtime, path, split.inputs)
    return compare_answers(base.model.data, base.outputs[split.name], outputs, "host", split)
