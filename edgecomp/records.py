"""The frozen records that the stages hand on, and `report.json` (schema "edgecomp.report/1").

Units are part of the names: `size_bytes`, `latency_ms`. Percentages are 0–100.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

Evidence = Literal["estimated", "host", "qemu-arm64", "ssh", "adb-shell"]
Verdict = Literal["pass", "fail", "inconclusive"]


class Record(BaseModel):
    """A frozen record that goes to JSON and back; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- What is asked for ------------------------------------------------------------------------------------


class Limits(Record):
    """What the result may take at most, beside the bytes of its file and the drop; None where nothing was said.
    `ram_bytes`: what the model adds to an empty program with the same runtime."""

    installed_bytes: int | None = Field(None, gt=0)
    ram_bytes: int | None = Field(None, gt=0)
    latency_ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    instructions: int | None = Field(None, gt=0)


@dataclass(frozen=True)
class Request:
    """Everything `edgecomp build` was asked to do."""

    model: str | None = None
    target: str = "android-arm64"
    method: str = "pq"
    runtime: str | None = None  # that of the model where it is a runtime's file, else executorch
    budget_bytes: int | None = None
    max_drop: float | None = None
    limits: Limits = field(default_factory=Limits)
    on: str | None = None
    serial: str | None = None  # of the phone, with `on` adb
    host: str | None = None  # USER@HOST, with `on` ssh
    cores: str | None = None  # big, little or a mask such as f0: where the program may run on the device
    max_temp_c: float | None = None  # the device is left to cool down to this before each turn
    settings: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    out: Path = Path("out")
    seed: int = 0
    recover_epochs: float = 0
    quick: bool = False
    stock: bool = False
    engine: str | None = None  # where layers are fitted, see `engines`; None: in this process
    address: str | None = None
    workers: int | None = None


# --- load -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """A named part of a data set: `inputs` (N, …) float32 and `targets` (N,) int64."""

    name: str
    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Data:
    """The splits of a model and its metric: a name (`top1`) or a function (outputs, targets) → percent."""

    train: Split
    calibration: Split
    test: Split
    metric: str | Callable[[torch.Tensor, torch.Tensor], float] = "top1"


@dataclass(frozen=True)
class Model:
    """A trained network, ready to compress: `net` with its batch norms folded, `trained` as it was trained."""

    name: str
    source: str
    net: torch.nn.Module
    example_inputs: tuple[torch.Tensor, ...]
    data: Data | None
    sha256: str
    trained: torch.nn.Module | None = None

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.net.parameters())


# --- plan -------------------------------------------------------------------------------------------------


class Cost(Record):
    """What a layer takes: bytes in the exported file, multiply-adds for one row of its input matrix."""

    bytes: int
    macs: int


@dataclass(frozen=True)
class Knob:
    """The setting of a method that trades bytes for fidelity, and what a byte budget tries, from the most bytes to the
    fewest. `rivals`: settings that decide the same; where one of them is given, the knob is not turned."""

    setting: str
    values: tuple[Any, ...]
    rivals: tuple[str, ...] = ()


class RunnerUp(Record):
    """What `auto` would have chosen for a group of layers were it not for what it did choose: the bytes and damage of
    the group, and, with all others chosen anew, the predicted damage of the plan."""

    method: str | None
    settings: dict[str, Any] = {}
    bytes: int
    damage: float
    plan_damage: float


class PlanEntry(Record):
    """What becomes of one group of layers that must be treated alike (tied weights, coupled channels).

    `coupled`: the layers have weights of their own, and are to share parts. `method` is None where the group is left
    alone; `reason` then says why. `pruned`: the method that takes channels of it before that, if any. Where `auto`
    chose: the predicted `damage` (see `Search`), `instructions` of one inference, and the runner-up.
    """

    layers: tuple[str, ...]
    coupled: bool = False
    pruned: str = ""
    kind: str
    method: str | None
    settings: dict[str, Any] = {}
    reason: str = ""
    original_bytes: int
    predicted_bytes: int
    damage: float | None = None
    instructions: int | None = None
    runner_up: RunnerUp | None = None

    @property
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The names of every layer; tied ones are one, of several names."""
        return tuple((name,) for name in self.layers) if self.coupled else (self.layers,)


class ChannelGroup(Record):
    """Channels that can only go together: so many `channels` of the layers that give them out, taken in by `into`, of
    which `keep` stay. `reason` says why all do. Channels that can only go several at a time count as one."""

    layers: tuple[str, ...]
    into: tuple[str, ...]
    channels: int
    keep: int
    reason: str = ""


class Pruning(Record):
    """What is done to channels before anything is done to layers. macs, bytes: of the net before and after."""

    method: str
    settings: dict[str, Any]
    groups: tuple[ChannelGroup, ...]
    macs: tuple[int, int]
    bytes: tuple[int, int]

    @property
    def text(self) -> str:
        pruned = [group for group in self.groups if group.keep < group.channels]
        return (
            f"{self.method}: {sum(g.keep for g in pruned):,} of {sum(g.channels for g in pruned):,} channels stay in "
            f"{len(pruned)} of {len(self.groups)} groups, {100 * self.macs[1] / self.macs[0]:.1f} % of the "
            f"multiply-adds, {100 * self.bytes[1] / self.bytes[0]:.1f} % of the bytes"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of it in a report: how much is left, and why some channels all stay."""
        reasons: dict[str, list[str]] = {group.reason: [] for group in self.groups if group.reason}
        for group in self.groups:
            if group.reason:
                reasons[group.reason].append(" & ".join(group.layers))
        return self.text, *(f"channels of {', '.join(names)} stay: {reason}" for reason, names in reasons.items())


class Look(Record):
    """One plan that `auto` built and looked at: the file it gave, and what the file's outputs lose on calibration
    samples, as predicted and as measured."""

    file_bytes: int
    predicted_damage: float
    damage: float
    drop_points: float
    chosen: bool = False


class Search(Record):
    """How `auto` found the plan. Damage is the Kullback–Leibler divergence of the class probabilities from those of the
    original, in nats, a mean over samples of the calibration split.

    candidates: of all layers, whose damage was found out. limits: on bytes, instructions, memory or damage.
    container_bytes: what the file has beyond the layers. evidence: of the instructions.
    """

    split: str
    samples: int
    candidates: int
    limits: dict[str, float]
    container_bytes: int
    looks: list[Look]
    evidence: Evidence = "estimated"


class Plan(Record):
    """The decision for every layer, in the order of execution; written as `plan.json`."""

    model: str
    model_sha256: str
    target: str
    runtime: str
    method: str
    seed: int
    budget_bytes: int | None
    max_drop_points: float | None
    limits: Limits = Limits()
    recover_epochs: float = 0
    stock: bool = False
    pruning: Pruning | None = None
    entries: tuple[PlanEntry, ...]
    search: Search | None = None


# --- compress, recover, export, measure -------------------------------------------------------------------


@dataclass(frozen=True)
class Compressed:
    """The network with its layers replaced; how far the weights of each are from the old ones, and its outputs from
    those of the layer it replaced, given the same calibration inputs."""

    net: torch.nn.Module
    checkpoint: Path
    weight_errors: dict[str, float]
    output_errors: dict[str, float]
    calibration: str
    seconds: float
    notes: tuple[str, ...] = ()


class Proof(Record):
    """Evidence that the exported file holds codes and computes what the torch module computes."""

    codes_stored: bool
    max_abs_difference: float
    relative_difference: float
    reference: str


class LayerReport(Record):
    """One line of the ledger: a layer's bytes in the exported file, what was done to it, ‖W−Ŵ‖/‖W‖ of its weights and
    ‖X(W−Ŵ)ᵀ‖/‖XWᵀ‖ of its outputs on calibration inputs. `tables`: how products with its codewords are looked up, and
    what that adds to the outputs."""

    name: str
    kind: str
    method: str | None
    settings: dict[str, Any] = {}
    weights: int
    original_bytes: int
    bytes: int
    bits_per_weight: float
    relative_error: float | None
    output_error: float | None = None
    tables: str = ""
    reason: str


@dataclass(frozen=True)
class Artifact:
    """The exported files and what was proven about them. The ledger's last line is the container.

    `custom_op_path`: the same net with our custom ops, to compare with, if the file was made to do without them.
    """

    path: Path
    original_path: Path
    bundle: Path
    layers: tuple[LayerReport, ...]
    proof: Proof
    runtime_version: str
    custom_op_path: Path | None = None

    @property
    def files(self) -> dict[Literal["original", "compressed", "custom-op"], Path]:
        """What is measured in turns."""
        files: dict[Literal["original", "compressed", "custom-op"], Path]
        files = {"original": self.original_path, "compressed": self.path}
        return files if self.custom_op_path is None else {**files, "custom-op": self.custom_op_path}


class LayerTime(Record):
    """What one operator of the exported file takes in one warm inference: time, or executed instructions on qemu."""

    name: str
    ms: float | None = None
    instructions: int | None = None


class Measurement(Record):
    """One artifact on one device. What was not or cannot be measured there is None.

    `custom-op`: of a build with `--stock`, the same compressed net with our custom ops.
    `…_interval_ms`: 95 %, bootstrap over the raw samples. `first_ms`: the first inference of a cold process.
    `peak_rss_bytes` is VmHWM, `rss_anon_bytes` RssAnon of a process that runs the file once; `empty_rss_bytes` is VmHWM
    of the same program and libraries without a model. `inputs`: what was fed in, and its digest.
    `samples_by_process`: how many of `samples` each process gave.
    """

    evidence: Evidence
    artifact: Literal["original", "compressed", "custom-op"]
    runtime: str
    threads: int
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    samples: list[float] = []
    samples_by_process: list[int] = []
    load_ms: float | None = None
    peak_rss_bytes: int | None = None
    instructions: int | None = None
    p50_interval_ms: tuple[float, float] | None = None
    p90_interval_ms: tuple[float, float] | None = None
    p99_interval_ms: tuple[float, float] | None = None
    first_ms: float | None = None
    rss_anon_bytes: int | None = None
    empty_rss_bytes: int | None = None
    layer_profile: list[LayerTime] = []
    inputs: str = ""
    device: dict[str, Any] = {}


class Accuracy(Record):
    """In percent. `agreement`: test samples to which the two exported files give the same answer.
    `interval`: 95 % of the drop, in points, by the method that `interval_method` names; None where it has none."""

    metric: str
    split: str
    samples: int
    original: float
    compressed: float
    drop_points: float
    agreement: float
    interval: tuple[float, float] | None = None
    interval_method: str = ""
    evidence: Evidence = "host"


class EmulatorCheck(Record):
    """Outputs of the target's program against the host's, over a stated subset of the test split, or other inputs.
    `accuracy`: of both files on the device, over that subset."""

    evidence: Evidence
    samples: int
    inputs: str = "test samples"
    max_abs_difference: float
    relative_difference: float
    agreement: float
    accuracy: Accuracy | None = None


@dataclass(frozen=True)
class Measured:
    """All figures of one run."""

    measurements: tuple[Measurement, ...]
    accuracy: Accuracy | None
    check: EmulatorCheck | None = None
    notes: tuple[str, ...] = field(default=())


# --- report -----------------------------------------------------------------------------------------------


class ModelReport(Record):
    name: str
    source: str
    sha256: str
    parameters: int


class BudgetReport(Record):
    limit_bytes: int
    stated: bool
    verdict: Verdict
    max_drop_points: float | None = None
    drop_verdict: Verdict | None = None


class LimitReport(Record):
    """One limit and what became of it; `limit`, `value` and `interval` (95 %, where it is known) in `unit`.
    `stated`: somebody asked for it; else it is the default. `reason`: how it was decided, where that is not plain."""

    name: Literal["file", "installed", "drop", "ram", "latency", "instructions"]
    unit: Literal["bytes", "points", "ms", "instructions"]
    limit: float
    stated: bool = True
    value: float | None
    interval: tuple[float, float] | None = None
    evidence: Evidence | Literal["on disk"] | None
    verdict: Verdict
    reason: str = ""


class SizeReport(Record):
    """`download_bytes`: the file deflated. `installed_bytes`: model + runtime + kernels.
    `custom_op_bytes`: of a build with `--stock`, the file with custom ops that it is compared with."""

    original_bytes: int
    artifact_bytes: int
    ratio: float
    download_bytes: int
    installed_bytes: int
    custom_op_bytes: int | None = None


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
    how, and with what runners-up."""

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
    limits: list[LimitReport] = []
    artifact_sha256: str | None = None
    size: SizeReport
    accuracy: Accuracy | None
    measurements: list[Measurement]
    check: EmulatorCheck | None
    layers: list[LayerReport]
    channels: list[ChannelGroup] = []
    search: Search | None = None
    plan: list[PlanEntry] = []
    proof: Proof
    compress_seconds: float
    calibration: str
    notes: list[str]
    measure_notes: list[str] = []
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


# --- sweep ------------------------------------------------------------------------------------------------


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
    measurements: list[Measurement] = []
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
