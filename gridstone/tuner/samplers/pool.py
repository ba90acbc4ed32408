"""The pool: free points that a model is asked about, all of them unless there are too many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gridstone.tuner.feasible import FeasibleSet
from gridstone.tuner.samplers.base import Known

SIZE = 20_000
PARENTS = 8  # best points whose neighbours are always asked about
REACH = 2  # steps that a neighbour is away at most


def pool(known: Known, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return the free points, or a sample of them and those next to the best ones that were measured."""
    free = np.flatnonzero(known.free)
    if free.size <= SIZE:
        return free
    drawn = rng.choice(free, SIZE, replace=False)
    near = [next_to(known.points, known.free, point) for point in best(known, PARENTS)]
    return np.unique(np.concatenate([drawn, *near])).astype(np.intp)


def best(known: Known, count: int) -> list[int]:
    """Return the fastest points that were measured, the best first."""
    valid = [(one.seconds, one.point) for one in known.history if one.seconds is not None]
    return [point for _, point in sorted(valid)[:count]]


def next_to(points: FeasibleSet, free: npt.NDArray[np.bool_], point: int, reach: int = REACH) -> npt.NDArray[np.intp]:
    """Return the free points of the same recipe within some steps of a point."""
    at, row = points.locate(point)
    rows = points.rows_left(at, free)
    steps = points.branches[at].steps(points.branches[at].rows[row].tolist(), rows)
    return points.starts[at] + rows[steps <= reach]
