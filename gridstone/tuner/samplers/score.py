"""Scores: what a model is taught of a measurement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gridstone.tuner.samplers.base import Observation

LEAST = 1e-12  # seconds: a clock may be too coarse to see anything


def scores(
    history: Sequence[Observation], share: float, most: int | None = None
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return measured points and their scores: the logarithm of seconds, bounded by that of the slowest of a share.

    How slow a slow point is says little about where the fast ones are, and much of what a model has to learn would be
    about that. A failure is as bad as that bound.

    Args:
        history: What was measured.
        share: Of the measured points, the best first, that are told apart.
        most: The best ones are kept when there are more.

    >>> found = [Observation(3, 1.0), Observation(1, 2.0), Observation(7, None), Observation(5, 100.0)]
    >>> points, values = scores(found, 0.5)
    >>> points.tolist(), np.exp(values).round(1).tolist()
    ([3, 1, 7, 5], [1.0, 2.0, 2.0, 2.0])
    """
    seconds = np.array([np.inf if one.seconds is None else max(one.seconds, LEAST) for one in history])
    points = np.array([one.point for one in history], dtype=np.intp)
    valid = seconds[np.isfinite(seconds)]
    if not valid.size:
        return points, np.zeros(len(points))
    bound = float(np.quantile(seconds, share, method="lower"))
    values = np.log(np.minimum(seconds, bound if np.isfinite(bound) else valid.max()))
    if most is not None and len(points) > most:
        kept = np.sort(np.argsort(values, kind="stable")[:most])
        points, values = points[kept], values[kept]
    return points, values
