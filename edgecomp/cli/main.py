"""The command line. Data on stdout, progress on stderr; a typo never exits 0. Heavy imports wait until needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EdgecompError
from . import complete, failures, finished, listings
from .options import (
    Address,
    Budget,
    Cores,
    DataSource,
    EngineName,
    Host,
    Layers,
    MaxDownload,
    MaxInstalled,
    MaxInstructions,
    MaxLatency,
    MaxRam,
    MaxTemp,
    Method,
    ModelArgument,
    NoCustomOps,
    OldNoCustomOps,
    On,
    Points,
    Quick,
    Serial,
    Settings,
    TargetName,
    Tolerance,
    Workers,
    of_methods,
    recover_codes,
)
from .printing import escaped, print_comparison, print_message, print_plan, print_table

if TYPE_CHECKING:
    from ..records import Limits

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Makes a trained PyTorch model fit the app: compress, export, measure on ARM64, judge the byte budget.",
)

app.add_typer(listings.app)
app.add_typer(finished.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"edgecomp {version('edgecomp')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: turns errors into a message on stderr and the exit code."""
    from ..util import leftovers
    from ..util.progress import remember_interrupts

    remember_interrupts()
    leftovers.clear()
    failures.show_any_text()
    try:
        code = app(standalone_mode=False)  # that of typer.Exit, or None
    except EdgecompError as error:
        if nearest := getattr(error, "plan", None):
            print("The nearest plan:")
            print_plan(nearest)
        print_message(f"[bold red]error:[/] {escaped(error)}")
        sys.exit(error.exit_code)
    except typer.Abort as error:  # typer makes that of an EOFError, too
        code = failures.unexpected(error.__cause__) if isinstance(error.__cause__, EOFError) else 130
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        code = failures.of_system(error)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's usage errors
            error.show()
            sys.exit(error.exit_code)
        code = failures.unexpected(error)
    if code == 130:  # typer makes that of Ctrl-C
        print_message("[bold yellow]interrupted[/]: what is finished is kept; the same command goes on from there")
    sys.exit(failures.written(code))


@app.command()
def build(
    model: ModelArgument = None,
    data: DataSource = None,
    target: TargetName = "android-arm64",
    method: Method = "pq",
    runtime: Annotated[
        str | None, typer.Option(help="executorch or litert. Default: litert for a .tflite, else executorch.")
    ] = None,
    budget: Budget = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Accuracy that may be lost; else in the metric's unit.")
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", help="How far outputs may be from the original's, relative, all of them."),
    ] = None,
    max_download: MaxDownload = None,
    max_installed: MaxInstalled = None,
    max_ram: MaxRam = None,
    max_latency: MaxLatency = None,
    max_instructions: MaxInstructions = None,
    on: On = None,
    serial: Serial = None,
    host: Host = None,
    cores: Cores = None,
    max_temp: MaxTemp = None,
    settings: Settings = None,
    layers: Layers = None,
    recover: Annotated[
        float, typer.Option(min=0, metavar="EPOCHS", help="Train codebooks, scales and biases, codes fixed.")
    ] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Default: out/MODEL-METHOD.")] = None,
    seed: int = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
    quick: Quick = False,
    no_custom_ops: NoCustomOps = False,
    old_no_custom_ops: OldNoCustomOps = False,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="Fit candidates and layers in local processes (local), or as tasks of ray."),
    ] = None,
    address: Address = None,
    workers: Workers = None,
) -> None:
    """Compress, export, measure, report. Exits 0 if every stated limit is met, 1 if not."""
    from rich.console import Console

    from ..pipeline import build as run
    from ..pipeline import check, check_compilers
    from ..pipeline import dry_run as show_plan
    from ..records import Request
    from ..report import print_report
    from ..util.units import parse_bytes

    request = Request(
        model=model,
        data=data,
        target=target,
        method=method,
        runtime=runtime,
        budget_bytes=parse_bytes(budget) if budget else None,
        max_drop=max_drop,
        max_error=max_error,
        limits=_limits(max_download, max_installed, max_ram, max_latency, max_instructions),
        on=on,
        serial=serial,
        host=host,
        cores=cores,
        max_temp_c=max_temp,
        settings=of_methods(settings),
        layers=tuple(layers or ()),
        out=out or _folder(model, method),
        seed=seed,
        recover_epochs=recover,
        recover_codes=recover_codes(settings),
        quick=quick,
        stock=no_custom_ops or old_no_custom_ops,
        engine=engine,
        address=address,
        workers=workers,
    )
    check(request)  # a typo must not cost an hour of training
    if dry_run:
        plan = show_plan(request)
        print(plan.model_dump_json(indent=1)) if json else print_plan(plan)
        return
    check_compilers(request)
    report = run(request)
    if json:
        print(report.model_dump_json(indent=1, by_alias=True))
    else:
        print_report(report, Console())
        print_message(f"[dim]written to {request.out}: report.html, report.json, {report.runtime} model, bundle/[/]")
    raise typer.Exit(report.exit_code)


@app.command()
def sweep(
    model: ModelArgument = None,
    data: DataSource = None,
    methods: Annotated[
        str, typer.Option("--methods", metavar="METHOD,…", help="Compression methods and chains of them.")
    ] = "pq,kmeans,svd:pq,int8",
    budgets: Annotated[
        str | None,
        typer.Option("--budgets", metavar="SIZE,…", help="Like 10MB,5MB. Default: 1/10, 1/20, 1/40."),
    ] = None,
    target: TargetName = "android-arm64",
    runtime: Annotated[str | None, typer.Option(help="As of build.")] = None,
    on: Annotated[str, typer.Option(metavar="DEVICE", help="Measure on a device beside the host, or none.")] = "host",
    serial: Serial = None,
    host: Host = None,
    settings: Settings = None,
    layers: Layers = None,
    recover: Annotated[float, typer.Option(min=0, metavar="EPOCHS", help="Train every point, as build does.")] = 0,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Default: out/MODEL-sweep.")] = None,
    seed: int = 0,
    json: Annotated[bool, typer.Option("--json", help="Print sweep.json instead of a table.")] = False,
    quick: Quick = False,
) -> None:
    """Every method at every budget: size, accuracy and latency, and which files no other one beats."""
    from rich.console import Console

    from .. import engines
    from ..records import Request, SweepRequest
    from ..sweep import check
    from ..sweep import sweep as run
    from ..sweep.page import print_sweep
    from ..util.units import parse_bytes

    base = Request(
        model=model,
        data=data,
        target=target,
        runtime=runtime,
        on=on,
        serial=serial,
        host=host,
        settings=of_methods(settings),
        layers=tuple(layers or ()),
        out=out or _folder(model, "sweep"),
        seed=seed,
        recover_epochs=recover,
        recover_codes=recover_codes(settings),
        quick=quick,
        engine=engine,
        address=address,
        workers=workers,
    )
    sizes = tuple(dict.fromkeys(parse_bytes(text) for text in budgets.split(","))) if budgets else ()
    request = SweepRequest(base, tuple(dict.fromkeys(methods.split(","))), sizes)
    check(request)
    with engines.opened(engine, address, workers) as tasks:
        result = run(request, tasks)
    if json:
        print(result.model_dump_json(indent=1, by_alias=True))
    else:
        print_sweep(result, Console())
        print_message(f"[dim]written to {base.out}: sweep.html, sweep.json, points/[/]")
    raise typer.Exit(result.exit_code)


@app.command()
def bench(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a build.")],
    on: On = None,
    serial: Serial = None,
    host: Host = None,
    cores: Cores = None,
    max_temp: MaxTemp = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="FILE", help="The model, where it is not one that you have built.")
    ] = None,
    data: DataSource = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="REPORT", help="report.json to compare with; exits 1 if a figure is worse.")
    ] = None,
    tolerance: Tolerance = "5%",
    points: Points = 0.1,
    json: Annotated[bool, typer.Option("--json", help="Print the report, or the comparison, as JSON.")] = False,
) -> None:
    """Measure a build again and write its report anew; with --baseline say what became better or worse."""
    from dataclasses import replace

    from rich.console import Console

    from ..pipeline import bench as run
    from ..records import Request
    from ..report import compare as comparing
    from ..report import print_report, read_report
    from ..util.units import parse_share

    share, before = parse_share(tolerance), read_report(baseline) if baseline else None
    request = Request(model=model, data=data, on=on, serial=serial, host=host, cores=cores, max_temp_c=max_temp)
    result = run(replace(request, out=folder))
    if before is None:
        print(result.model_dump_json(indent=1, by_alias=True)) if json else print_report(result, Console())
        raise typer.Exit(result.exit_code)
    compared = comparing.compare(before, result, share, points)
    if not json:
        print_report(result, Console())
    print_comparison(compared, json)
    codes = {result.exit_code, compared.exit_code}
    raise typer.Exit(1 if 1 in codes else max(codes))


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="Model file or zoo name.", autocompletion=complete.model)],
    quick: Quick = False,
) -> None:
    """Train a model of the zoo (or any model file with a recipe) and keep the weights for this user."""
    from ..load import train_model
    from ..training.metrics import metric_of
    from ..training.outputs import predict
    from ..training.scores import score
    from ..util.units import format_score

    trained, path = train_model(model, quick)
    assert trained.data is not None
    metric, test = metric_of(trained.data.metric or "top1"), trained.data.test
    shown = format_score(score(trained.data, predict(trained.net, test.inputs)), metric.unit)
    print(f"{trained.name}: {metric.name} {shown} of {len(test):,} samples of {test.name}\n{path}")


@app.command()
def reproduce(
    paper: Annotated[
        str,
        typer.Argument(
            help="gong2014, jaderberg2014, lebedev2015, zhuang2018, cosine_svd", autocompletion=complete.paper
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where the page and its plots go.")] = Path(
        "docs"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A small net and fewer settings.")] = False,
) -> None:
    """Measure a paper's claims here: tables and plots, and whether each claim holds."""
    from .. import discover, papers
    from ..errors import UsageError

    module = discover.module("paper", papers, paper)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}", "Name another folder with -o.") from error
    claims = module.run(out, quick)
    print_table(
        ("claim", "", "figures"), [(c.claim, "holds" if c.holds else "does not hold", c.figures) for c in claims]
    )
    print_message(f"[dim]written to {out / paper}.md[/]")


def _folder(model: str | None, what: str) -> Path:
    """Where it goes if nothing is said."""
    from ..load import DEFAULT_MODEL

    return Path("out", f"{Path((model or DEFAULT_MODEL).partition(':')[0]).stem}-{what}")


def _limits(
    download: str | None, installed: str | None, ram: str | None, latency: str | None, instructions: str | None
) -> Limits:
    from ..records import Limits
    from ..util.units import parse_bytes, parse_count, parse_ms

    return Limits(
        download_bytes=parse_bytes(download) if download else None,
        installed_bytes=parse_bytes(installed) if installed else None,
        ram_bytes=parse_bytes(ram) if ram else None,
        latency_ms=parse_ms(latency) if latency else None,
        instructions=parse_count(instructions) if instructions else None,
    )
