"""Optuna's own samplers, projected: what they suggest becomes the nearest free point of the feasible set."""

from __future__ import annotations

import bisect
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from gridstone.lower.schedule import Choice
from gridstone.tuner.feasible import FeasibleSet, is_ordered
from gridstone.tuner.samplers.base import FeasibleSampler, Known, Params


class Projected(FeasibleSampler):
    """A sampler of Optuna, asked for each trial once the startup is over.

    Args:
        points, seed: As of `FeasibleSampler`.
        make: Returns the sampler for a seed; each proposal has one of its own, so that it depends on nothing else.
        options: As of `FeasibleSampler`.
    """

    def __init__(
        self, points: FeasibleSet, seed: int = 0, *, make: Callable[[int], BaseSampler], **options: Any
    ) -> None:
        super().__init__(points, seed, **options)
        self._make = make

    def choose(self, known: Known, count: int, rng: np.random.Generator) -> Sequence[int]:
        """Never asked: every trial is a question of its own."""
        raise NotImplementedError

    def _chosen(self, study: Study, trial: FrozenTrial) -> int:
        """Return the free point nearest to what the sampler suggests."""
        known = self.known(study)
        out = len(known.history) + len(known.pending)
        if out < self._startup or any(known.free[point] for point in self.first) or not known.free.any():
            return super()._chosen(study, trial)
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, out]))
        return self._project(known, self._suggested(self._make(int(rng.integers(1 << 31))), study, trial), rng)

    def _suggested(self, of: BaseSampler, study: Study, trial: FrozenTrial) -> Params:
        """Return what a sampler suggests: a recipe and the fields of its schedule, which need not be feasible."""
        found: Params = dict(of.sample_relative(study, trial, of.infer_relative_search_space(study, trial)))
        names = [branch.name for branch in self.points.branches]
        if found.get("recipe") not in names:
            found["recipe"] = of.sample_independent(study, trial, "recipe", CategoricalDistribution(names))
        for name, one in self._axes[names.index(found["recipe"])].items():
            if name not in found:
                found[name] = of.sample_independent(study, trial, name, one)
        return found

    def _project(self, known: Known, suggested: Params, rng: np.random.Generator) -> int:
        names = [branch.name for branch in self.points.branches]
        at = names.index(suggested["recipe"])
        if not self.points.rows_left(at, known.free).size:  # used up: the largest rest stands in for it
            at = max(range(len(names)), key=lambda other: self.points.rows_left(other, known.free).size)
        branch = self.points.branches[at]
        row = [
            nearest_ordinal(axis, suggested[name]) if name in suggested else int(rng.integers(len(axis.values)))
            for name, axis in zip(self._axes[at], branch.axes, strict=True)
        ]
        return self.points.project(at, row, known.free, rng)


def nearest_ordinal(axis: Choice, value: Any) -> int:
    """Return the index of the value nearest to one that need not be among the choices, by ratio for positive numbers.

    >>> from gridstone.lower.schedule import Choice
    >>> [nearest_ordinal(Choice("tile", (1, 2, 4, 8, 64)), value) for value in (1, 3, 23, 22)]
    [0, 2, 4, 3]
    """
    if value in axis.values:
        return axis.values.index(value)
    if not is_ordered(axis):
        return 0
    values = [int(one) for one in axis.values]
    above = min(bisect.bisect(values, value), len(values) - 1)
    below = max(above - 1, 0)
    if values[below] <= 0:
        return below if value - values[below] < values[above] - value else above
    return below if math.log(value / values[below]) < math.log(values[above] / value) else above


class Parzen(Projected):
    """The tree-structured Parzen estimator (Bergstra et al., 2011), multivariate, with a group for each recipe.

    Args:
        points, seed, first, barred, startup: As of `FeasibleSampler`.
    """

    def __init__(self, points: FeasibleSet, seed: int = 0, **options: Any) -> None:
        super().__init__(points, seed, make=_parzen, **options)


def _parzen(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
