"""The evolutionary sampler: children of the best points, by exchange and change of single fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gridstone.tuner.feasible import FeasibleSet, is_ordered
from gridstone.tuner.samplers.base import FeasibleSampler, Known
from gridstone.tuner.samplers.pool import best

PARENTS = 10
EXCHANGE = 0.5  # chance of a second parent
CHANGES = 1.5  # fields that are changed, in the mean
STRANGERS = 0.1  # chance of a point that descends from nobody


class Evolution(FeasibleSampler):
    """Steady-state evolution: parents are the best of all, a child is the free point nearest to its fields."""

    def choose(self, known: Known, count: int, rng: np.random.Generator) -> Sequence[int]:
        """Return children of the best points."""
        parents, free = best(known, PARENTS), known.free.copy()
        chosen: list[int] = []
        for _ in range(count):
            if not parents or rng.random() < STRANGERS:
                point = int(rng.choice(np.flatnonzero(free)))
            else:
                point = self._child(known.points, parents, free, rng)
            free[point] = False
            chosen.append(point)
        return chosen

    def _child(self, points: FeasibleSet, parents: Sequence[int], free: np.ndarray, rng: np.random.Generator) -> int:
        # The better of two: a tournament.
        one = parents[int(rng.integers(len(parents), size=2).min())]
        at, _ = points.locate(one)
        kin = [point for point in parents if point != one and points.locate(point)[0] == at]
        row = list(points.ordinals(one))
        if kin and rng.random() < EXCHANGE:
            other = points.ordinals(kin[int(rng.integers(len(kin)))])
            row = [b if rng.random() < 0.5 else a for a, b in zip(row, other, strict=True)]
        axes = points.branches[at].axes
        for field, axis in enumerate(axes):
            if len(axis.values) > 1 and rng.random() < CHANGES / len(axes):
                if is_ordered(axis) and rng.random() < 0.5:
                    row[field] = int(np.clip(row[field] + rng.choice((-1, 1)), 0, len(axis.values) - 1))
                else:
                    row[field] = int(rng.integers(len(axis.values)))
        if not points.rows_left(at, free).size:
            return int(rng.choice(np.flatnonzero(free)))
        return points.project(at, row, free, rng)
