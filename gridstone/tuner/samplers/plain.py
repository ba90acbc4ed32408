"""Samplers that learn nothing: what a search has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gridstone.tuner.samplers.base import FeasibleSampler, Known


class Uniform(FeasibleSampler):
    """Every free point is as likely."""

    def choose(self, known: Known, count: int, rng: np.random.Generator) -> Sequence[int]:
        """Return points drawn without replacement."""
        return [int(point) for point in rng.choice(np.flatnonzero(known.free), count, replace=False)]


class Grid(FeasibleSampler):
    """Points evenly spaced over the set's numbers, each pass between those of the one before."""

    def choose(self, known: Known, count: int, rng: np.random.Generator) -> Sequence[int]:
        """Return the next points of the pass."""
        chosen: list[int] = []
        free = known.free.copy()
        for numerator, denominator in _halvings(known.points.size):
            point = numerator * known.points.size // denominator
            if free[point]:
                free[point] = False
                chosen.append(point)
                if len(chosen) == count:
                    return chosen
        rest = np.flatnonzero(free)[: count - len(chosen)]
        return [*chosen, *map(int, rest)]


def _halvings(size: int) -> list[tuple[int, int]]:
    """Return fractions of a unit in the order 0, 1/2, 1/4, 3/4, 1/8, ... until they are finer than a set of a size.

    >>> _halvings(4)
    [(0, 1), (1, 2), (1, 4), (3, 4)]
    """
    found, denominator = [(0, 1)], 2
    while denominator < 2 * size:
        found.extend((numerator, denominator) for numerator in range(1, denominator, 2))
        denominator *= 2
    return found[: 2 * size]
