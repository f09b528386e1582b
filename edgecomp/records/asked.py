"""What is asked for, and the model it is asked of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from .base import Record, RecoverCodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch


class Limits(Record):
    """What the result may take at most, beside the bytes of its file and the drop; None where nothing was said.
    `ram_bytes`: what the model adds to an empty program with the same runtime."""

    download_bytes: int | None = Field(None, gt=0)
    installed_bytes: int | None = Field(None, gt=0)
    ram_bytes: int | None = Field(None, gt=0)
    latency_ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    instructions: int | None = Field(None, gt=0)


@dataclass(frozen=True)
class Request:
    """Everything `edgecomp build` was asked to do."""

    model: str | None = None
    target: str = "android-arm64"
    data: str | None = None  # a Python file with data(), or a folder of .npy; in place of the model's own
    method: str = "pq"
    runtime: str | None = None  # that of the model where it is a runtime's file, else executorch
    budget_bytes: int | None = None
    max_drop: float | None = None
    max_error: float | None = None  # percent
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
    recover_codes: RecoverCodes = "learned"
    quick: bool = False
    stock: bool = False
    engine: str | None = None  # where layers are fitted, see `engines`; None: in this process
    address: str | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Split:
    """A named part of a data set.

    Attributes:
        inputs: a tensor (N, …) for each input of the model, of any dtype. May be given as one tensor, a list, or a dict
            by the names of the model's arguments; it is a tuple from then on.
        targets: (N, …) of any dtype, or None where nothing is known of the right outputs.
        names: of the inputs that were given as a dict.
    """

    name: str
    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given: Any = self.inputs
        if isinstance(given, Mapping):
            object.__setattr__(self, "names", tuple(given))
            given = given.values()
        elif not isinstance(given, (tuple, list)):
            given = (given,)
        object.__setattr__(self, "inputs", tuple(given))

    def __len__(self) -> int:
        return len(self.inputs[0])

    def take(self, which: int | slice | torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The inputs of some samples, each (n, …): `net(*split.take(slice(32)))`. A single one is a batch of one."""
        which = slice(which, which + 1 or None) if isinstance(which, int) else which
        return tuple(x[which] for x in self.inputs)

    def part(self, which: slice | torch.Tensor, name: str = "") -> Split:
        """Some samples and their targets."""
        targets = None if self.targets is None else self.targets[which]
        return replace(self, name=name or self.name, inputs=self.take(which), targets=targets)

    def first(self, samples: int) -> Split:
        """The first samples and their targets."""
        return self.part(slice(samples))

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """The inputs of all samples in their order, at most `size` at a time."""
        return (self.take(slice(start, start + size)) for start in range(0, len(self), size))


@dataclass(frozen=True)
class Data:
    """The splits of a model and its metric: one of `edgecomp.training.metrics`, by name, or a function (outputs,
    targets) → number, where outputs (N, …) are the model's first. None: the one that the targets call for."""

    train: Split
    calibration: Split
    test: Split
    metric: str | Callable[[torch.Tensor, torch.Tensor], float] | None = None

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.calibration, self.test


@dataclass(frozen=True)
class Model:
    """A trained network, ready to compress: `net` is canonical (see `edgecomp.graph`), `given` calls the user's module;
    None for a file. The digest is of the net's tensors and its program. `data_source`: of data that are not its own."""

    name: str
    source: str
    net: torch.nn.Module
    example_inputs: tuple[torch.Tensor, ...]
    data: Data | None
    sha256: str
    given: torch.nn.Module | None = None
    data_source: str = ""

    @property
    def trained(self) -> torch.nn.Module | None:
        """What can be trained on, and lose channels: the user's module, or the net where that is but a program."""
        program = self.given is None or hasattr(self.given.module, "graph")
        return self.net if program else self.given.module  # type: ignore[union-attr, return-value]

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.net.parameters())
