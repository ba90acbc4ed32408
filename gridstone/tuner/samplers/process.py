"""The Gaussian process sampler: measures where an improvement is expected to be largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from gridstone.tuner.feasible import FeasibleSet
from gridstone.tuner.features import Features
from gridstone.tuner.gaussian import Matrix, Vector, fit
from gridstone.tuner.samplers.base import FeasibleSampler, Known
from gridstone.tuner.samplers.pool import pool
from gridstone.tuner.samplers.score import scores

MOST = 400  # measured points that a process is fitted to: its cost grows with their cube
# Shares of the measured points whose times a model is told apart; all slower ones count as equally slow. Models that
# look at everything learn where the slow regions are, those that look at the best half what makes the fast ones faster:
# taking turns, they do not get stuck where one of them is mistaken. docs/decisions/0011 has the measurements.
SHARES = (0.9, 0.5, 1.0, 0.7)


class Process(FeasibleSampler):
    """Expected improvement (Jones, Schonlau and Welch, 1998) under Gaussian processes over the logarithm of time.

    The points of a batch are chosen one after the other, each as if those before it had been measured and had given
    what was expected of them (Ginsbourger, Le Riche and Carraro, 2010, the "kriging believer").

    Args:
        points, seed, first, barred, startup, prior: As of `FeasibleSampler`.
    """

    def __init__(self, points: FeasibleSet, seed: int = 0, **options: Any) -> None:
        super().__init__(points, seed, **options)
        self._features = Features(points, self.prior)

    def choose(self, known: Known, count: int, rng: np.random.Generator) -> Sequence[int]:
        """Return the points where the most is to be gained."""
        open_points = pool(known, rng)
        places, chosen = self._features.of(open_points), list[int]()
        for turn in range(count):
            share = SHARES[(len(known.history) + turn) % len(SHARES)]
            pending = [*known.pending, *(int(open_points[at]) for at in chosen)]
            gain = self._gain(known, share, pending, places)
            gain[chosen] = -math.inf
            ties = np.flatnonzero(gain == gain.max())
            chosen.append(int(ties[0] if ties.size == 1 else rng.choice(ties)))
        return [int(open_points[at]) for at in chosen]

    def _gain(self, known: Known, share: float, pending: Sequence[int], places: Matrix) -> Vector:
        """Return the improvement that is expected at places, as if pending points were measured already."""
        measured, values = scores(known.history, share, MOST)
        if len(measured) < 2 or values.max() == values.min():
            return np.zeros(len(places))
        model = fit(self._features.of(measured), values)
        if pending:
            model = model.believing(self._features.of(pending))
        mean, variance = model.predict(places)
        return expected_improvement(float(values.min()), mean, variance)


def expected_improvement(best: float, mean: Vector, variance: Vector) -> npt.NDArray[np.float64]:
    """Return by how much values are expected to fall below the best one."""
    spread = np.sqrt(variance)
    z = (best - mean) / spread
    return spread * (z * ndtr(z) + np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi))
