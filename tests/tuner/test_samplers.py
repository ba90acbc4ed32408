"""The contract of samplers: what every one of them keeps, asked through Optuna's own interface."""

from __future__ import annotations

import itertools
import typing

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from gridstone.cli.tune import SAMPLERS
from gridstone.lower.schedule import Choice
from gridstone.runtime.tune import Sampling
from gridstone.tuner.feasible import Branch, FeasibleSet
from gridstone.tuner.samplers import Observation, Sampler, make_sampler
from gridstone.tuner.samplers.base import PROMISED, FeasibleSampler
from gridstone.tuner.samplers.pool import best, next_to, pool

STARTUP = 4  # few, so that what is asked is the sampler itself


@pytest.fixture(autouse=True)
def _quick_and_quiet(monkeypatch):
    monkeypatch.setattr("gridstone.tuner.samplers.forest.TREES", 10)  # nothing here depends on how much is learned
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def branch(name, *axes, keep=lambda row: True):
    rows = [row for row in itertools.product(*(range(len(axis.values)) for axis in axes)) if keep(row)]
    return Branch(name, tuple(axes), np.array(rows, dtype=np.int16).reshape(len(rows), len(axes)))


def doubling(field, count):
    return Choice(field, tuple(2**i for i in range(count)))


# One of each kind that templates and recorded tables have.
SETS = {
    "one recipe": lambda: [branch("a", doubling("m", 5), doubling("n", 4), keep=lambda row: sum(row) != 4)],
    "several recipes": lambda: [
        branch("a", doubling("m", 4), doubling("n", 3), keep=lambda row: row[0] >= row[1]),
        branch("b", doubling("m", 5), Choice("depth", (0, 1, 2))),
        branch("library"),
    ],
    "names": lambda: [branch("a", Choice("order", ("row", "column", "z")), Choice("by", ("m", "n")), doubling("m", 3))],
    "switches": lambda: [branch("a", *(Choice(f"s{i}", (False, True)) for i in range(4)), keep=lambda row: any(row))],
    "odd numbers": lambda: [branch("a", Choice("m", (0, 3, 4, 6, 8)), Choice("n", (-2, 0, 7)), Choice("one", (16,)))],
    "single points": lambda: [branch("a"), branch("library"), branch("c", Choice("m", (8,)), Choice("s", (True,)))],
    "one point": lambda: [branch("library")],
}
KINDS = pytest.mark.parametrize("kind", SETS)


def seconds_of(points, point):
    """A smooth table: slower with the distance from some row."""
    at, _ = points.locate(point)
    return 1e-6 * (1.0 + at + sum((ordinal - 1) ** 2 for ordinal in points.ordinals(point)))


class Asked:
    """A study, and a sampler that answers it."""

    def __init__(self, sampler: Sampler, points: FeasibleSet, seed=0, **options):
        self.points = points
        self.sampler = make_sampler(sampler, points, seed, **{"startup": STARTUP, **options})
        self.study = optuna.create_study(sampler=self.sampler)

    def ask(self, count=1):
        """Return trials and their points, asked for together."""
        self.sampler.expect(count)
        trials = [self.study.ask() for _ in range(count)]
        return [(trial, self.sampler.take(trial)) for trial in trials]

    def tell(self, trial, point, fails=lambda point: False):
        if fails(point):
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, seconds_of(self.points, point))

    def run(self, evaluations, batch=1, fails=lambda point: False):
        """Return the points in the order of proposal."""
        order: list[int] = []
        while len(order) < evaluations:
            asked = self.ask(min(batch, evaluations - len(order)))
            for trial, point in asked:
                self.tell(trial, point, fails)
                order.append(point)
        return order


@pytest.mark.parametrize("sampler", list(Sampler), ids=lambda one: one.value)
class TestEverySampler:
    @KINDS
    def test_every_point_comes_once_and_then_none(self, sampler, kind):
        """Breaks when a proposal is infeasible, comes twice, or a point is never reached."""
        points = FeasibleSet(SETS[kind]())
        asked = Asked(sampler, points)
        order = asked.run(points.size, batch=3)
        assert sorted(order) == list(range(points.size))
        with pytest.raises(LookupError, match=f"all {points.size} points"):
            asked.ask()
        for trial, point in zip(asked.study.trials, order, strict=False):
            assert trial.params == asked.sampler.params(point)

    def test_an_exhausted_set_ends_it(self, sampler):
        points = FeasibleSet(SETS["switches"]())
        asked = Asked(sampler, points, barred=(2,))
        assert sorted(asked.run(points.size - 1)) == sorted({*range(points.size)} - {2})
        for _ in range(2):  # also when it is asked again
            with pytest.raises(LookupError, match="points of the set were tried"):
                asked.ask()

    def test_a_barred_set_of_one_point_has_none(self, sampler):
        """Optuna asks no sampler for what has one value."""
        with pytest.raises(LookupError):
            Asked(sampler, FeasibleSet(SETS["one point"]()), barred=(0,)).ask()

    def test_first_come_first_and_barred_never(self, sampler):
        points = FeasibleSet(SETS["several recipes"]())
        barred = (0, 3, 9, 10)
        asked = Asked(sampler, points, first=(7, 3, 7, 24, 1), barred=barred)
        order = asked.run(12)
        assert order[:3] == [7, 24, 1]
        assert not set(barred) & set(order)

    def test_a_batch_is_as_many_different_points(self, sampler):
        """Also behind the startup, and nothing of it is told before all of it was asked for."""
        points = FeasibleSet(SETS["several recipes"]())
        asked = Asked(sampler, points)
        asked.run(STARTUP)
        batch = asked.ask(6)
        assert len({point for _, point in batch}) == 6
        assert not {point for _, point in batch} & {one.point for one in asked.sampler.known(asked.study).history}

    def test_running_trials_are_pending(self, sampler):
        points = FeasibleSet(SETS["one recipe"]())
        asked = Asked(sampler, points)
        asked.run(STARTUP)
        running = [point for _ in range(3) for _, point in asked.ask()]
        known = asked.sampler.known(asked.study)
        assert known.pending == tuple(running)
        assert len(known.history) == STARTUP
        assert not known.free[running].any()
        more = [point for _, point in asked.ask(2)]
        assert len({*running, *more}) == 5

    def test_failures_count_and_stay_away(self, sampler):
        points = FeasibleSet(SETS["one recipe"]())
        asked = Asked(sampler, points)
        order = asked.run(10, fails=lambda point: point % 2 == 0)
        assert len(set(order)) == 10
        told = [(one.point, one.seconds is None) for one in asked.sampler.known(asked.study).history]
        assert told == [(point, point % 2 == 0) for point in order]

    def test_all_failures_are_survived(self, sampler):
        points = FeasibleSet(SETS["one recipe"]())
        assert len(set(Asked(sampler, points).run(10, batch=2, fails=lambda point: True))) == 10

    def test_equal_trials_give_equal_proposals(self, sampler):
        """A job that was killed goes on from its records: they decide, and the seed; not what the sampler remembers."""
        points = FeasibleSet(SETS["several recipes"]())
        one, other, rebuilt, resumed = (Asked(sampler, points, seed=5) for _ in range(4))

        def fails(point):
            return point % 5 == 0

        order = one.run(STARTUP + 4, batch=2, fails=fails)
        assert other.run(STARTUP + 4, batch=2, fails=fails) == order
        for point in order:
            seen = Observation(point, None if fails(point) else seconds_of(points, point))
            rebuilt.study.add_trial(rebuilt.sampler.trial(seen))
        for trial in one.study.trials:  # as they are read from a storage
            resumed.study.add_trial(trial)
        proposed = [[point for _, point in asked.ask(3)] for asked in (one, other, rebuilt, resumed)]
        assert proposed[0] == proposed[1] == proposed[2] == proposed[3]

    def test_seeds_differ(self, sampler):
        """The negative control of the one above."""
        points = FeasibleSet(SETS["one recipe"]())
        orders = {tuple(Asked(sampler, points, seed=seed).run(STARTUP + 2)) for seed in range(3)}
        assert len(orders) > 1

    def test_another_history_gives_other_proposals(self, sampler):
        points = FeasibleSet(SETS["several recipes"]())
        proposals = set()
        for history in ((0, 1, 2, 3, 4), (20, 21, 22, 23, 24)):
            asked = Asked(sampler, points)
            for point in history:
                asked.study.add_trial(asked.sampler.trial(Observation(point, seconds_of(points, point))))
            proposals.add(tuple(point for _, point in asked.ask(3)))
        # What learns nothing only skips what was tried; the grid's next points may be none of either.
        assert len(proposals) == 2 or sampler is Sampler.GRID

    def test_trials_of_another_space_are_ignored(self, sampler):
        """A study may hold trials of another program, or of an earlier version whose points are no longer feasible."""
        points = FeasibleSet(SETS["one recipe"]())
        asked, alone = Asked(sampler, points), Asked(sampler, points)
        gone = dict(asked.sampler.params(0)) | {"a/m": 16, "a/n": 1}  # the row (4, 0): not kept
        distributions = asked.sampler.trial(Observation(0, 1.0)).distributions
        foreign = [
            optuna.trial.create_trial(
                value=1e-9, params={"x": 0.5}, distributions={"x": optuna.distributions.FloatDistribution(0, 1)}
            ),
            optuna.trial.create_trial(value=1e-9, params=gone, distributions=distributions),
            optuna.trial.create_trial(
                value=1e-9,
                params={"recipe": "gone"},
                distributions={"recipe": optuna.distributions.CategoricalDistribution(["gone", "a"])},
            ),
            optuna.trial.create_trial(state=TrialState.FAIL),
        ]
        for trial in foreign:
            asked.study.add_trial(trial)
        known = asked.sampler.known(asked.study)
        assert known.history == known.pending == ()
        assert known.free.all()
        assert asked.run(STARTUP) == alone.run(STARTUP)
        assert len(set(asked.run(3))) == 3

    def test_a_prior_puts_its_best_points_first(self, sampler):
        points = FeasibleSet(SETS["one recipe"]())
        prior = np.array([seconds_of(points, point) for point in range(points.size)])
        prior[1::3] = np.nan
        best_known = int(np.nanargmin(prior))
        order = Asked(sampler, points, prior=prior).run(PROMISED + 4)
        assert order[0] == best_known
        assert np.isfinite(prior[order[:PROMISED]]).all()
        assert len(set(order)) == PROMISED + 4
        order = Asked(sampler, points, prior=prior, barred=(best_known,), first=(2,)).run(3)
        assert order[0] == 2
        assert best_known not in order
        assert prior[order[1]] == np.nanmin(np.where(np.arange(points.size) == best_known, np.nan, prior))

    def test_a_prior_that_knows_nothing_does_no_harm(self, sampler):
        points = FeasibleSet(SETS["one recipe"]())
        for prior in (np.full(points.size, np.nan), np.ones(points.size)):
            order = Asked(sampler, points, prior=prior).run(6)
            assert len(set(order)) == 6

    def test_optuna_drives_it(self, sampler):
        points = FeasibleSet(SETS["several recipes"]())
        asked = Asked(sampler, points)
        order: list[int] = []

        def objective(trial):
            order.append(asked.sampler.take(trial))
            if len(order) % 4 == 0:
                raise ValueError("did not build")
            return seconds_of(points, order[-1])

        asked.study.optimize(objective, n_trials=10, catch=ValueError)
        assert len(set(order)) == len(asked.study.trials) == 10
        assert asked.sampler.known(asked.study).history[3] == Observation(order[3], None)
        fastest = min(seconds_of(points, point) for at, point in enumerate(order, 1) if at % 4)
        assert asked.study.best_value == fastest

    def test_threads_get_different_points(self, sampler):
        """Breaks when one chooses while it is not known yet what another was given."""
        points = FeasibleSet(SETS["several recipes"]())
        asked = Asked(sampler, points)
        order: list[int] = []

        def objective(trial):
            order.append(asked.sampler.take(trial))
            return seconds_of(points, order[-1])

        asked.study.optimize(objective, n_trials=15, n_jobs=5)
        assert len(set(order)) == len(order) == 15

    def test_points_may_be_enqueued(self, sampler):
        """Optuna does not ask a sampler then; the point counts all the same."""
        points = FeasibleSet(SETS["several recipes"]())
        asked = Asked(sampler, points)
        asked.study.enqueue_trial(asked.sampler.params(9))
        assert [point for _, point in asked.ask()] == [9]
        assert asked.sampler.known(asked.study).pending == (9,)
        assert 9 not in asked.run(12)

    def test_a_parameter_of_nobodys_is_refused(self, sampler):
        asked = Asked(sampler, FeasibleSet(SETS["one recipe"]()))
        with pytest.raises(LookupError, match="'x' is no parameter"):
            asked.study.ask().suggest_float("x", 0.0, 1.0)

    def test_slow_and_equal_times_are_survived(self, sampler):
        """A clock that is too coarse gives zeros; a device that hangs, hours."""
        points = FeasibleSet(SETS["one recipe"]())
        for seconds in ([0.0] * 6, [1.0] * 6, [1e-9, 1e5, 0.0, 3.0, 1e-9, 2.0]):
            asked = Asked(sampler, points)
            for point, second in enumerate(seconds):
                asked.study.add_trial(asked.sampler.trial(Observation(point, second)))
            assert len({point for _, point in asked.ask(2)}) == 2


def test_the_names_of_samplers_agree():
    """Breaks when a sampler is added in one place and the others refuse it."""
    names = tuple(one.value for one in Sampler)
    assert names == SAMPLERS == typing.get_args(Sampling)
    points = FeasibleSet(SETS["one point"]())
    assert all(isinstance(make_sampler(one, points), FeasibleSampler) for one in Sampler)


def test_the_pool_is_everything_until_that_is_too_much(monkeypatch):
    """Breaks when a model is not asked about what is next to the best points."""
    points = FeasibleSet(SETS["one recipe"]())
    asked = Asked(Sampler.RANDOM, points)
    asked.run(6)
    known, rng = asked.sampler.known(asked.study), np.random.default_rng(0)
    assert pool(known, rng).tolist() == np.flatnonzero(known.free).tolist()
    monkeypatch.setattr("gridstone.tuner.samplers.pool.SIZE", 2)
    drawn = pool(known, rng)
    assert known.free[drawn].all()
    near = next_to(points, known.free, best(known, 1)[0])
    assert near.size
    assert set(near.tolist()) <= set(drawn.tolist())
    assert len(drawn) == len(set(drawn.tolist()))
