"""Stages 3 to 6: what was made, and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from .base import Evidence, Record

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Compressed:
    """The network with its layers replaced; how far the weights of each are from the old ones, and its outputs from
    those of the layer it replaced, given the same calibration inputs; and `made_on` how many threads of what processor:
    sums in another order differ in their last bits, and so may codes."""

    net: torch.nn.Module
    checkpoint: Path
    weight_errors: dict[str, float]
    output_errors: dict[str, float]
    calibration: str
    seconds: float
    made_on: str = ""
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
    settings: dict[str, Any] = Field(default_factory=dict)
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
    `download_path`: the container that decodes into the file; None where an earlier build wrote none.
    """

    path: Path
    original_path: Path
    bundle: Path
    layers: tuple[LayerReport, ...]
    proof: Proof
    runtime_version: str
    custom_op_path: Path | None = None
    download_path: Path | None = None

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

    `custom-op`: of a build with `--no-custom-ops`, the same compressed net with our custom ops.
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
    samples: list[float] = Field(default_factory=list)
    samples_by_process: list[int] = Field(default_factory=list)
    load_ms: float | None = None
    peak_rss_bytes: int | None = None
    instructions: int | None = None
    p50_interval_ms: tuple[float, float] | None = None
    p90_interval_ms: tuple[float, float] | None = None
    p99_interval_ms: tuple[float, float] | None = None
    first_ms: float | None = None
    rss_anon_bytes: int | None = None
    empty_rss_bytes: int | None = None
    layer_profile: list[LayerTime] = Field(default_factory=list)
    inputs: str = ""
    device: dict[str, Any] = Field(default_factory=dict)


class Accuracy(Record):
    """Of both exported files, by the model's metric, in `unit`; `drop_points` is positive where the compressed one is
    worse, whatever the metric's direction; of percent it is in points.

    `agreement`: percent of the samples to which both give the same answer; None where outputs are no answers to choose
    from. `interval`: 95 % of the drop, by the method that `interval_method` names; None where it has none."""

    metric: str
    split: str
    samples: int
    original: float
    compressed: float
    drop_points: float
    agreement: float | None
    interval: tuple[float, float] | None = None
    interval_method: str = ""
    unit: str = "%"
    higher_is_better: bool = True
    evidence: Evidence = "host"


class OutputError(Record):
    """How far the exported file's outputs, all of them, are from those of the user's own module: ‖difference‖/‖outputs‖
    in percent; None where values are not finite in other places than the module's.

    `inputs`: what both were given; `real`: they are data. `reference`: what the outputs were compared with."""

    percent: float | None
    samples: int
    inputs: str
    reference: str
    real: bool = True
    evidence: Evidence = "host"


class EmulatorCheck(Record):
    """Outputs of the target's program against the host's, over a stated subset of the test split, or other inputs.
    `accuracy`: of both files on the device, over that subset."""

    evidence: Evidence
    samples: int
    inputs: str = "test samples"
    max_abs_difference: float
    relative_difference: float
    agreement: float | None
    accuracy: Accuracy | None = None


@dataclass(frozen=True)
class Measured:
    """All figures of one run."""

    measurements: tuple[Measurement, ...]
    accuracy: Accuracy | None
    check: EmulatorCheck | None = None
    notes: tuple[str, ...] = field(default=())
    error: OutputError | None = None
