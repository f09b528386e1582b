"""Data-parallel training by Ray Train's workers, of which some may die.

All workers take the same steps, each with its share of every batch. What is saved on the way comes back to the machine
that called, so that nodes need no shared disk: after a failure the workers that are left go on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from ..errors import BuildError
from ..util import progress
from ..util.files import atomic_file, temporary_folder
from ..util.workspace import code_digest
from . import pickling
from .ray import arrays

_FAILURES = 3  # times that workers may be lost
_POLL = 0.5  # seconds


class Peers:
    """What a worker knows of the others. rank, size: which it is, of how many."""

    def __init__(self, keeper: Any) -> None:
        self.keeper = keeper
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def add(self, tensors: list[Tensor]) -> None:
        """Makes each the sum of those of all workers, in place."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def tell(self, step: int, loss: float) -> None:
        """For the progress bar."""
        if self.rank == 0:
            self.keeper.tell.remote(step, loss)

    def keep(self, path: Path) -> None:
        """What to go on from, should workers be lost."""
        if self.rank == 0:
            ray.get(self.keeper.keep.remote(path.read_bytes()))


Loop = Callable[[Any, Path, Peers], None]


def train(loop: Loop, task: Any, kept: Path, workers: int, told: Callable[[int, float], None]) -> None:
    """Runs `loop(task, kept, peers)` in every worker, with a file of its own as `kept`, which may exist.

    Args:
        loop: a function of this package. task: what all of them need.
        kept: what to go on from; what was saved last is put there, also before Ctrl-C.
        workers: at most; while there are not so many, fewer.
        told: called with the step and the loss, now and then.

    Raises:
        BuildError: workers failed too often.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    state = kept.read_bytes() if kept.exists() else None
    keeper = ray.remote(num_cpus=0)(_Keeper).options(scheduling_strategy=here).remote(state)
    config = {"keeper": keeper, "code": code_digest(), "work": ray.put(arrays(pickling.pack((loop, task))))}
    failures: list[Exception] = []
    with temporary_folder() as folder:
        trainer = TorchTrainer(
            _worker,
            train_loop_config=config,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=(1, workers)),
            run_config=RunConfig(storage_path=str(folder), failure_config=FailureConfig(max_failures=_FAILURES)),
        )
        # Not in the main thread, where it would take SIGINT for itself and end the program as if all were well.
        fit = threading.Thread(target=_fit, args=(trainer, failures), daemon=True)
        fit.start()
        ended = False
        while not ended:
            fit.join(_POLL)
            ended = not fit.is_alive()
            step, loss, state = ray.get(keeper.news.remote())
            told(step, loss)
            if state is not None:
                with atomic_file(kept) as partial:
                    partial.write_bytes(state)
    if failures:
        reason = str(failures[0]).strip().splitlines()[-1]
        raise BuildError(f"Ray Train's workers failed, and {_FAILURES} times more: {reason}")


def _fit(trainer: TorchTrainer, failures: list[Exception]) -> None:
    try:
        trainer.fit()
    except Exception as error:
        failures.append(error)


class _Keeper:
    """An actor on the machine that called: how far the workers are, and what they saved last."""

    def __init__(self, state: bytes | None) -> None:
        self.state, self.fresh, self.told = state, False, (0, float("nan"))

    def tell(self, step: int, loss: float) -> None:
        self.told = step, loss

    def keep(self, state: bytes) -> None:
        self.state, self.fresh = state, True

    def kept(self) -> bytes | None:
        return self.state

    def news(self) -> tuple[int, float, bytes | None]:
        """The step, its loss, and what was saved since the last call."""
        fresh, self.fresh = self.fresh, False
        return *self.told, self.state if fresh else None


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs on a node."""
    if code_digest() != config["code"]:
        raise BuildError("a node has another edgecomp than this machine", "Install the same on every node.")
    torch.set_num_threads(1)
    progress.console.quiet = True
    loop, task = pickling.unpack(ray.get(config["work"]))
    keeper = config["keeper"]
    with temporary_folder() as folder:
        kept = Path(folder, "state")
        state = ray.get(keeper.kept.remote())
        if state is not None:
            kept.write_bytes(state)
        loop(task, kept, Peers(keeper))
