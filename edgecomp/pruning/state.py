"""The net while channels are chosen: group after group, in the order of execution, each seeing what those before it
have lost. It is not cut yet: layers only stop listening to what goes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.layout import channels_last, laid_out
from ..records import Model
from ..util import progress
from ..util.states import load_state, save_state
from .groups import Group, Part
from .surgery import mask
from .tuning import OwnLoss

CALIBRATION_SAMPLES = 1024


class PruningState:
    """What a method works on.

    Attributes:
        net: the net so far, with its norms. original: before anything was done to it.
        keeps: units that will stay in each group while later ones are ranked, by the group's name.
        orders: units of each group, those to keep first (≥ keep,). scores: what the next unit adds, falling, for
            methods that find the numbers themselves.
    """

    def __init__(self, model: Model, groups: list[Group], keeps: dict[str, int], config: Any, seed: int) -> None:
        assert model.trained is not None
        self.model, self.original = model, channels_last(copy.deepcopy(model.trained).eval())
        self.net = copy.deepcopy(self.original)
        self.data, self.groups, self.keeps, self.config, self.seed = model.data, groups, keeps, config, seed
        self.orders: dict[str, Tensor] = {}
        self.scores: dict[str, Tensor] = {}

    def choose(self, group: Group, order: Tensor, scores: Tensor | None = None) -> None:
        """Notes which units of a group are to stay; from now on the net does without the others."""
        self.orders[group.name] = order
        self.scores[group.name] = torch.zeros(len(order)) if scores is None else scores.float()
        self.mask()

    def mask(self) -> None:
        chosen = [group for group in self.groups if group.name in self.orders]
        mask(self.net, chosen, self.kept(self.keeps))

    def kept(self, keeps: dict[str, int]) -> dict[str, Tensor]:
        """The units that stay, ascending, if there are to be so many of each group."""
        return {name: order[: keeps[name]].sort().values for name, order in self.orders.items()}

    @property
    def samples(self) -> tuple[Tensor, ...]:
        """Inputs of some samples of the calibration split, each (≤ 1,024, …)."""
        return self.some(CALIBRATION_SAMPLES)

    def some(self, samples: int) -> tuple[Tensor, ...]:
        """Of so many of them."""
        assert self.data is not None
        return tuple(map(laid_out, self.data.calibration.take(slice(samples))))

    @cached_property
    def loss(self) -> OwnLoss:
        """What the net is trained with."""
        return OwnLoss(self.model, self.original)

    def per_unit(self, parts: tuple[Part, ...], of: Callable[[nn.Module], Tensor]) -> Tensor:
        """The sums (units,) of what is known of every channel (channels,) of some layers."""
        total = torch.zeros(len(parts[0].index))
        for part in parts:
            total += of(self.net.get_submodule(part.layer)).detach()[part.index].sum(1)
        return total

    def generator(self, group: Group) -> torch.Generator:
        """Random numbers for a group."""
        place = next(i for i, other in enumerate(self.groups) if other.name == group.name)
        return torch.Generator().manual_seed(self.seed * 1_000_003 + place)

    def select(self, method: ModuleType, path: Path) -> None:
        """Ranks all groups; an interrupted run goes on behind the last finished stage, which `path` holds."""
        self._resume(path)
        stages = method.stages(self) if hasattr(method, "stages") else [[group] for group in self.groups]
        waiting = [stage for stage in stages if any(group.name not in self.orders for group in stage)]
        with progress.bar("choosing channels", len(self.groups)) as advance:
            advance(len(self.groups) - sum(map(len, waiting)))
            for stage in waiting:
                advance(0, text=stage[0].name)
                if hasattr(method, "score"):
                    with torch.no_grad():
                        ranked = method.score(self, stage[0]).sort(descending=True, stable=True)
                    self.choose(stage[0], ranked.indices, ranked.values)
                else:
                    method.rank(self, stage)
                self._save(path)
                advance(len(stage))

    def _save(self, path: Path) -> None:
        state = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        state |= {f"order.{name}": order for name, order in self.orders.items()}
        state |= {f"scores.{name}": scores for name, scores in self.scores.items()}
        save_state(path, state)

    def _resume(self, path: Path) -> None:
        saved = load_state(path)
        if saved is None:  # there is none, or it is damaged: all are chosen again
            return
        state, _ = saved

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}

        self.net.load_state_dict(part("net."))
        self.orders, self.scores = part("order."), part("scores.")
        progress.note(f"channels of {len(self.orders)} of {len(self.groups)} groups were chosen before")
