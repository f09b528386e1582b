"""The choice: one candidate for every layer, least damage within the limits.

A multiple-choice knapsack as an integer program. A candidate may be for several layers at once (coupled ones); every
layer is then covered by exactly one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

_UNIT = 1e-4  # of damage, in nats: solvers stop within 1e-6 of the optimum
_WORST = 10.0  # nats; beyond that nothing is left to lose


@dataclass(frozen=True)
class Column:
    """One candidate as the solver sees it: what it covers, what it does, and what it takes of each resource."""

    covers: tuple[str, ...]
    damage: float
    takes: dict[str, float]


def choose(
    columns: list[Column], limits: dict[str, float], least: str = "damage", prices: dict[str, float] | None = None
) -> list[int] | None:
    """Indices of the chosen columns, in their order; None if nothing is within the limits.

    Args:
        limits: by resource, the most that all chosen ones together may take; `damage` is one too.
        least: what is to be least: `damage`, or a resource. Of equals the one with fewer bytes.
        prices: by resource, what is added to that for each unit.
    """
    layers = sorted({name for column in columns for name in column.covers})
    row = {name: i for i, name in enumerate(layers)}
    cover = np.zeros((len(layers), len(columns)))
    for j, column in enumerate(columns):
        cover[[row[name] for name in column.covers], j] = 1
    constraints = [LinearConstraint(cover, 1, 1)]
    for resource, limit in limits.items():
        unit = max(limit, 1e-9) / 1e4
        taken = _amounts(columns, resource) / unit
        constraints.append(LinearConstraint(taken[None], -np.inf, 1e4))
    prices = prices or {}
    cost = _amounts(columns, least) + sum(price * _amounts(columns, resource) for resource, price in prices.items())
    cost = cost / (_UNIT if least == "damage" else max(1e-9, cost.max() / 1e6))
    sizes = _amounts(columns, "bytes")
    cost = cost + 1e-4 * sizes / max(1.0, sizes.max())
    solution = milp(
        cost,
        integrality=np.ones(len(columns)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0},
    )
    if solution.x is None:
        return None
    chosen = [j for j, x in enumerate(solution.x) if x > 0.5]
    over = [r for r, limit in limits.items() if _amounts([columns[j] for j in chosen], r).sum() > limit]
    if over:  # by no more than the solver's tolerance
        tighter = {r: limit * (1 - 1e-5) if r in over else limit for r, limit in limits.items()}
        return choose(columns, tighter, least, prices)
    return chosen


def _amounts(columns: list[Column], resource: str) -> np.ndarray:
    if resource == "damage":
        return np.array([min(column.damage, _WORST) for column in columns])
    return np.array([column.takes.get(resource, 0.0) for column in columns])
