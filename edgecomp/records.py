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

Evidence = Literal["estimated", "host", "qemu-arm64", "adb-shell"]
Verdict = Literal["pass", "fail", "inconclusive"]


class Record(BaseModel):
    """A frozen record that goes to JSON and back; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- What is asked for ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """Everything `edgecomp build` was asked to do."""

    model: str | None = None
    target: str = "android-arm64"
    method: str = "pq"
    runtime: str | None = None  # that of the model where it is a runtime's file, else executorch
    budget_bytes: int | None = None
    max_drop: float | None = None
    on: str | None = None
    settings: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    out: Path = Path("out")
    seed: int = 0
    recover_epochs: float = 0
    quick: bool = False
    stock: bool = False


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


class PlanEntry(Record):
    """What becomes of one group of layers that must be treated alike (tied weights, coupled channels).

    `coupled`: the layers have weights of their own, and are to share parts. `method` is None where the group is left
    alone; `reason` then says why. `pruned`: the method that takes channels of it before that, if any.
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
    recover_epochs: float = 0
    stock: bool = False
    pruning: Pruning | None = None
    entries: tuple[PlanEntry, ...]


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


class Measurement(Record):
    """One artifact on one device. What was not or cannot be measured there is None.

    `custom-op`: of a build with `--stock`, the same compressed net with our custom ops.
    """

    evidence: Evidence
    artifact: Literal["original", "compressed", "custom-op"]
    runtime: str
    threads: int
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    samples: list[float] = []
    load_ms: float | None = None
    peak_rss_bytes: int | None = None
    instructions: int | None = None
    device: dict[str, Any] = {}


class Accuracy(Record):
    """In percent. `agreement`: test samples to which the two exported files give the same answer."""

    metric: str
    split: str
    samples: int
    original: float
    compressed: float
    drop_points: float
    agreement: float


class EmulatorCheck(Record):
    """Outputs of the target's program against the host's, over a stated subset of the test split, or other inputs."""

    evidence: Evidence
    samples: int
    inputs: str = "test samples"
    max_abs_difference: float
    relative_difference: float
    agreement: float


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
    """`report.json`. Fields may be added, never renamed."""

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
    size: SizeReport
    accuracy: Accuracy | None
    measurements: list[Measurement]
    check: EmulatorCheck | None
    layers: list[LayerReport]
    channels: list[ChannelGroup] = []
    proof: Proof
    compress_seconds: float
    calibration: str
    notes: list[str]
    environment: Environment

    @property
    def exit_code(self) -> int:
        """0 if every stated limit is met, 1 if one is missed, 5 if one could not be decided."""
        verdicts = [self.budget.verdict, self.budget.drop_verdict or "pass"]
        return 1 if "fail" in verdicts else 5 if "inconclusive" in verdicts else 0
