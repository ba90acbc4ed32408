import pytest
import torch

from gridstone.tuner.measure import (
    BLOCK_SECONDS,
    DRIFT,
    FAR,
    FEWEST_ROUNDS,
    MIB,
    REPEATS,
    SLOW_SECONDS,
    Rotation,
    calls_per_sample,
    copies_needed,
    last_level_cache,
    make_sentinel,
    race,
    screen,
    time_sample,
)


class FakeTimer:
    """A clock that only the callables move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spends(self, seconds):
        def call(*tensors):
            self.now += seconds() if callable(seconds) else seconds

        return call


def rotation(copies=4):
    return Rotation((torch.zeros(8),), copies)


class TestRotation:
    def test_every_copy_is_its_own_memory_and_comes_round(self):
        turning = rotation(4)
        first, second = turning.take(4), turning.take(4)
        places = [tensors[0].data_ptr() for tensors in first]
        assert len(set(places)) == 4
        assert [tensors[0].data_ptr() for tensors in second] == places

    def test_it_goes_on_where_it_stopped(self):
        turning, other = rotation(4), rotation(4)
        places = [t[0].data_ptr() for t in other.take(4)]
        got = [turning.take(3), turning.take(3)]
        own = [t[0].data_ptr() for t in got[0] + got[1]]
        assert own[4] == own[0]
        assert own[3] not in own[:3]
        assert len(places) == 4

    @pytest.mark.parametrize("size", [1, 1000, MIB, 9 * MIB, 63 * MIB, 100 * MIB, 600 * MIB])
    @pytest.mark.parametrize("cache", [0, 8 * MIB, 32 * MIB, 256 * MIB])
    def test_copies_outgrow_the_cache_within_the_cap(self, size, cache):
        copies = copies_needed(size, cache, threads=2)
        assert copies >= 1
        assert copies == 1 or copies * size <= 512 * MIB
        if 100_000 < size < 50 * MIB:
            assert copies * size >= min(max(64 * MIB, 2 * cache), 460 * MIB)

    def test_reads_the_largest_cache(self, tmp_path):
        for at, text in enumerate(["48K\n", "32768K\n", "1M\n", "nonsense\n"]):
            (tmp_path / f"index{at}").mkdir()
            (tmp_path / f"index{at}" / "size").write_text(text)
        assert last_level_cache(tmp_path) == 32 * MIB
        assert last_level_cache(tmp_path / "nowhere") == 0


class TestSamples:
    def test_a_sample_is_the_mean_of_its_calls(self):
        timer = FakeTimer()
        steps = iter([1.0, 2.0, 3.0, 6.0])
        assert time_sample(timer.spends(lambda: next(steps)), rotation(), 4, timer) == 3.0

    @pytest.mark.parametrize("seconds", [1e-6, 1e-5, 3e-4, 2e-3, 0.1, 2.0])
    def test_a_sample_lasts_and_visits_every_copy_where_that_is_cheap(self, seconds):
        timer = FakeTimer()
        calls, estimate = calls_per_sample(timer.spends(seconds), rotation(16), timer)
        assert estimate == pytest.approx(seconds)
        assert calls * seconds >= 1e-3
        assert calls >= 16 or 16 * seconds > 50e-3

    def test_a_callable_that_takes_no_time_ends(self):
        timer = FakeTimer()
        calls, _ = calls_per_sample(timer.spends(0.0), rotation(), timer)
        assert calls == 1 << 16


class TestScreen:
    def test_the_first_sample_is_dropped(self):
        timer = FakeTimer()
        steps = iter([9e-3] * 3 + [2e-3] * 7)  # two estimates and a dropped sample are slow
        block = screen(timer.spends(lambda: next(steps)), rotation(1), 7, timer, lambda: 1.0)
        assert block.samples == pytest.approx([2e-3] * 7)

    def test_a_steady_clock_voids_nothing(self):
        timer = FakeTimer()
        block = screen(timer.spends(1e-3), rotation(), 5, timer, lambda: 1.0)
        assert (len(block.samples), block.voided, block.drift) == (5, 0, 0.0)

    def test_drift_voids_a_block_once(self):
        timer = FakeTimer()
        ticks = iter([1.0, 1.1, 1.1, 1.1])
        block = screen(timer.spends(1e-3), rotation(), 5, timer, lambda: next(ticks))
        assert (block.voided, block.drift, len(block.samples)) == (1, 0.0, 5)

    def test_restless_clocks_end_after_the_repeats(self):
        timer = FakeTimer()
        now = [1.0]

        def sentinel():
            now[0] *= 1.2
            return now[0]

        block = screen(timer.spends(1e-3), rotation(), 5, timer, sentinel)
        assert block.voided == REPEATS
        assert block.drift > DRIFT

    def test_slow_calls_are_sampled_less(self):
        timer = FakeTimer()
        assert len(screen(timer.spends(BLOCK_SECONDS), rotation(), 7, timer, lambda: 1.0).samples) == 1
        block = screen(timer.spends(0.3), rotation(), 7, timer, lambda: 1.0)
        assert len(block.samples) == 3
        assert timer.now < 2 * BLOCK_SECONDS + 1.0

    def test_the_sentinel_measures_something(self):
        ticks = iter(range(1000))
        assert make_sentinel(lambda: float(next(ticks)))() == 1.0


class TestRace:
    def test_entrants_take_turns(self):
        timer = FakeTimer()
        shared = rotation()
        turns = []
        entrants = [(timer.spends(s), shared) for s in (1e-3, 1.1e-3, 1.2e-3)]
        samples = race(entrants, 6, 100.0, timer, turns.append)
        assert turns == [0, 1, 2] * 8  # a warm-up, a dropped round, six that count
        assert [len(row) for row in samples] == [6, 6, 6]
        assert samples[1] == pytest.approx([1.1e-3] * 6)

    def test_who_loses_every_round_by_far_leaves(self):
        timer = FakeTimer()
        samples = race([(timer.spends(s), rotation()) for s in (5e-3, 1e-3, 1.1e-3)], 20, 100.0, timer, lambda at: None)
        assert [len(row) for row in samples] == [FEWEST_ROUNDS, 20, 20]

    def test_time_ends_it_but_not_before_a_test_is_possible(self):
        timer = FakeTimer()
        samples = race([(timer.spends(s), rotation()) for s in (1.0, 1.1)], 50, 3.0, timer, lambda at: None)
        assert [len(row) for row in samples] == [FEWEST_ROUNDS, FEWEST_ROUNDS]

    def test_what_is_slow_and_far_behind_is_called_twice(self):
        """Once to warm up, once in the round that shows it; breaks when a library call of seconds runs five rounds."""
        timer, calls = FakeTimer(), []
        far = timer.spends(lambda: calls.append(1) or FAR * SLOW_SECONDS)
        samples = race([(far, rotation()), (timer.spends(1e-3), rotation())], 20, 9.0, timer, lambda at: None)
        assert ([len(row) for row in samples], len(calls)) == ([1, 20], 2)

    @pytest.mark.parametrize("slow", [0.9 * SLOW_SECONDS, 4.9 * 0.3])
    def test_what_is_fast_or_near_runs_the_fewest_rounds(self, slow):
        """One slow round may be an accident of the machine: it decides only about calls that are far too slow."""
        timer = FakeTimer()
        entrants = [(timer.spends(s), rotation()) for s in (slow, 1e-3 if slow < SLOW_SECONDS else 0.3)]
        assert len(race(entrants, 20, 1.0, timer, lambda at: None)[0]) == FEWEST_ROUNDS

    def test_one_accident_makes_nobody_leave(self):
        timer, steps = FakeTimer(), iter([1e-3] * 80 + [2.0] + [1e-3] * 8000)
        entrants = [(timer.spends(lambda: next(steps)), rotation()), (timer.spends(1e-3), rotation())]
        assert [len(row) for row in race(entrants, 8, 100.0, timer, lambda at: None)] == [8, 8]

    def test_the_latest_end_comes_before_the_fewest_rounds(self):
        timer = FakeTimer()
        entrants = [(timer.spends(s), rotation()) for s in (1.0, 1.1)]
        samples = race(entrants, 50, 0.0, timer, lambda at: None, latest=6.0)
        assert [len(row) for row in samples] == [2, 2]

    def test_a_common_slowdown_cancels_in_ratios(self):
        timer = FakeTimer()
        ratios = [1.0, 3.0, 0.5, 2.0, 1.0, 4.0]

        def pace():
            return ratios[int(timer.now * 10) % len(ratios)]

        a = (timer.spends(lambda: 1e-3 * pace()), rotation(1))
        b = (timer.spends(lambda: 1.1e-3 * pace()), rotation(1))
        first, second = race([a, b], 40, 1e9, timer, lambda at: None)
        within = sum(1.09 < y / x < 1.11 for x, y in zip(first, second, strict=True))
        assert within >= 35
