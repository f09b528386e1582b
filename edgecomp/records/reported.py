"""Stage 7: `report.json` (schema "edgecomp.report/1"), and what a sweep gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, Field

from .asked import Request
from .base import Evidence, Record, Verdict
from .made import Accuracy, EmulatorCheck, LayerReport, Measurement, OutputError, Proof
from .planned import ChannelGroup, PlanEntry, Search


class ModelReport(Record):
    """`data`: where data that are not the model's own came from."""

    name: str
    source: str
    sha256: str
    parameters: int
    data: str = ""


class BudgetReport(Record):
    limit_bytes: int
    stated: bool
    verdict: Verdict
    max_drop_points: float | None = None
    drop_verdict: Verdict | None = None


class LimitReport(Record):
    """One limit and what became of it; `limit`, `value` and `interval` (95 %, where it is known) in `unit`; `score` is
    the unit of the report's metric.
    `stated`: somebody asked for it; else it is the default. `reason`: how it was decided, where that is not plain."""

    name: Literal["file", "download", "installed", "drop", "error", "ram", "latency", "instructions"]
    unit: Literal["bytes", "points", "score", "percent", "ms", "instructions"]
    limit: float
    stated: bool = True
    value: float | None
    interval: tuple[float, float] | None = None
    evidence: Evidence | Literal["on disk"] | None
    verdict: Verdict
    reason: str = ""


class SizeReport(Record):
    """`download_bytes`: the file deflated, as stores do it. `coded_download_bytes`: `model.edgecomp`; None where there
    is none. `installed_bytes`: model + runtime + kernels.
    `custom_op_bytes`: of a build with `--no-custom-ops`, the file with custom ops that it is compared with."""

    original_bytes: int
    artifact_bytes: int
    ratio: float
    download_bytes: int
    installed_bytes: int
    custom_op_bytes: int | None = None
    coded_download_bytes: int | None = None


class Environment(Record):
    edgecomp: str
    torch: str
    runtime_version: str
    python: str
    machine: str
    commit: str | None


class Report(Record):
    """`report.json`. Fields may be added, never renamed. `limits`: all of them, those of `budget` too. `measure_notes`:
    those of the notes that belong to the figures of the last measuring. `search`, `plan`: where `auto` found the plan,
    how, and with what runners-up. `compressed_on`: the threads and the processor that the file's very bytes depend on,
    beside the versions in `environment`."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: Literal["edgecomp.report/1"] = Field("edgecomp.report/1", alias="schema")
    model: ModelReport
    target: str
    runtime: str
    method: str
    settings: dict[str, Any]
    seed: int
    recover_epochs: float = 0
    stock: bool = False
    budget: BudgetReport
    limits: list[LimitReport] = Field(default_factory=list)
    artifact_sha256: str | None = None
    size: SizeReport
    accuracy: Accuracy | None
    measurements: list[Measurement]
    check: EmulatorCheck | None
    error: OutputError | None = None
    layers: list[LayerReport]
    channels: list[ChannelGroup] = Field(default_factory=list)
    search: Search | None = None
    plan: list[PlanEntry] = Field(default_factory=list)
    proof: Proof
    compress_seconds: float
    compressed_on: str = ""
    calibration: str
    notes: list[str]
    measure_notes: list[str] = Field(default_factory=list)
    environment: Environment

    @property
    def verdict(self) -> Verdict:
        """Of all limits together: a missed one decides, then one that could not be decided."""
        verdicts = [self.budget.verdict, self.budget.drop_verdict, *(limit.verdict for limit in self.limits)]
        return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"

    @property
    def exit_code(self) -> int:
        """0 if every stated limit is met, 1 if one is missed, 5 if one could not be decided."""
        return {"pass": 0, "fail": 1, "inconclusive": 5}[self.verdict]


@dataclass(frozen=True)
class SweepRequest:
    """Everything `edgecomp sweep` was asked to do: `base` with every one of the methods at every budget."""

    base: Request
    methods: tuple[str, ...]
    budgets_bytes: tuple[int, ...] = ()  # a tenth, a twentieth and a fortieth of the original where there are none


class SweepPoint(Record):
    """A method at a budget. `setting` is what the budget decided, `reason` why it was missed or what failed.

    `validation` is the accuracy on calibration samples that nothing was fitted to, which fronts and choices are made
    by; `test` that on the test split. `front`: no other file is as small, as accurate and as fast, and better in one.
    """

    method: str
    budget_bytes: int
    state: Literal["built", "missed", "failed"]
    setting: str = ""
    settings: tuple[str, ...] = ()
    reason: str = ""
    folder: str | None = None
    predicted_bytes: int | None = None
    artifact_bytes: int | None = None
    validation: Accuracy | None = None
    test: Accuracy | None = None
    measurements: list[Measurement] = Field(default_factory=list)
    front: bool = False


class Sweep(Record):
    """`sweep.json`. Fields may be added, never renamed."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: Literal["edgecomp.sweep/1"] = Field("edgecomp.sweep/1", alias="schema")
    model: ModelReport
    target: str
    runtime: str
    seed: int
    recover_epochs: float
    engine: str
    original_bytes: int
    measurements: list[Measurement]
    points: list[SweepPoint]
    notes: list[str]

    @property
    def exit_code(self) -> int:
        """0 if every point was built within its budget, 1 if a budget was missed, 3 if a point failed."""
        states = {point.state for point in self.points}
        return 3 if "failed" in states else 1 if "missed" in states else 0
