"""Replay: its measures against brute force, its runs' laws, and the recorded spaces where they are at hand."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest

from gridstone.lower.schedule import Choice
from gridstone.tuner.feasible import Branch, FeasibleSet
from gridstone.tuner.replay import (
    FINALISTS,
    RACED,
    SCREENED,
    Run,
    fractions,
    prior_of,
    random_best,
    regret,
    replay,
    runs,
    scores,
)
from gridstone.tuner.samplers import Sampler
from gridstone.tuner.search import Search
from gridstone.tuner.table import Table, read_table

EPS = float(np.finfo(np.float64).eps)
nan = math.nan


def small(seconds, samples=None):
    """A table with one number as its parameter."""
    size = len(seconds)
    branch = Branch("table", (Choice("a", tuple(range(1, size + 1))),), np.arange(size, dtype=np.int16)[:, None])
    runs = tuple(np.array(one) for one in (samples or [[]] * size))
    return Table("small", FeasibleSet([branch]), np.array(seconds, dtype=float), runs, "ms")


def grid(side=7, at=(2, 4), noise=0.0, failing=lambda row: False):
    """A smooth bowl with its optimum at some row."""
    rows = np.array(list(itertools.product(range(side), repeat=2)), dtype=np.int16)
    axes = tuple(Choice(name, tuple(2**i for i in range(side))) for name in "mn")
    seconds = 1.0 + 0.1 * ((rows - np.array(at)) ** 2).sum(axis=1)
    seconds = np.array([nan if failing(row) else value for row, value in zip(rows.tolist(), seconds, strict=True)])
    rng = np.random.default_rng(0)
    samples = tuple(
        value * (1 + noise * rng.standard_normal(8)) if value == value else np.empty(0) for value in seconds
    )
    return Table("grid", FeasibleSet([Branch("table", axes, rows)]), seconds, samples, "ms")


def ran(*points, winner=None, table):
    return Run(0, points, table.seconds[list(points)], winner)


MIXED = small([4.0, nan, 2.0, 9.0, nan, 3.0])


class TestRandomBest:
    @pytest.mark.parametrize(
        "seconds", [[4.0, nan, 2.0, 9.0, nan, 3.0], [1.0, 1.0, 2.0, nan, 1.0, 5.0], [3.0], [2.0, nan]]
    )
    def test_is_the_mean_over_all_orders(self, seconds):
        table = small(seconds)
        worst = np.nanmax(table.seconds)
        known = np.where(np.isnan(table.seconds), worst, table.seconds)
        orders = np.array(list(itertools.permutations(known)))
        wanted = np.minimum.accumulate(orders, axis=1).mean(axis=0)
        found = random_best(table, 100)
        assert found.shape == wanted.shape
        assert found == pytest.approx(wanted, rel=EPS * len(orders))

    def test_falls_from_the_mean_to_the_optimum(self):
        table = grid()
        expected = random_best(table, table.points.size)
        assert expected[0] == pytest.approx(table.seconds.mean())
        assert expected[-1] == table.optimum
        assert (np.diff(expected) <= 0).all()
        assert expected.min() >= table.optimum
        assert random_best(table, 5).tolist() == expected[:5].tolist()


class TestMeasures:
    def test_fractions_are_of_the_best_valid_one_so_far(self):
        found = fractions(MIXED, ran(1, 3, 0, 4, 2, 5, table=MIXED))
        assert found.tolist() == [0.0, 2 / 9, 2 / 4, 2 / 4, 1.0, 1.0]

    def test_fractions_are_of_true_times_whatever_was_measured(self):
        run = Run(0, (3, 2), np.array([0.1, 99.0]), 3)
        assert fractions(MIXED, run).tolist() == [2 / 9, 1.0]

    def test_score_is_1_when_the_optimum_comes_first(self):
        assert scores(MIXED, ran(2, 0, 3, table=MIXED)).tolist() == [1.0] * 3

    def test_score_is_negative_of_a_bad_search(self):
        """Also of one that knows nothing valid: it is as if it had the slowest."""
        assert (scores(MIXED, ran(3, 1, 4, table=MIXED)) < 0).all()
        blind = scores(MIXED, ran(1, 4, table=MIXED))
        assert blind.tolist() == scores(MIXED, ran(3, 1, table=MIXED)).tolist()

    def test_score_is_0_in_the_mean_over_all_orders(self):
        every = [scores(MIXED, ran(*order, table=MIXED))[:-1] for order in itertools.permutations(range(6))]
        assert np.abs(np.mean(every, axis=0)).max() <= EPS * len(every)

    def test_score_is_about_0_for_the_random_sampler(self):
        """As it is by itself, with no points spread over the set before it is asked."""
        table = grid()

        def mean_score(seed, barred=()):
            search = Search(table.points, barred=barred, sampler=Sampler.RANDOM, seed=seed, startup=0)
            order = []
            for _ in range(12):
                (point,) = search.propose(1)
                search.tell(point, table.seconds[point])
                order.append(point)
            return scores(table, ran(*order, table=table)).mean()

        found = [mean_score(seed) for seed in range(100)]
        error = np.std(found) / math.sqrt(len(found))
        assert abs(np.mean(found)) < 4 * error
        # The negative control: whoever knows the slowest third is told apart from one who knows nothing.
        slow = np.argsort(table.seconds)[-table.points.size // 3 :].tolist()
        assert np.mean([mean_score(seed, slow) for seed in range(100)]) > 4 * error

    @pytest.mark.parametrize("seconds", [[1.0, 1.0, 3.0], [0.1, 0.1, 0.1, 0.7, 0.3, nan], [1 / 3] * 6])
    def test_score_is_finite_where_nothing_is_left_to_find(self, seconds):
        """Breaks when random search has the optimum too, and P divides by what rounding left."""
        table = small(seconds)
        for order in itertools.islice(itertools.permutations(range(len(seconds))), 0, None, 5):
            found = scores(table, ran(*order, table=table))
            assert np.isfinite(found).all()
            best = np.argmax(fractions(table, ran(*order, table=table)) == 1.0)
            assert (np.abs(found[best:]) <= 1).all()

    def test_regret_is_what_the_winner_loses(self):
        assert regret(MIXED, ran(3, 0, 2, winner=2, table=MIXED)) == 0.0
        assert regret(MIXED, ran(3, 0, 2, winner=0, table=MIXED)) == 1.0
        assert regret(MIXED, ran(3, 0, winner=0, table=MIXED)) == 0.0  # nobody evaluated the optimum
        assert regret(MIXED, ran(1, 4, winner=None, table=MIXED)) == 0.0


class TestRuns:
    @pytest.mark.parametrize("noise", [False, True])
    @pytest.mark.parametrize("sampler", [Sampler.PROCESS, Sampler.RANDOM])
    def test_equal_seeds_give_equal_runs(self, sampler, noise):
        table = grid(noise=0.1, failing=lambda row: row[0] == 3)

        def told(seed):
            run = replay(table, 24, seed, sampler=sampler, noise=noise)
            return run.points, run.values.tobytes(), run.winner

        assert told(3) == told(3)
        assert told(3) != told(4)

    def test_evaluates_as_often_as_asked_and_at_most_everything(self):
        table = grid(side=3, at=(1, 1), failing=lambda row: row == [0, 0])
        for evaluations in (1, 4, 7, 9, 50):
            run = replay(table, evaluations, 0, sampler=Sampler.RANDOM)
            assert len(run.points) == len(run.values) == len(set(run.points)) == min(evaluations, 9)
            np.testing.assert_array_equal(run.values, table.seconds[list(run.points)])

    def test_without_noise_the_winner_is_the_fastest(self):
        table = grid(failing=lambda row: sum(row) % 3 == 0)
        for seed in range(5):
            run = replay(table, 15, seed, sampler=Sampler.RANDOM)
            assert table.seconds[run.winner] == np.nanmin(run.values)
            assert regret(table, run) == 0.0

    def test_nobody_wins_when_all_fail(self):
        table = small([nan] * 3 + [1.0])
        run = replay(table, 3, 0, first=(0, 1, 2), batch=1)
        assert run.points == (0, 1, 2)
        assert run.winner is None
        assert fractions(table, run).tolist() == [0.0] * 3

    def test_noise_draws_what_was_recorded_and_nothing_else(self):
        """Every run is a power of two of its own: a mean tells which were drawn."""
        samples = [[1.0, 8.0], [64.0, 512.0], [], []]
        table = small([4.0, 300.0, 7.0, nan], samples)
        possible = [
            {sum(drawn) / SCREENED for drawn in itertools.combinations_with_replacement(one, SCREENED)}
            for one in samples
        ]
        seen = set()
        for seed in range(20):
            run = replay(table, 4, seed, sampler=Sampler.RANDOM, noise=True)
            for point, value in zip(run.points, run.values, strict=True):
                if point < 2:
                    assert value in possible[point]
                    seen.add(value)
                else:
                    np.testing.assert_array_equal(value, table.seconds[point])
        assert len(seen) > 4

    def test_noise_measures_finalists_again(self):
        """Point 0 is the fastest by far and in the first round often looks slow: the race sees that."""
        lucky = [[1.0] * 5 + [40.0] * 5, *[[30.0] * 10] * (FINALISTS - 1)]
        table = small([20.5, *[30.0] * (FINALISTS - 1)], lucky)
        wins = [replay(table, FINALISTS, seed, sampler=Sampler.RANDOM, noise=True).winner == 0 for seed in range(40)]
        screened = np.array(list(itertools.product([1.0, 40.0], repeat=SCREENED))).mean(axis=1)
        assert np.mean(wins) > np.mean(screened < 30.0)  # what one round would have found
        assert RACED > SCREENED
        assert FINALISTS > 1

    def test_first_points_come_first(self):
        table = grid()
        run = replay(table, 8, 0, first=(40, 3, 40), sampler=Sampler.GRID)
        assert run.points[:2] == (40, 3)

    def test_runs_are_replays(self):
        table = grid()
        found = list(runs(table, 14, (4, 1), sampler=Sampler.PROCESS))
        assert [run.seed for run in found] == [4, 1]
        assert [run.points for run in found] == [replay(table, 14, seed).points for seed in (4, 1)]


class TestWarmStart:
    @pytest.mark.parametrize("sampler", list(Sampler))
    def test_from_itself_the_optimum_comes_first(self, sampler):
        table = grid(failing=lambda row: row == [2, 5])
        run = next(runs(table, 6, [0], sampler=sampler, source=table))
        assert fractions(table, run)[0] == 1.0

    def test_what_failed_there_is_believed_slow_and_what_is_unknown_nothing(self):
        table = grid(side=4, at=(1, 1))
        source = grid(side=3, at=(2, 2), failing=lambda row: row == [0, 1])
        prior = prior_of(table, source)
        for point in range(table.points.size):
            row = table.points.ordinals(point)
            at = source.points.find("table", row) if max(row) < 3 else None
            if at is None:
                assert math.isnan(prior[point])
            else:
                assert prior[point] == (source.seconds[at] if row != (0, 1) else np.nanmax(source.seconds))
        assert np.isnan(prior).sum() == 16 - 9

    @pytest.mark.parametrize("sampler", [Sampler.PROCESS, Sampler.EVOLUTION])
    def test_from_a_misleading_table_the_optimum_is_found_still(self, sampler):
        """The source has its optimum where this table is slowest."""
        table, source = grid(at=(0, 0)), grid(at=(6, 6))
        for run in runs(table, 35, range(2), sampler=sampler, source=source):
            assert run.points[0] == table.points.size - 1  # it was misled
            assert fractions(table, run)[-1] == 1.0


FOLDER = os.environ.get("GRIDSTONE_RECORDED_SPACES", "")
SPACES = {
    "convolution_milo_A4000_T4.json.gz": 4362,
    "convolution_milo_W6600_T4.json.gz": 4362,
    "convolution_milo_W7800_T4.json.gz": 4362,
    "dedispersion_milo_MI250X_T4.json.gz": 11130,
}


@pytest.mark.skipif(not FOLDER, reason="GRIDSTONE_RECORDED_SPACES does not name the folder of recorded spaces")
class TestRecordedSpaces:
    @pytest.mark.parametrize("name", SPACES)
    def test_are_read_whole(self, name):
        table = read_table(Path(FOLDER) / name)
        assert table.points.size == SPACES[name]
        assert 0 < table.optimum < np.nanmedian(table.seconds)
        valid = np.isfinite(table.seconds)
        for point in np.flatnonzero(valid)[:: max(1, int(valid.sum()) // 50)]:
            # The time of a configuration is the mean of its runs.
            assert table.seconds[point] == pytest.approx(table.samples[point].mean())
            assert table.find(table.configuration(int(point))) == point

    def test_the_default_search_beats_random_search(self):
        table = read_table(Path(FOLDER) / "convolution_milo_A4000_T4.json.gz")

        def score(sampler, seeds):
            return np.mean([scores(table, run).mean() for run in runs(table, 40, seeds, sampler=sampler)])

        assert score(Sampler.PROCESS, range(2)) > score(Sampler.RANDOM, range(10))

    def test_a_sibling_device_gives_a_head_start(self):
        table, source = (
            read_table(Path(FOLDER) / f"convolution_milo_{name}_T4.json.gz") for name in ("W7800", "W6600")
        )
        cold, warm = (
            [fractions(table, run)[-1] for run in runs(table, 8, range(3), source=one)] for one in (None, source)
        )
        assert np.mean(warm) > np.mean(cold)


def test_the_folder_of_recorded_spaces_holds_them():
    """Breaks when the variable is set and every test above would fail for want of a file."""
    if FOLDER:
        assert set(SPACES) <= {path.name for path in Path(FOLDER).iterdir()}
