"""What the experiments on convolutions share: factorized nets, their accuracy, and what they cost where they run."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import chain, discover
from ..compress import aim_at_original, replace_weights
from ..devices import timing
from ..devices.bundle import kept_bundle
from ..devices.host import HOST_TARGET
from ..devices.probe import count_instructions
from ..devices.target import find_target
from ..devices.tensors import write_records
from ..fitting import calibration
from ..fitting.calibration import CALIBRATION_SAMPLES, Inputs
from ..layers.layout import channels_last, contiguous
from ..layers.matrix import parameter_bytes
from ..load import load
from ..records import Model, Record, Request
from ..training.distill import train_net
from ..training.outputs import predict
from ..util import progress
from ..util.cache import RUNNING, key_of, remembered
from ..util.files import cache_folder, temporary_folder

_CODE = (*RUNNING, "papers._conv")
_ROUNDS = 7
_ROUND_SECONDS = 0.3


class Approximation(Record):
    """How layers are factorized: all by the same method, each with its settings."""

    method: str
    settings: tuple[str, ...]
    layers: tuple[str, ...]

    @property
    def reconstruction(self) -> str:
        given = [text.partition("=")[2] for text in self.settings if text.startswith("reconstruction=")]
        return given[0] if given else "joint"

    def __str__(self) -> str:
        return " ".join([self.method, *self.settings, *self.layers])

    def alone(self, layer: str) -> str:
        """What a layer of it is called that runs without its net."""
        return " ".join([self.method, *self.settings, "alone:", layer])


class Accuracy(Record):
    """accuracy: top-1 on the test split, percent. agreement: of the answers with the original's. tuned: the two after
    fine-tuning, if there was any. ranks, bytes: of the factorized layers."""

    ranks: tuple[int, ...]
    bytes: int
    accuracy: float
    agreement: float
    tuned: tuple[float, float] | None = None


class Cost(Record):
    """Of one inference: median time on the host with one thread, executed ARM64 instructions. bytes: of the file."""

    p50_ms: float
    instructions: int
    bytes: int


@dataclass
class ConvBench:
    """Factorizes some convolutions of a net and measures on its test split.

    Attributes:
        results: the folder that keeps what has been measured.
        epochs: of fine-tuning.
    """

    model: Model
    results: Path
    epochs: float
    test_samples: int = 10_000
    calibration_samples: int = CALIBRATION_SAMPLES
    _inputs: dict[str, Inputs] = field(default_factory=dict)

    @classmethod
    def of(cls, paper: str, quick: bool, epochs: float) -> ConvBench:
        """CharNet, with results kept under the paper's name. quick: after a quick training, with fewer samples."""
        model = load(Request(model="charnet", quick=quick))
        results = cache_folder("reproduce", paper)
        return cls(model, results, 0.02, 1000, 300) if quick else cls(model, results, epochs)

    def __post_init__(self) -> None:
        assert self.model.data is not None
        self.net = channels_last(copy.deepcopy(self.model.net))
        self.calibration = self.model.data.calibration.take(slice(self.calibration_samples))
        self.test = self.model.data.test.take(slice(self.test_samples))
        self.targets = self.model.data.test.targets[: self.test_samples]
        with progress.stage("prepare", f"answers of {self.model.name}"):
            self.answers = predict(self.net, self.test).argmax(1)
        self.original = self._score(self.answers)[0]

    def run(self, wanted: Approximation, tune: bool = False) -> Accuracy:
        """Accuracy of the net with these layers factorized, kept once it is measured."""
        samples = len(self.test[0]), len(self.calibration[0])
        key = key_of(self.model.sha256, samples, wanted, tune and self.epochs, code=_CODE)
        return Accuracy(**remembered(self.results, key, lambda: self._run(wanted, tune).model_dump()))

    def costs(self, wanted: list[Approximation]) -> dict[str, Cost]:
        """What nets with these layers factorized cost, by str(), and each of these layers by `alone`, measured in one
        run. The original net is "original", its layers alone have their names."""
        key = key_of("costs", self.model.sha256, sorted(map(str, wanted)), code=_CODE)

        def measure() -> dict[str, dict[str, float]]:
            with progress.stage("time", f"{len(wanted)} nets and their layers"):
                return {name: cost.model_dump() for name, cost in measured(self._structures(wanted)).items()}

        return {name: Cost(**cost) for name, cost in remembered(self.results, key, measure).items()}

    def _run(self, wanted: Approximation, tune: bool) -> Accuracy:
        net = self._factorized(wanted)
        ranks = tuple(net.get_submodule(name)[0].out_channels for name in wanted.layers)
        size = sum(parameter_bytes(net.get_submodule(name), recurse=True) for name in wanted.layers)
        accuracy, agreement = self._score(predict(net, self.test).argmax(1))
        progress.note(f"{wanted}: {accuracy:.2f} %")
        tuned = None
        if tune:
            kept = self.results / "tuning"
            kept.unlink(missing_ok=True)
            net, note = train_net(self.model, net, self.epochs, 0, kept)
            kept.unlink(missing_ok=True)
            tuned = self._score(predict(net, self.test).argmax(1))
            progress.note(f"fine-tuned {tuned[0]:.2f} %; {note}")
        return Accuracy(ranks=ranks, bytes=size, accuracy=accuracy, agreement=agreement, tuned=tuned)

    def _factorized(self, wanted: Approximation) -> nn.Module:
        """The net with its layers replaced, each fitted as the approximation says."""
        net, parts = copy.deepcopy(self.net), {}
        for name in wanted.layers:
            layer = net.get_submodule(name)
            (method,) = chain.parse(wanted.method, wanted.settings)
            first = not parts
            if wanted.reconstruction == "filter":
                inputs = None
            elif wanted.reconstruction == "data" or first:
                inputs = self._original_inputs(name)
            else:
                inputs = calibration.gather(net, layer, self.calibration)
                aim_at_original(net, self.net, name, self.calibration, inputs)
            parts[name] = replace_weights(layer, method.settled(layer), inputs, 0)
        for name, part in parts.items():
            net.set_submodule(name, part)
        return contiguous(net)

    def _original_inputs(self, name: str) -> Inputs:
        if name not in self._inputs:
            self._inputs[name] = calibration.gather(self.net, self.net.get_submodule(name), self.calibration)
        return self._inputs[name]

    def _score(self, answers: Tensor) -> tuple[float, float]:
        """Accuracy, and agreement with the original net, percent."""
        return tuple(100 * (answers == other).double().mean().item() for other in (self.targets, self.answers))  # type: ignore[return-value]

    def _structures(self, wanted: list[Approximation]) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
        """Nets and single layers with random weights, and the shapes of their inputs: they cost the same."""
        shape = tuple(self.model.example_inputs[0].shape)
        structures: dict[str, tuple[nn.Module, tuple[int, ...]]] = {"original": (self.model.net, shape)}
        for approximation in wanted:
            net = copy.deepcopy(self.model.net)
            for name in approximation.layers:
                layer = self.model.net.get_submodule(name)
                single = (1, layer.in_channels, *layer.image_size)
                (method,) = chain.parse(approximation.method, approximation.settings)
                parts = method.settled(layer).structure(layer).to_empty(device="cpu")
                for parameter in parts.parameters():
                    nn.init.normal_(parameter, std=0.05)
                net.set_submodule(name, parts)
                structures[name] = (nn.Sequential(layer), single)
                structures[approximation.alone(name)] = (parts, single)
            structures[str(approximation)] = (net, shape)
        return structures


def measured(nets: dict[str, tuple[nn.Module, tuple[int, ...]]]) -> dict[str, Cost]:
    """Exports nets, each with the shape of its inputs, runs them on the emulator for their instructions, and on the
    host in turns."""
    runtime = "executorch"
    bundle = kept_bundle(find_target(HOST_TARGET), runtime)
    instructions: dict[str, int] = {}
    with temporary_folder() as temporary:
        folder = Path(temporary)
        jobs = {
            name: timing.TimingJob(bundle, folder / f"{i}.pte", folder / f"{i}.inputs") for i, name in enumerate(nets)
        }
        with progress.bar("exporting, counting instructions", len(nets)) as advance:
            for name, (net, shape) in nets.items():
                inputs, job = torch.randn(shape, generator=torch.Generator().manual_seed(0)), jobs[name]
                discover.runtime(runtime).export(net, (inputs,), job.model)
                write_records(job.inputs, [inputs])
                instructions[name] = count_instructions(job.model, job.inputs, runtime, "android-arm64")[0]
                advance(text=name)
        timings = timing.in_turns(jobs, _ROUNDS, _ROUND_SECONDS, most=2000)
        return {
            name: Cost(p50_ms=timings[name].p50_ms, instructions=instructions[name], bytes=job.model.stat().st_size)
            for name, job in jobs.items()
        }
