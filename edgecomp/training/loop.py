"""The loop of all trainings: of the zoo's nets, of nets being pruned, of compressed nets with the original as teacher.

Every random number of a run follows from its seed and step. It can therefore be stopped at any time and goes on, to the
same weights, when started again.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..util import progress
from ..util.states import load_state, save_state


class Training:
    """A training: `advance` takes one step.

    Attributes:
        net: what is trained. optimizer: a subclass makes it.
        total: steps in all. step: those that are done.
        kept: file of what an interrupted run goes on from; None if nothing is kept.
        every: steps after which that is written.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, net: nn.Module, total: int, kept: Path | None = None, every: int = 50) -> None:
        self.net, self.total, self.kept, self.every, self.step = net, total, kept, every, 0

    def advance(self) -> float:
        """One step; returns the loss of its batch."""
        raise NotImplementedError

    def steps(self) -> Iterator[float]:
        """Takes all steps that are left; the loss of every one."""
        while self.step < self.total:
            loss = self.advance()
            if self.step % self.every == 0 or self.step == self.total:
                self.save()
            yield loss

    def learned(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer changes, by name."""
        return dict(self.net.named_parameters())

    def values(self) -> dict[str, Tensor]:
        """All tensors that a step changes, by name."""
        return self.net.state_dict()

    def counters(self) -> dict[str, str]:
        """What else decides how it goes on."""
        return {"step": str(self.step)}

    def restore(self, counters: dict[str, str]) -> None:
        """Takes back what `counters` gave."""
        self.step = int(counters["step"])

    def save(self) -> None:
        if self.kept is None:
            return
        state = {f"value.{name}": tensor.detach() for name, tensor in self.values().items()}
        for name, parameter in self.learned().items():
            moments = self.optimizer.state.get(parameter, {})
            state |= {f"{key}.{name}": moment for key, moment in moments.items() if isinstance(moment, Tensor)}
        save_state(self.kept, state, self.counters())

    def resume(self) -> bool:
        """Goes on from what was saved; False if there is nothing, it is damaged, or it belongs to another run."""
        saved = load_state(self.kept) if self.kept is not None else None
        if saved is None:
            return False
        (state, counters), values, learned = saved, self.values(), self.learned()
        if {name for name in state if name.startswith("value.")} != {f"value.{name}" for name in values}:
            return False
        self.restore(counters)
        self.optimizer.state.clear()
        for full, tensor in state.items():
            kind, name = full.split(".", 1)
            if kind == "value":
                values[name].data.copy_(tensor)
            else:
                alike = tensor.shape == learned[name].shape  # laid out like the parameter, for the same last digits
                self.optimizer.state[learned[name]][kind] = (
                    torch.empty_like(learned[name]).copy_(tensor) if alike else tensor
                )
        return True


def finish(run: Training, title: str, what: str = "loss") -> None:
    """Takes all steps that are left.

    Raises:
        KeyboardInterrupt: asked for, and the state is kept.
    """
    with interruptible() as interrupted, progress.bar(title, run.total) as advance:
        before = show_start(run, advance)
        for loss in run.steps():
            advance(run.step - before, text=f"{what} {loss:.4f}")
            before = run.step
            if interrupted():
                run.save()
                say_kept(run, title)
                raise KeyboardInterrupt


def show_start(run: Training, advance: Callable[..., None]) -> int:
    """Shows where the run begins, and returns it."""
    if run.step:
        progress.note(f"going on at step {run.step} of {run.total}")
        advance(run.step)
    return run.step


def say_kept(run: Training, title: str) -> None:
    if run.kept is not None:
        progress.note(f"{title}: kept at step {run.step} of {run.total}; the same command goes on from there")


def chosen(samples: int, size: int, seed: int, step: int) -> Tensor:
    """Indices of the step-th batch; each epoch is in an order of its own, and what fills no batch is left out."""
    size = min(size, samples)
    epoch, index = divmod(step, samples // size)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[index * size : (index + 1) * size]


def one_cycle(position: float) -> float:
    """Learning-rate factor: a quarter of the run up from 0.04, the rest down to 0, both as cosines."""
    if position < 0.25:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * position / 0.25)) / 2
    return (1 + math.cos(math.pi * (position - 0.25) / 0.75)) / 2


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C into a question: `with interruptible() as interrupted: … if interrupted(): …`."""
    pressed: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)
