"""`build`: the seven stages in order. `dry_run`: the first two. `bench`: measures a finished build again."""

import contextlib
from dataclasses import replace
from pathlib import Path

from . import auto, engines
from .auto.budgets import within_budget
from .auto.finer import finer, ruined
from .compress import compress
from .devices import choose
from .devices.base import DeviceOptions
from .devices.host import HOST_TARGET
from .devices.target import find_target
from .discover import model_files
from .errors import UsageError
from .export import export, reopen
from .load import load
from .measure import measure
from .plan import AUTO, read_plan, runtime_and_chains
from .plan import plan as plan_by_method
from .records import Model, Plan, Report, Request
from .recover import recover
from .report import limits, read_report, remeasured, report
from .util import compiler, progress, sources
from .util.workspace import Workspace


def check(request: Request) -> None:
    """Refuses unknown names, settings, kinds, and limits that cannot be judged, before anything long begins.

    Raises:
        UsageError, DeviceError: see `discover`, `choose.chosen` and `limits.check`.
    """
    runtime_and_chains(request)
    if request.method == AUTO:
        auto.check(request)
    engines.check(request.engine, request.address, request.workers)
    names = choose.chosen(find_target(request.target), request.on, DeviceOptions.of(request))
    limits.check(request.limits, request.max_drop, names, request.max_error)


def check_compilers(request: Request) -> None:
    """Refuses what would have to be compiled and cannot be, before anything long begins.

    Raises:
        BuildError: a compiler is missing.
    """
    targets = (find_target(HOST_TARGET), find_target(request.target))
    compiler.require(*(target.compiler.command for target in targets))


def make_plan(model: Model, request: Request, work: Workspace, engine: engines.Engine | None = None) -> Plan:
    """The plan, by the method that is named, or by the search for one.

    Args:
        engine: where `auto` tries candidates; without one in this process.
    """
    if request.method == AUTO:
        return auto.plan(model, request, work, engine)
    return plan_by_method(model, within_budget(model, request), work)


def build(request: Request) -> Report:
    """load → plan → compress → recover → export → measure → report, in the folder `request.out`.

    Raises:
        EdgecompError: with the message to show and the exit code to end with.
    """
    with Workspace(request.out) as work, _engine(request) as engine:
        model = load(request)
        for program in (model.source, model.data_source):
            sources.remember(program, request.out)
        plan = make_plan(model, request, work, engine)
        compressed = compress(model, plan, work, engine)
        for wanted in finer(model, request):
            if not (why := ruined(model, compressed.net)):
                break
            progress.note(f"{why}: finer codes instead, {' '.join(wanted.settings[len(request.settings) :])}")
            plan = make_plan(model, wanted, work, engine)
            compressed = compress(model, plan, work, engine)
        recovered = recover(model, plan, compressed, work, engine)
        artifact = export(model, plan, recovered, work)
        measured = measure(model, plan, artifact, request)
        return report(model, plan, recovered, artifact, measured, work)


def _engine(request: Request) -> contextlib.AbstractContextManager[engines.Engine | None]:
    """Where candidates and layers are fitted; without an engine one by one in this process, with all its threads."""
    if request.engine is None:
        return contextlib.nullcontext()
    return engines.opened(request.engine, request.address, request.workers)


def dry_run(request: Request) -> Plan:
    """The plan alone; nothing is written but plan.json."""
    with Workspace(request.out) as work, _engine(request) as engine:
        plan = make_plan(load(request), request, work, engine)
        work.publish()
        return plan


def bench(request: Request) -> Report:
    """Measures what is in the folder `request.out` again, on the device of `request`, and writes its report anew.

    Raises:
        EdgecompError: it is not the folder of a build, its model is no longer the same, or it is not known to be one
            that this user has built and none is named in the request.
    """
    if request.on == "none":
        raise UsageError("bench with --on none would measure nothing", "Name a device, or leave out --on.")
    old, plan = read_report(request.out / "report.json"), read_plan(request.out / "plan.json")
    place = DeviceOptions.of(request)
    names = choose.chosen(find_target(plan.target), request.on, place)
    limits.check(plan.limits, plan.max_drop_points, names, plan.max_error_percent)
    with Workspace(request.out) as work:
        source, data = request.model or _source(old, request.out), request.data or _data(old, request.out)
        model = load(replace(request, model=source, data=data))
        if model.sha256 != old.model.sha256:
            raise UsageError(
                f"the weights of {model.source} are not those that {request.out} was built from", "Build it again."
            )
        artifact = reopen(model, plan, old, work)
        return remeasured(old, plan, artifact, measure(model, plan, artifact, request), work)


def _source(old: Report, folder: Path) -> str:
    """The model that the report in a folder names, if no code of somebody else is run by loading it."""
    source = sources.seen_from_here(old.model.source, folder)
    if source.endswith((".pt2", ".tflite")) or source in map(str, model_files().values()) or sources.is_known(source):
        return source
    raise _foreign(source, "its model", "model")


def _data(old: Report, folder: Path) -> str | None:
    """The same, the data that are not the model's own."""
    source = sources.seen_from_here(old.model.data, folder) if old.model.data else ""
    if not source or not source.endswith(".py") or sources.is_known(source):
        return source or None
    raise _foreign(source, "its data", "data")


def _foreign(source: str, what: str, option: str) -> UsageError:
    return UsageError(
        f"the report names {source} as {what}, which is a program, and not one that you have built as it is now",
        f"If you trust it, name it: edgecomp bench DIR --{option} FILE.",
    )
