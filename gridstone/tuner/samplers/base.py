"""The interface of samplers: an Optuna sampler that moves in a feasible set.

Whoever asks a study for a trial gets a point of the set that was neither measured nor is being measured: an infeasible
or repeated one never leaves here. A proposal depends on the study's trials and the seed alone, so that a job that was
killed goes on from its records. Parameters are the recipe and the fields of its schedule, under names that tell the
recipe.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from gridstone.lower.schedule import Choice
from gridstone.tuner.feasible import FeasibleSet, Mask, is_ordered
from gridstone.tuner.spread import spread

STARTUP = 10  # points that are spread over the set before the history is asked
PROMISED = 4  # points that are tried first because a prior promises the most of them
STRANGERS = 2  # points that are spread over the set beside those
APART = 2  # steps between two promised points
_BRANCH = "recipe"
Params = dict[str, Any]
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observation:
    """What measuring a point gave.

    Args:
        point: Of the feasible set.
        seconds: Of one call; None for a candidate that failed.
    """

    point: int
    seconds: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a sampler chooses by.

    Args:
        points: The feasible set.
        history: What was measured, in order.
        pending: Points that are being measured.
        free: (size,) True for the points that may be chosen.
    """

    points: FeasibleSet
    history: tuple[Observation, ...]
    pending: tuple[int, ...]
    free: Mask


class FeasibleSampler(BaseSampler, abc.ABC):
    """Chooses free points of a feasible set. A sampler serves one study: it remembers which points its trials are.

    Args:
        points: The set.
        seed: Equal seeds and equal studies give equal choices.
        first: Points to choose before all others, in this order.
        barred: Points never to choose.
        startup: How many points are out before `choose` is asked; those before it are spread over the set.
        prior: (size,) seconds that are believed of each point beforehand, NaN where nothing is: of a model, of a
            sibling device. The best of them are tried first, and fewer are spread over the set.
    """

    def __init__(
        self,
        points: FeasibleSet,
        seed: int = 0,
        *,
        first: Sequence[int] = (),
        barred: Sequence[int] = (),
        startup: int = STARTUP,
        prior: Vector | None = None,
    ) -> None:
        self.points, self.prior = points, prior
        self._seed, self._startup = seed, startup
        self._axes = tuple(_distributions(points, at) for at in range(len(points.branches)))
        self._open: Mask = np.ones(points.size, dtype=np.bool_)
        self._open[list(barred)] = False
        promising = () if prior is None else promised(points, prior, self._open)
        self.first = tuple(point for point in dict.fromkeys((*first, *promising)) if self._open[point])
        if prior is not None:
            self._startup = min(startup, len(self.first) + STRANGERS)
        self._queue: list[int] = []
        self._numbers: dict[int, int] = {}  # points of trials by number
        self._batch = 1
        self._lock = threading.RLock()  # a study may ask from several threads: none chooses before another's is known

    @abc.abstractmethod
    def choose(self, known: Known, count: int, rng: np.random.Generator) -> Sequence[int]:
        """Return `count` different free points, fewer only when no more are free; the first is asked for first."""

    def expect(self, count: int) -> None:
        """Say how many trials will be asked for before one of them is told: they are chosen together."""
        self._batch = max(1, count)
        self._queue = []

    def known(self, study: Study) -> Known:
        """Return what a study tells about the set."""
        history: list[Observation] = []
        pending: list[int] = []
        free = self._open.copy()
        for trial in study.get_trials(deepcopy=False):
            point = self._point(trial)
            if point is None:
                continue
            free[point] = False
            if trial.state is TrialState.RUNNING:
                pending.append(point)
            elif trial.state is TrialState.COMPLETE:
                history.append(Observation(point, trial.value))
            elif trial.state is TrialState.FAIL:
                history.append(Observation(point, None))
        return Known(self.points, tuple(history), tuple(pending), free)

    def take(self, trial: Trial) -> int:
        """Suggest every parameter of a trial; return the point that they are.

        Raises:
            LookupError: No point is free.
        """
        if self.points.size == 1:
            _ = trial.relative_params  # Optuna asks no sampler where nothing can be chosen: the point would come twice
        names = [branch.name for branch in self.points.branches]
        at = names.index(str(trial.suggest_categorical(_BRANCH, names)))
        params: Params = {_BRANCH: names[at]}
        for name, distribution in self._axes[at].items():
            if isinstance(distribution, IntDistribution):
                low, high = distribution.low, distribution.high
                params[name] = trial.suggest_int(name, low, high, log=distribution.log)
            else:
                params[name] = trial.suggest_categorical(name, distribution.choices)
        point = self._find(params)
        assert point is not None, f"{params} is no feasible point"
        return point

    def trial(self, observation: Observation) -> FrozenTrial:
        """Return what was measured as a finished trial, for a study to add."""
        at, _ = self.points.locate(observation.point)
        names = CategoricalDistribution([branch.name for branch in self.points.branches])
        distributions: dict[str, BaseDistribution] = {_BRANCH: names, **self._axes[at]}
        params = self.params(observation.point)
        if observation.seconds is None:
            return create_trial(state=TrialState.FAIL, params=params, distributions=distributions)
        return create_trial(value=observation.seconds, params=params, distributions=distributions)

    def params(self, point: int) -> Params:
        """Return the parameters of a point."""
        at, _ = self.points.locate(point)
        branch = self.points.branches[at]
        values = (axis.values[i] for axis, i in zip(branch.axes, self.points.ordinals(point), strict=True))
        return {_BRANCH: branch.name, **dict(zip(self._axes[at], values, strict=True))}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every parameter of every recipe: all of a point is chosen at once."""
        names = CategoricalDistribution([branch.name for branch in self.points.branches])
        every: dict[str, BaseDistribution] = {_BRANCH: names}
        for axes in self._axes:
            every |= axes
        return every

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """Return the parameters of the next point.

        Raises:
            LookupError: No point is free.
        """
        with self._lock:
            point = self._chosen(study, trial)
            self._numbers[trial.number] = point
        return self.params(point)

    def _chosen(self, study: Study, trial: FrozenTrial) -> int:
        """Return the next point, which is free."""
        known = self.known(study)
        self._queue = [point for point in self._queue if known.free[point]]
        if not self._queue:
            self._queue = self._next(known)
        if not self._queue:
            raise LookupError(f"all {self.points.size} points of the set were tried")
        return self._queue.pop(0)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse a parameter that is none of the set's."""
        raise LookupError(f"{param_name!r} is no parameter of the feasible set")

    def _next(self, known: Known) -> list[int]:
        out = len(known.history) + len(known.pending)
        first = [point for point in self.first if known.free[point]][: self._batch]
        if first:
            return first
        seed = int(np.random.SeedSequence([self._seed, out]).generate_state(1)[0])
        if out < self._startup:
            return list(spread(self.points, known.free, min(self._batch, self._startup - out), seed))
        count = min(self._batch, int(known.free.sum()))
        return list(self.choose(known, count, np.random.default_rng(seed))) if count else []

    def _point(self, trial: FrozenTrial) -> int | None:
        """Return the point of a trial; None when it is none of this set's, as one of another version."""
        if trial.number not in self._numbers:
            point = self._find(trial.params)
            if point is None:
                return None
            self._numbers[trial.number] = point
        return self._numbers[trial.number]

    def _find(self, params: Params) -> int | None:
        names = [branch.name for branch in self.points.branches]
        if params.get(_BRANCH) not in names:
            return None
        at = names.index(params[_BRANCH])
        axes = self.points.branches[at].axes
        try:
            row = [axis.values.index(params[name]) for name, axis in zip(self._axes[at], axes, strict=True)]
        except (KeyError, ValueError):
            return None
        return self.points.find(names[at], row)


def _distributions(points: FeasibleSet, branch: int) -> dict[str, CategoricalDistribution | IntDistribution]:
    of = points.branches[branch]
    return {f"{of.name}/{axis.field}": distribution(axis) for axis in of.axes}


def distribution(axis: Choice) -> CategoricalDistribution | IntDistribution:
    """Return what Optuna is told of a choice: numbers are a range, by their ratios when they are positive."""
    if not is_ordered(axis):
        return CategoricalDistribution(axis.values)
    values = [int(value) for value in axis.values]
    return IntDistribution(min(values), max(values), log=min(values) > 0 and max(values) > min(values))


def promised(points: FeasibleSet, prior: Vector, free: Mask) -> list[int]:
    """Return the free points of which a prior promises the most, not all of them next to each other.

    The best one comes first. Of the others each is some steps away from those before it: if the best one disappoints,
    so will what is beside it.
    """
    chosen: list[int] = []
    order = np.argsort(np.where(free, prior, np.nan), kind="stable")
    for point in order[: int(np.isfinite(prior[free]).sum())]:
        at, row = points.locate(int(point))
        branch = points.branches[at]
        near = (
            points.locate(one)[0] == at
            and branch.steps(points.ordinals(one), np.array([row], dtype=np.intp))[0] < APART
            for one in chosen
        )
        if not any(near):
            chosen.append(int(point))
        if len(chosen) == PROMISED:
            break
    return chosen
