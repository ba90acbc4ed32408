"""The forest sampler: measures what a classifier takes for one of the best.

Likelihood-free Bayesian optimisation (Song, Yu, Neiswanger and Ermon, ICML 2022): a classifier that parts the best
share of what was measured from the rest, weighted by how far below the border each lies, estimates the expected
improvement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from gridstone.tuner.feasible import FeasibleSet
from gridstone.tuner.features import Features, Matrix
from gridstone.tuner.samplers.base import FeasibleSampler, Known
from gridstone.tuner.samplers.pool import pool
from gridstone.tuner.samplers.score import scores

TREES = 100
GOOD = 0.15  # share of the measured points that counts as the best
FEWEST_GOOD = 3
SEEN = 0.5  # share of the measured points whose times weigh
ALIKE = 0.5  # how much the likeness to points of the same batch costs a point


class Forest(FeasibleSampler):
    """A random forest over the features and the sums of their pairs, which are the logarithms of products.

    Points of a batch are kept apart: each one's score falls with the share of trees that put it into the same leaf as a
    point that was chosen before.

    Args:
        points, seed, first, barred, startup: As of `FeasibleSampler`.
    """

    def __init__(self, points: FeasibleSet, seed: int = 0, **options: Any) -> None:
        super().__init__(points, seed, **options)
        self._features = Features(points, self.prior)

    def choose(self, known: Known, count: int, rng: np.random.Generator) -> Sequence[int]:
        """Return the points that are most likely among the best."""
        open_points = pool(known, rng)
        measured, values = scores(known.history, SEEN)
        good = _good(values)
        if good.all() or not good.any():
            return [int(point) for point in rng.choice(open_points, count, replace=False)]
        weights = np.ones(len(values))
        weights[good] = values[~good].min() - values[good]
        weights[good] = np.maximum(weights[good] / weights[good].mean(), 1e-3)
        forest = RandomForestClassifier(TREES, random_state=int(rng.integers(1 << 31)), n_jobs=1)
        forest.fit(_pairs(self._features.of(measured)), good, sample_weight=weights)
        places = _pairs(self._features.of(open_points)).astype(np.float32)
        chance = np.asarray(forest.predict_proba(places))[:, 1] + 1e-9 * rng.random(len(places))
        front = np.argsort(-chance)[: max(64, 8 * count)]
        leaves, score = forest.apply(places[front]), chance[front].copy()
        chosen: list[int] = []
        for _ in range(min(count, len(front))):
            at = int(np.argmax(score))
            chosen.append(at)
            score -= ALIKE * chance[front] * (leaves == leaves[at]).mean(axis=1) / count
            score[chosen] = -math.inf
        return [int(open_points[front[at]]) for at in chosen]


def _good(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which values are among the best."""
    if not len(values):
        return np.zeros(0, dtype=np.bool_)
    count = min(max(FEWEST_GOOD, math.ceil(GOOD * len(values))), len(values) - 1)
    return values < np.sort(values)[count]


def _pairs(places: Matrix) -> Matrix:
    first, second = np.triu_indices(places.shape[1], 1)
    return np.hstack([places, places[:, first] + places[:, second]])
