import itertools

import numpy as np
import pytest

from gridstone.tuner.verdict import beats, clearly_below, sign_test, winner


def test_sign_test_by_counting():
    for rounds in range(1, 9):
        for wins in range(rounds + 1):
            at_least = sum(sum(signs) >= wins for signs in itertools.product((0, 1), repeat=rounds))
            assert sign_test(wins, rounds) == pytest.approx(at_least / 2**rounds)


class TestBeats:
    def test_needs_more_than_luck(self):
        assert beats([0.9] * 5, [1.0] * 5)
        assert not beats([0.9] * 4, [1.0] * 4)
        assert not beats([0.9] * 7 + [1.1] * 3, [1.0] * 10)

    def test_ties_and_silence_do_not_win(self):
        assert not beats([1.0] * 20, [1.0] * 20)
        assert not beats([], [1.0])

    def test_pairs_rounds(self):
        """A machine that slows down for both must not hide, nor make, a difference."""
        pace = np.geomspace(1.0, 10.0, 15)
        assert beats(0.95 * pace, pace)
        assert not beats(1.05 * pace, pace)

    def test_rarely_wins_among_equals(self):
        rng = np.random.default_rng(0)
        won = sum(beats(rng.normal(1, 0.1, 21), rng.normal(1, 0.1, 21)) for _ in range(500))
        assert won <= 0.06 * 500


class TestWinner:
    def test_the_incumbent_stays_unless_it_is_beaten(self):
        assert winner([[1.0] * 9, [1.0] * 9, [1.0] * 9], [0, 1], paired=True) == 0

    def test_a_challenger_must_beat_every_baseline(self):
        library, default = [2.0] * 9, [1.0] * 9
        assert winner([library, default, [1.5] * 9], [0, 1], paired=True) == 1
        assert winner([library, default, [0.5] * 9], [0, 1], paired=True) == 2

    def test_the_fastest_sure_one_wins_not_a_lucky_one(self):
        lucky = [0.5] * 5 + [3.0] * 4
        assert winner([[1.0] * 9, lucky, [0.8] * 9], [0], paired=True) == 2

    def test_rows_of_who_left_early_still_pair(self):
        assert winner([[5.0] * 5, [1.0] * 21, [0.9] * 21], [0, 1], paired=True) == 2

    def test_no_valid_baseline(self):
        assert winner([[1.0] * 9, [0.5] * 9], [], paired=True) == 1

    def test_unpaired_samples_must_not_overlap(self):
        assert winner([[1.0, 1.2], [0.9, 1.05]], [0], paired=False) == 0
        assert winner([[1.0, 1.2], [0.8, 0.95]], [0], paired=False) == 1
        assert not clearly_below([], [1.0])


def test_an_incumbent_that_left_the_race_early_does_not_win():
    library = [50.9e-3] * 7
    default = [6.7e-3] * 6 + [60e-3] + [6.7e-3] * 14  # slower once, in the rounds that they shared
    assert winner([library, default], [0, 1], paired=True) == 1


def test_a_challenger_wins_when_every_incumbent_left_the_race_early():
    library, default, challenger = [9.0] * 5, [3.0] * 5, [1.0] * 21
    assert winner([library, default, challenger], [0, 1], paired=True) == 2


def test_a_round_cut_short_is_not_leaving_early():
    library, challenger = [1.0] * 20, [1.1] * 21
    assert winner([challenger, library], [1], paired=True) == 1
