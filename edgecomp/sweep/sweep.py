"""`edgecomp sweep`: every method at every budget, and the front of size, accuracy and latency.

What points have in common is done once: the model, its original's export and that file's outputs. Points are tasks of
an engine; their files are timed at the end, here, all in turns. A point that fails is reported, and one that is done
is done once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import discover, measure, pipeline, plan
from ..auto import budgets
from ..auto.budgets import Ladder
from ..devices import bundle
from ..devices.host import HOST_TARGET
from ..devices.target import find_target
from ..engines import Engine, Outcome
from ..errors import EdgecompError
from ..export import original_file
from ..fitting.calibration import CALIBRATION_SAMPLES
from ..load import load
from ..plan import AUTO
from ..records import Measured, Model, ModelReport, Request, Split, Sweep, SweepPoint, SweepRequest
from ..report import limits, read_report
from ..report.report import budget_of, write_report
from ..training.distill import CHECK_SAMPLES
from ..util import progress
from ..util.cache import key_of
from ..util.files import atomic_file, write_text
from ..util.units import format_bytes
from ..util.workspace import Workspace, stage_key
from .page import drop_text, front, to_page
from .point import POINT_CODE, Built, SharedInputs, Wanted, build_point
from .timing import measured_files

_DEFAULT_BUDGETS = (10, 20, 40)  # the original's bytes by these
_LEAST_VALIDATION = 1000  # samples
_JUDGING = 4096  # samples behind those that codes are fitted to, by which `auto` chooses
_ROUNDS = 3  # settings are found again with what is known of containers by then


def check(request: SweepRequest) -> None:
    """Refuses what cannot be built by any means, before anything long begins.

    Raises:
        UsageError, DeviceError: an unknown method, a setting that no method knows, a device that is missing.
        BuildError: a compiler is missing.
    """
    pipeline.check_compilers(request.base)
    for text in request.base.settings:
        if not any(text in budgets.settings_for(method, (text,)) for method in request.methods):
            pipeline.check(replace(request.base, method="+".join(request.methods)))  # says which there are
    for method in request.methods:
        pipeline.check(_base_request(request, method))


def sweep(request: SweepRequest, engine: Engine) -> Sweep:
    """Builds all points below `request.base.out`, measures them, and writes `sweep.json` and `sweep.html` there.

    Raises:
        EdgecompError: the model cannot be loaded or exported. What is wrong with a point is in its record.
    """
    with Workspace(request.base.out) as work:
        model = load(request.base)
        run = SweepRun(request, engine, model, work)
        with progress.stage("points", f"{len(request.methods)} methods at {len(run.budgets)} budgets"):
            points = run.points()
        with progress.stage("measure", request.base.on or ""):
            files = {point.folder: run.file(point.folder) for point in points if point.folder}
            measured = measured_files(model, run.runtime, request.base, {"original": run.original, **files}, work)
        original = measured.get("original", [])
        points = [p.model_copy(update={"measurements": measured.get(p.folder or "", [])}) for p in points]
        result = Sweep(
            model=ModelReport(name=model.name, source=model.source, sha256=model.sha256, parameters=model.parameters),
            target=request.base.target,
            runtime=run.runtime,
            seed=request.base.seed,
            recover_epochs=request.base.recover_epochs,
            engine=engine.name,
            original_bytes=run.original.stat().st_size,
            measurements=original,
            points=front(points),
            notes=run.notes,
        )
        with progress.stage("report", str(work.folder)):
            _complete_reports(result, work)
            write_text(work.path("sweep.json"), result.model_dump_json(indent=1, by_alias=True) + "\n")
            write_text(work.path("sweep.html"), to_page(result))
        return result


def _base_request(request: SweepRequest, method: str) -> Request:
    settings = budgets.settings_for(method, request.base.settings)
    return replace(request.base, method=method, settings=settings)


class SweepRun:
    """One sweep: what its points share, and which of them are done."""

    def __init__(self, request: SweepRequest, engine: Engine, model: Model, work: Workspace) -> None:
        self.request, self.engine, self.model, self.work = request, engine, model, work
        self.runtime = plan.runtime_and_chains(_base_request(request, request.methods[0]))[0]
        validation, self.notes = _validation(model, request.base, request.methods)
        with progress.stage("original", self.runtime):
            self.original = original_file(model, self.runtime)
            bundle.host_bundle(find_target(HOST_TARGET), self.runtime)  # now, so that no worker has to
            splits = [validation, model.data.test] if validation and model.data else []
            outputs = {s.name: measure.outputs_on(model, self.runtime, self.original, s.inputs) for s in splits}
        self.base = SharedInputs(_lighter(model, request.base), request.base, validation, outputs)
        size = self.original.stat().st_size
        self.budgets = request.budgets_bytes or tuple(size // by for by in _DEFAULT_BUDGETS)
        self.groups = plan.tied_groups(model)
        container = budgets.container_bytes(model, self.groups, request.base, self.original)
        self.containers = dict.fromkeys(request.methods, container)
        judged_by = validation.name if validation else ""
        asked = _asked(request.base)
        self._identity = key_of(model.sha256, repr(model.net), _data_parts(model), self.runtime, judged_by, asked)
        self._shared: Any = None

    def points(self) -> list[SweepPoint]:
        """All points in the order of methods and budgets."""
        ladders = {m: self._ladder(m) for m in self.request.methods}
        open_points = [(method, budget) for method in self.request.methods for budget in self.budgets]
        order, points = list(open_points), dict[tuple[str, int], SweepPoint]()
        for _ in range(_ROUNDS):
            wanted = {}
            for method, budget in open_points:
                chosen = self._chosen(ladders[method], method, budget)
                if isinstance(chosen, Wanted):
                    wanted[method, budget] = chosen
                else:
                    points[method, budget] = chosen
            built = self._build(list({w.folder: w for w in wanted.values()}.values()))
            points |= {key: _point(w, built[w.folder]) for key, w in wanted.items()}
            # A file that is larger than thought: its container is; another setting may still fit.
            open_points = [key for key in wanted if points[key].state == "missed" and key[0] != AUTO]
            for key in open_points:
                figures = built[wanted[key].folder]
                container = 0 if isinstance(figures, EdgecompError) else figures["container_bytes"]
                self.containers[key[0]] = max(self.containers[key[0]], container)
            if not open_points:
                break
        return [points[key] for key in order]

    def file(self, folder: str) -> Path:
        """The exported file of a point that has been built."""
        return self.work.path(f"points/{folder}/{self._name}")

    @property
    def _name(self) -> str:
        return f"model{discover.runtime(self.runtime).SUFFIX}"

    def _ladder(self, method: str) -> Ladder | None:
        request = _base_request(self.request, method)
        return None if method == AUTO else budgets.ladder(self.model, request, self.groups)

    def _chosen(self, ladder: Ladder | None, method: str, budget: int) -> Wanted | SweepPoint:
        """What is to be built for a budget, or the point that says why nothing can be."""
        if ladder is None:
            return Wanted(method, budget, settings=budgets.settings_for(method, self.request.base.settings))
        container = self.containers[method]
        step = ladder.fitting(budget - container)
        if step is None:
            reason = ladder.reason or ladder.falls_short(container)
            return SweepPoint(method=method, budget_bytes=budget, state="missed", reason=reason)
        settings = budgets.settings_for(method, self.request.base.settings)
        settings = (*settings, step.setting) if step.setting else settings
        return Wanted(method, budget, step.setting, settings, step.predicted_bytes)

    def _build(self, wanted: list[Wanted]) -> dict[str, dict[str, Any] | EdgecompError]:
        """Figures by folder, or the error; what was built before is not built again."""
        figures: dict[str, dict[str, Any] | EdgecompError] = {}
        missing = []
        for point in wanted:
            done = self.work.recall(f"point-{point.folder}", self._key(point))
            if done is None or not self.work.path(f"points/{point.folder}/report.json").is_file():
                missing.append(point)
            else:
                figures[point.folder] = done
        if figures:
            progress.note(f"kept from before: {', '.join(figures)}")
        if missing:
            self._shared = self._shared or self.engine.share(self.base)
            with progress.bar("points", len(missing)) as advance:

                def done(index: int, outcome: Outcome) -> None:
                    figures[missing[index].folder] = self._keep(missing[index], outcome)
                    advance()

                self.engine.run(build_point, missing, self._shared, done=done)
        return figures

    def _keep(self, wanted: Wanted, outcome: Outcome) -> dict[str, Any] | EdgecompError:
        """Writes the files of a point that is done, and remembers it."""
        if outcome.error is not None:
            progress.note(f"{wanted.folder} failed: {outcome.error}")
            return outcome.error
        built: Built = outcome.value
        folder = self.work.path(f"points/{wanted.folder}")
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in built.files.items():
            with atomic_file(folder / name) as partial:
                partial.write_bytes(data)
        result = {field: getattr(built, field) for field in ("artifact_bytes", "container_bytes")}
        result |= {f: a.model_dump() if (a := getattr(built, f)) else None for f in ("validation", "test")}
        # report.json is completed later, and so not among what must be as it was.
        files = [folder / name for name in built.files if name != "report.json"]
        self.work.record(f"point-{wanted.folder}", self._key(wanted), files, result)
        drop = f", drop {drop_text(built.validation)}" if built.validation else ""
        progress.note(f"{wanted.folder}: {format_bytes(built.artifact_bytes)}{drop}")
        return result

    def _key(self, wanted: Wanted) -> str:
        budget = wanted.budget_bytes if wanted.method == AUTO else None
        return stage_key("point", self._identity, wanted.method, wanted.settings, budget, code=POINT_CODE)


def _point(wanted: Wanted, built: dict[str, Any] | EdgecompError) -> SweepPoint:
    asked = {"method": wanted.method, "budget_bytes": wanted.budget_bytes, "setting": wanted.setting}
    asked |= {"settings": wanted.settings, "predicted_bytes": wanted.predicted_bytes}
    if isinstance(built, EdgecompError):
        missed = built.exit_code == 1  # a limit that cannot be met
        return SweepPoint(**asked, state="missed" if missed else "failed", reason=str(built))
    size = built["artifact_bytes"]
    missed = size > wanted.budget_bytes
    return SweepPoint(
        **asked,
        state="missed" if missed else "built",
        reason=f"the file takes {format_bytes(size)}" if missed else "",
        folder=wanted.folder,
        artifact_bytes=size,
        validation=built["validation"],
        test=built["test"],
    )


def _validation(model: Model, request: Request, methods: tuple[str, ...]) -> tuple[Split | None, list[str]]:
    """Samples to choose by: those of the calibration split that nothing is fitted to; and what to say about it."""
    if model.data is None or request.on == "none":
        why = "the model has no data" if model.data is None else "nothing was run: --on none"
        return None, [f"accuracy was not measured: {why}"]
    start = max(CALIBRATION_SAMPLES, CHECK_SAMPLES, CALIBRATION_SAMPLES + _JUDGING * (AUTO in methods))
    split = model.data.calibration
    fresh = len(split) - start >= _LEAST_VALIDATION
    if fresh:
        split = split.part(slice(start, None), f"{split.name}[{start}:]")
    fitted = "that nothing was fitted to" if fresh else "that codes were fitted to as well, for want of others"
    return split, [
        f"The front is that of the accuracy on {len(split):,} samples of {split.name} {fitted}: choose by it.",
        f"{model.data.test.name} was used once for every file, when it was finished, and not for the front: of a file "
        "that was chosen without it, it says what to expect. A file chosen by it would look better than it is.",
    ]


def _lighter(model: Model, request: Request) -> Model:
    """The model without the data that no task needs."""
    if model.data is None or request.recover_epochs:
        return model
    return replace(model, data=replace(model.data, train=model.data.train.first(0)))


def _data_parts(model: Model) -> list[object]:
    if model.data is None:
        return []
    metric = getattr(model.data.metric, "__qualname__", model.data.metric)
    return [[(split.inputs, split.targets) for split in model.data.splits], metric]


def _asked(request: Request) -> list[object]:
    """What else a point depends on."""
    recovery = request.recover_epochs, request.recover_codes
    return [request.target, request.layers, request.seed, *recovery, request.stock, request.on == "none"]


def _complete_reports(result: Sweep, work: Workspace) -> None:
    """The reports of all points with what was measured at the end, and their HTML."""
    for folder in {point.folder for point in result.points if point.folder}:
        points = [point for point in result.points if point.folder == folder]
        path = work.path(f"points/{folder}/report.json")
        report = read_report(path)
        limit = min(point.budget_bytes for point in points)
        decided = plan.read_plan(path.with_name("plan.json")).model_copy(update={"budget_bytes": limit})
        figures = [*result.measurements, *points[0].measurements]
        judged = limits.judge(decided, report.size, Measured(tuple(figures), report.accuracy, error=report.error))
        changed = {"measurements": figures, "budget": budget_of(judged), "limits": judged}
        write_report(report.model_copy(update=changed), path.parent)
