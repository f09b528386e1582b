"""`build`: the seven stages in order. `dry_run`: the first two."""

import contextlib

from . import engines
from .compress import compress
from .export import export
from .load import load
from .measure import measure
from .plan import plan as make_plan
from .records import Plan, Report, Request
from .recover import recover
from .report import report
from .workspace import Workspace


def build(request: Request) -> Report:
    """load → plan → compress → recover → export → measure → report, in the folder `request.out`.

    Raises:
        EdgecompError: with the message to show and the exit code to end with.
    """
    with Workspace(request.out) as work, _engine(request) as engine:
        model = load(request)
        plan = make_plan(model, request, work)
        compressed = compress(model, plan, work, engine)
        recovered = recover(model, plan, compressed, work)
        artifact = export(model, plan, recovered, work)
        measured = measure(model, plan, artifact, request)
        return report(model, plan, recovered, artifact, measured, work)


def _engine(request: Request) -> contextlib.AbstractContextManager[engines.Engine | None]:
    """Where layers are fitted; without an engine in this process, one after the other, with all its threads."""
    if request.engine is None:
        return contextlib.nullcontext()
    return engines.opened(request.engine, request.address, request.workers)


def dry_run(request: Request) -> Plan:
    """The plan alone; nothing is written but plan.json."""
    with Workspace(request.out) as work:
        return make_plan(load(request), request, work)
