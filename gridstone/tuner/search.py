"""Search: the order in which the points of a feasible set are tried. It measures nothing, so a table can drive it.

First the seeds, then points spread over the set, then whatever the sampler makes of the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gridstone.tuner.feasible import FeasibleSet, Mask
from gridstone.tuner.sampler import Observation, Sampler, propose

STARTUP = 10  # points before the sampler's model is asked
POOL = 2048  # points of a branch among which spread ones are looked for


class Search:
    """Proposes points; no point twice, and none that is barred.

    Args:
        points: The feasible set.
        seeds: Points to try first, in this order: defaults, the library call, winners of related problems.
        barred: Points never to try, such as those that failed before.
        sampler: Who proposes once `startup` points are out.
        seed: Equal seeds and equal answers give equal proposals.
        startup: How many points are tried before the sampler is asked.
    """

    def __init__(
        self,
        points: FeasibleSet,
        seeds: Iterable[int] = (),
        barred: Iterable[int] = (),
        sampler: Sampler = Sampler.TPE,
        seed: int = 0,
        startup: int = STARTUP,
    ) -> None:
        self.points = points
        self._sampler, self._seed, self._startup = sampler, seed, startup
        self._free: Mask = np.ones(points.size, dtype=np.bool_)
        self._free[list(barred)] = False
        self._seeds = [point for point in dict.fromkeys(seeds) if self._free[point]]
        self._history: list[Observation] = []
        self._proposed = 0

    @property
    def history(self) -> tuple[Observation, ...]:
        """What was told, in order."""
        return tuple(self._history)

    @property
    def left(self) -> int:
        """How many points were never proposed."""
        return int(self._free.sum())

    def propose(self, count: int) -> tuple[int, ...]:
        """Return up to `count` new points; empty when the set is exhausted. Seeds are not mixed with other points."""
        if self._seeds:
            chosen = tuple(self._seeds[:count])
            del self._seeds[:count]
        elif self._proposed < self._startup:
            chosen = spread(self.points, self._free, min(count, self._startup - self._proposed), self._round())
        else:
            chosen = propose(self._sampler, self.points, self._history, self._free, count, self._round())
        self._free[list(chosen)] = False
        self._proposed += len(chosen)
        return chosen

    def tell(self, point: int, seconds: float | None) -> None:
        """Report what measuring a point gave; None for a failure. Points that were not proposed may be told too."""
        self._free[point] = False
        self._history.append(Observation(point, seconds))

    def _round(self) -> int:
        """Return this proposal's own seed."""
        return int(np.random.SeedSequence([self._seed, self._proposed]).generate_state(1)[0])


def spread(points: FeasibleSet, free: Mask, count: int, seed: int) -> tuple[int, ...]:
    """Return up to `count` free points that fill the set: branches in turn, each point far from those already taken.

    Within a branch, every next point is the one whose nearest taken point is farthest (Gonzalez, 1985), each axis
    scaled to unit length. Branches of a single point are seeds, never spread.
    """
    rng = np.random.default_rng(seed)
    queues: list[list[int]] = []
    for at, branch in enumerate(points.branches):
        rows = points.rows_left(at, free)
        if not rows.size:
            continue
        pool = np.sort(rng.choice(rows, min(POOL, rows.size), replace=False))
        start = points.starts[at]
        taken = np.flatnonzero(~free[start : start + len(branch.rows)])
        scale = 1.0 / np.maximum([len(axis.values) - 1 for axis in branch.axes], 1)
        order = _farthest(branch.rows[pool] * scale, branch.rows[taken[:POOL]] * scale, min(count, pool.size), rng)
        queues.append([start + int(pool[i]) for i in order])
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        chosen.extend(queue.pop(0) for queue in queues if queue)
    return tuple(chosen[:count])


def _farthest(
    pool: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    taken: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    count: int,
    rng: np.random.Generator,
) -> Sequence[int]:
    """Return indices into the pool, each in turn the farthest from everything taken so far."""
    nearest = np.full(len(pool), np.inf)
    for row in taken:
        nearest = np.minimum(nearest, np.abs(pool - row).sum(axis=1))
    order: list[int] = []
    while len(order) < count:
        at = int(np.argmax(nearest)) if taken.size or order else int(rng.integers(len(pool)))
        order.append(at)
        nearest = np.minimum(nearest, np.abs(pool - pool[at]).sum(axis=1))
        nearest[order] = -1.0
    return order
