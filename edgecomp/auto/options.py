"""What `--set auto.KEY=VALUE` can say."""

from __future__ import annotations

from pydantic import Field, ValidationError

from .. import chain, discover
from ..errors import UsageError, unknown
from ..plan import runtime_and_chains
from ..records import Record, Request


class Options(Record):
    """methods: chains to choose from, separated by commas; all there are unless told. samples: of the calibration
    split, by which candidates and plans are judged; those that codes are fitted to are others, if there are enough.
    rounds: plans that are built and looked at before one is chosen. drop: points that a plan may lose on the
    calibration split where --max-drop says nothing; what loses more is no answer to a budget. speed: nats that a plan
    may lose more for each time it saves as many instructions as the original takes; they are seen where little else is
    lost."""

    methods: str = ""
    samples: int = Field(1024, ge=16)
    rounds: int = Field(4, ge=1)
    drop: float = Field(5.0, ge=0)
    speed: float = Field(2e-4, ge=0)

    @property
    def chains(self) -> tuple[str, ...]:
        """The methods that were named."""
        return tuple(name.strip() for name in self.methods.split(",") if name.strip())


def options(settings: tuple[str, ...], runtime: str = "") -> Options:
    """The options in `--set` settings.

    Raises:
        UsageError: a setting that is not one of auto's, or a value that cannot be read.
    """
    given: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        field = key.removeprefix("auto.")
        if not equals or not key:
            raise UsageError(f"cannot read --set {text!r}", "Write it as KEY=VALUE, for example --set auto.rounds=2.")
        if field not in Options.model_fields:
            raise unknown("setting of auto", field, Options.model_fields)
        given[field] = value
    try:
        chosen = Options(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--set auto.{key}={given.get(key)}: {first['msg']}") from error
    for name in chosen.chains:
        if len(chain.split(name)) > 1:
            raise UsageError(f"auto.methods={name}: auto finds by itself which layer gets which", "Use commas, not +.")
        if any(candidate.prunes for candidate in chain.parse(name, (), runtime)):
            raise UsageError(f"auto.methods={name}: channel pruning is not among the candidates", "Leave it out.")
    return chosen


def check(request: Request) -> None:
    """Refuses a request that `auto` cannot serve, before anything long begins.

    Raises:
        UsageError: see `options`; or the model is a finished file.
    """
    own = discover.runtime_of_file(request.model or "")
    if own is not None:
        raise UsageError(
            f"--method auto tries layers out in torch, and {request.model} is a finished file",
            "Build from the torch model, or name a method.",
        )
    options(request.settings, runtime_and_chains(request)[0])
