"""Spread: points that fill a feasible set before anything is known of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gridstone.tuner.feasible import FeasibleSet, Mask

POOL = 2048  # points of a branch among which spread ones are looked for


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
    pool: npt.NDArray[np.float64], taken: npt.NDArray[np.float64], count: int, rng: np.random.Generator
) -> Sequence[int]:
    """Return indices into the pool, each in turn the farthest from everything taken so far."""
    nearest = np.full(len(pool), np.inf)
    for row in taken:
        nearest = np.minimum(nearest, np.abs(pool - row).sum(axis=1))
    order: list[int] = []
    while len(order) < count:
        if taken.size or order:  # of those that are equally far, any
            at = int(rng.choice(np.flatnonzero(nearest >= nearest.max() - 1e-9)))
        else:
            at = int(rng.integers(len(pool)))
        order.append(at)
        nearest = np.minimum(nearest, np.abs(pool - pool[at]).sum(axis=1))
        nearest[order] = -1.0
    return order
