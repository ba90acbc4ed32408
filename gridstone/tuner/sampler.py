"""Samplers: which points to measure next, given what is known. The only file that imports Optuna.

A proposal is a pure function of the feasible set, the history and the seed. The Optuna study is a view of the history,
rebuilt for every proposal: each observation is added to it as a finished trial, Optuna is asked, and its answer is
projected onto the nearest free point. So Optuna never sees an infeasible or repeated point, and a killed job resumes
from its records alone.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from gridstone.tuner.feasible import FeasibleSet, Mask, is_ordered

_BRANCH = "recipe"


class Sampler(Enum):
    """How points are proposed."""

    RANDOM = "random"
    TPE = "tpe"  # tree-structured Parzen estimator (Bergstra et al., 2011), multivariate, one group for each recipe


@dataclass(frozen=True, slots=True)
class Observation:
    """What measuring a point gave.

    Args:
        point: Of the feasible set.
        seconds: Of one call; None for a candidate that failed.
    """

    point: int
    seconds: float | None


def propose(
    sampler: Sampler, points: FeasibleSet, history: Sequence[Observation], free: Mask, count: int, seed: int
) -> tuple[int, ...]:
    """Return up to `count` different free points to measure next; fewer only when no more are free.

    Args:
        sampler: Of Optuna, projected.
        points: The feasible set.
        history: What is known, in the order of measuring.
        free: (size,) True for the points that may be proposed: neither measured, nor being measured, nor barred.
        count: How many.
        seed: Equal arguments give equal proposals.
    """
    left, rng = free.copy(), np.random.default_rng(seed)
    chosen: list[int] = []
    with _quiet():
        study = optuna.create_study(sampler=_optuna_sampler(sampler, seed))
        for observation in history:
            study.add_trial(_trial(points, observation.point, observation.seconds))
        for _ in range(min(count, int(left.sum()))):
            point = _ask(study.ask(), points, left, rng)
            left[point] = False
            chosen.append(point)
    return tuple(chosen)


def _optuna_sampler(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    if sampler is Sampler.RANDOM:
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _ask(trial: Trial, points: FeasibleSet, free: Mask, rng: np.random.Generator) -> int:
    """Return the free point nearest to what a trial suggests."""
    names = [branch.name for branch in points.branches]
    at = names.index(trial.suggest_categorical(_BRANCH, names))
    if not points.rows_left(at, free).size:  # used up: the largest rest stands in for it
        at = max(range(len(names)), key=lambda other: points.rows_left(other, free).size)
    ordinals: list[int] = []
    for name, distribution in _axes(points, at).items():
        if isinstance(distribution, CategoricalDistribution):
            ordinals.append(trial.suggest_categorical(name, distribution.choices))  # pyright: ignore[reportArgumentType]
        else:
            ordinals.append(trial.suggest_int(name, 0, distribution.high))
    return points.project(at, ordinals, free, rng)


def _axes(points: FeasibleSet, branch: int) -> dict[str, CategoricalDistribution | IntDistribution]:
    """Return the distribution over the ordinals of every axis of a branch, by parameter name."""
    of = points.branches[branch]
    return {
        f"{of.name}/{axis.field}": IntDistribution(0, len(axis.values) - 1)
        if is_ordered(axis)
        else CategoricalDistribution(tuple(range(len(axis.values))))
        for axis in of.axes
    }


def _trial(points: FeasibleSet, point: int, seconds: float | None) -> FrozenTrial:
    branch, _ = points.locate(point)
    axes = _axes(points, branch)
    names = CategoricalDistribution([of.name for of in points.branches])
    distributions: dict[str, BaseDistribution] = {_BRANCH: names, **axes}
    params = {_BRANCH: points.branches[branch].name, **dict(zip(axes, points.ordinals(point), strict=True))}
    if seconds is None:
        return create_trial(state=TrialState.FAIL, params=params, distributions=distributions)
    return create_trial(value=seconds, params=params, distributions=distributions)


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
