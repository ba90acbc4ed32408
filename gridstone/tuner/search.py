"""Search: the order in which the points of a feasible set are tried. It measures nothing, so a table can drive it.

First the seeds, then points spread over the set, then whatever the sampler makes of the history. The Optuna study
behind it is a view of what was measured: it is made anew from that whenever a job goes on.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import Trial, TrialState

from gridstone.tuner.feasible import FeasibleSet
from gridstone.tuner.samplers import DEFAULT, Observation, Sampler, make_sampler
from gridstone.tuner.samplers.base import STARTUP

__all__ = ["STARTUP", "Observation", "Sampler", "Search"]


class Search:
    """Proposes points; no point twice, and none that is barred.

    Args:
        points: The feasible set.
        seeds: Points to try first, in this order: defaults, the library call, winners of related problems.
        barred: Points never to try, such as those that failed before.
        sampler: Who proposes once `startup` points are out.
        seed: Equal seeds and equal answers give equal proposals.
        startup: How many points are tried before the sampler is asked.
        prior: (size,) seconds that are believed of each point beforehand, NaN where nothing is.
    """

    def __init__(
        self,
        points: FeasibleSet,
        seeds: Iterable[int] = (),
        barred: Iterable[int] = (),
        sampler: Sampler = DEFAULT,
        seed: int = 0,
        startup: int = STARTUP,
        prior: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.points = points
        self._sampler = make_sampler(
            sampler, points, seed, first=tuple(seeds), barred=tuple(barred), startup=startup, prior=prior
        )
        with _quiet():
            self._study = optuna.create_study(sampler=self._sampler)
        self._trials: dict[int, Trial] = {}

    @property
    def history(self) -> tuple[Observation, ...]:
        """What was told, in order."""
        return self._sampler.known(self._study).history

    @property
    def left(self) -> int:
        """How many points were never proposed."""
        return int(self._sampler.known(self._study).free.sum())

    def propose(self, count: int) -> tuple[int, ...]:
        """Return up to `count` new points; empty when the set is exhausted. Seeds are not mixed with other points."""
        known = self._sampler.known(self._study)
        seeds = sum(bool(known.free[point]) for point in self._sampler.first)
        count = min(count, seeds or int(known.free.sum()))
        chosen: list[int] = []
        with _quiet():
            self._sampler.expect(count)
            for _ in range(count):
                trial = self._study.ask()
                point = self._sampler.take(trial)
                self._trials[point] = trial
                chosen.append(point)
        return tuple(chosen)

    def tell(self, point: int, seconds: float | None) -> None:
        """Report what measuring a point gave; None for a failure. Points that were not proposed may be told too."""
        with _quiet():
            trial = self._trials.pop(point, None)
            if trial is None:
                self._study.add_trial(self._sampler.trial(Observation(point, seconds)))
            elif seconds is None:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, seconds)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna, and leave its verbosity as the program around us set it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
