"""The budget is a promise: what is dropped to keep it, in which order, and what never is."""

import itertools

import pytest
from answer_table import LIBRARY, Table, smooth
from tuner_plants import SPEC

from gridstone.ir.errors import LaunchError, SpecError
from gridstone.tuner import builds
from gridstone.tuner.final import Standing, affordable, race_seconds
from gridstone.tuner.measure import FAR, SLOW_SECONDS
from gridstone.tuner.measurer import Fault
from gridstone.tuner.outcome import Stop
from gridstone.tuner.pace import SLACK_SECONDS, SLACK_SHARE
from gridstone.tuner.spawned import Late
from gridstone.tuner.worker import Open, Screen, Worker

HANG = 10.0


def limit(budget):
    return budget + max(SLACK_SECONDS, SLACK_SHARE * budget)


def becomes(seconds, after):
    """The cost of a candidate: little, and much after some of them."""
    tried = itertools.count()
    return lambda candidate: seconds if next(tried) >= after else 0.3


def slow_library(seconds, others=0.5):
    return lambda candidate: seconds if candidate.is_library else others


class TestPromise:
    @pytest.mark.parametrize("budget", [10.0, 30.0, 60.0])
    @pytest.mark.parametrize(
        "table",
        [
            lambda: Table(cost=0.7, prepare=4.0),
            lambda: Table(cost=slow_library(6.0), prepare=2.0),
            lambda: Table(cost=lambda c: 1e9 if "stages=2" in c.text else 0.5, prepare=3.0),
            lambda: Table(lambda c: LaunchError("dies") if "stages=2" in c.text else smooth(c), cost=0.5, prepare=3.0),
            lambda: Table(cost=becomes(3.0, after=10)),
        ],
        ids=["slow to start", "slow library", "hangs", "crashes", "slower and slower"],
    )
    def test_a_job_ends_in_time_and_has_tried_the_library(self, place, table, budget):
        known = table()
        tuned = place(known, budget_seconds=budget)
        assert tuned.seconds <= limit(budget)
        assert tuned.library_seconds == pytest.approx(LIBRARY * 1e-3, rel=2.1)
        assert all("library" in race[0] for race in known.raced)

    def test_what_the_end_cuts_short_is_nobody_s_fault(self, place):
        table = Table(cost=becomes(9.0, after=8))  # a hang would last longer
        tuned = place(table, budget_seconds=8.0)
        assert table.asked[-1][1] < HANG
        assert (tuned.stop, tuned.measured) == (Stop.BUDGET, len(table.screened) - 1)
        assert all(record.status != "failed" for record in tuned.records)

    def test_no_build_begins_after_the_limit(self, place, monkeypatch):
        table, begun = Table(), []

        def build(candidate, spec, store):
            begun.append(table.now)
            table.now += 4.0 if len(begun) > 2 else 0.0

        monkeypatch.setattr(builds, "build", build)
        monkeypatch.setattr(builds, "usable_cores", lambda: 1)
        monkeypatch.setattr("gridstone.tuner.pace.usable_cores", lambda: 8)
        place(table, budget_seconds=10.0)
        assert len(begun) == 2 + 3  # at 0, 4 and 8 seconds; sixteen were wanted
        assert max(begun) <= limit(10.0)

    def test_a_new_worker_s_preparation_is_counted(self, place):
        """Breaks when the race begins in the last seconds with a dead worker, which then prepares the problem anew."""
        table = Table(prepare=4.0)
        table.answer = lambda c: LaunchError("dies") if table.now > 5.5 and not table.raced else smooth(c)
        tuned = place(table, budget_seconds=8.0)
        assert any(record.status == "failed" for record in tuned.records)
        assert not tuned.raced
        assert tuned.seconds <= limit(8.0)

    def test_no_budget_asks_the_records_only(self, place):
        table = Table()
        tuned = place(table, budget_seconds=0.0)
        assert (table.screened, tuned.records, place.kept(), tuned.stop) == ([], (), (), Stop.BUDGET)
        assert (tuned.winner.status, tuned.winner.schedule) == ("failed", "knobs(tile=1,stages=1)")
        assert tuned.winner.reason == "not measured: the budget was used up"
        best = place(table).winner
        assert place(Table(), budget_seconds=0.0).reused
        assert place(Table(), budget_seconds=0.0, again=True).winner == best

    def test_several_problems_share_it(self, monkeypatch):
        from gridstone.runtime import tune as runtime

        now, given = [0.0], []

        def job(spec, targets, *, budget_seconds, **rest):
            given.append(budget_seconds)
            now[0] += 7.0 if budget_seconds else 0.0

        monkeypatch.setattr(runtime, "run_job", job)
        monkeypatch.setattr(runtime.time, "monotonic", lambda: now[0])
        list(runtime.run_tunings([SPEC] * 4, [], seconds=10.0))
        assert given == [2.5, 1.0, 0.0, 0.0]  # then only the records are asked


class TestLibrary:
    def test_it_comes_after_the_default_and_one_call_may_be_enough(self, place):
        table = Table(lambda c: LIBRARY if c.is_library else 400.0)
        place(table, max_evaluations=6)
        at = next(at for at, (text, *_) in enumerate(table.asked) if "library" in text)
        assert at == 1
        assert [enough for _, _, enough in table.asked if enough is not None] == [pytest.approx(FAR * 0.4)]

    def test_a_fast_call_is_always_timed_in_full(self, place):
        table = Table()
        place(table, max_evaluations=6)
        assert table.asked[1][2] == SLOW_SECONDS

    @pytest.mark.parametrize(("enough", "calls", "samples"), [(0.0, 2, 1), (1e3, None, 7), (None, None, 7)])
    def test_a_hopeless_call_is_made_twice(self, cache, threads, enough, calls, samples):
        """Once to be checked, once to be timed."""
        from gridstone.kernel_cache.toolchain_library import library_call

        right, made = library_call(SPEC), []

        def plant(spec, schedule, target):
            return lambda *tensors, out=None: made.append(1) or right(*tensors, out=out)

        threads(1)
        worker = Worker(lambda reply: None, {"gemm.library.torch": plant})
        from gridstone.ir.text import print_spec
        from gridstone.tuner.protocol import Entrant

        worker.answer(Open(print_spec(SPEC), ("lane16",), 1, (1, 2), str(cache), 1 << 30))
        reply = worker.answer(Screen(Entrant("gemm.library.torch", "torch()", "library:torch"), 7, enough))
        assert len(reply.samples) == samples
        assert reply.evidence.cases == (1 if samples == 1 else 4)
        assert calls is None or len(made) == calls

    def test_its_patience_ends_with_the_budget(self, place):
        table = Table(cost=slow_library(1e9))
        tuned = place(table, budget_seconds=30.0)
        assert HANG <= table.asked[1][1] <= limit(30.0)
        (library,) = [r for r in tuned.records if r.recipe == "gemm.library.torch"]
        assert (library.status, library.reason.split(" within")[0]) == ("failed", "launch: no answer")
        assert tuned.winner.recipe == "gemm.planted.knobs"

    def test_a_slow_one_makes_nobody_patient_with_the_others(self, place):
        table = Table(cost=slow_library(8.0))
        place(table, budget_seconds=100.0)
        assert {deadline for text, deadline, _ in table.asked if "library" not in text} == {HANG}


def standing(point, seconds, wall):
    return Standing(point, None, (seconds,), None, None, wall)


class TestRace:
    def test_the_slowest_challengers_stay_out_first_and_no_baseline(self):
        entrants = [standing(at, seconds, 2.0) for at, seconds in enumerate([9.0, 5.0, 1.0, 2.0, 3.0])]
        for count in (5, 4, 3):
            assert affordable(entrants, (0, 1), race_seconds(entrants[:count])) == tuple(entrants[:count])
            assert len(affordable(entrants, (0, 1), race_seconds(entrants[:count]) - 0.1)) in (0, count - 1)
        assert affordable(entrants, (0, 1), race_seconds(entrants[:3]) - 0.1) == ()
        assert affordable(entrants[:2], (0, 1), race_seconds(entrants[:2])) == tuple(entrants[:2])
        assert affordable(entrants[:1], (0,), 1e9) == ()

    def test_too_few_rounds_decide_nothing(self, place):
        class Short(Table):
            def race(self, candidates, limits):
                return super().race(candidates, type(limits)(3, limits.seconds, limits.latest, limits.deadline))

        tuned = place(Short(), max_evaluations=24)
        assert (tuned.raced, tuned.winner.reason) == (False, "not raced: short of time")
        assert tuned.winner.schedule != "torch()", "the screening has shown that the library is slower"

    @pytest.mark.parametrize(("budget", "blamed"), [(1e3, True), (10.0, False)])
    def test_a_race_that_the_end_cuts_short_blames_nobody(self, place, budget, blamed):
        class Stuck(Table):
            def race(self, candidates, limits):
                self.limits.append(limits)
                self.now += limits.deadline
                return Fault(len(candidates) - 1, Late("no answer"))

        table = Stuck(cost=0.5)
        tuned = place(table, budget_seconds=budget, max_evaluations=12)
        assert any(record.status == "failed" for record in tuned.records) == blamed
        assert tuned.winner.status == "winner"
        if not blamed:
            assert tuned.seconds <= limit(budget) + race_seconds([standing(0, 1.0, 0.5)] * 6)


def test_threads_must_be_positive(place):
    with pytest.raises(SpecError, match=r"cannot be tuned for -1 threads.*give 1 or more"):
        place(Table(), threads=-1)
