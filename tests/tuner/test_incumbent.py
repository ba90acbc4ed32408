"""What an earlier job has found: who may take its place, and what a job that ends early leaves behind."""

import threading

import msgspec
import pytest
from answer_table import LIBRARY, Table, Untouchable, smooth

from gridstone.ir.errors import GridstoneError, MismatchError
from gridstone.kernel_cache import make
from gridstone.kernel_cache.host import host_target
from gridstone.kernel_cache.records import PARTIAL, UNRACED, RecordBook
from gridstone.kernel_cache.store import Store
from gridstone.lower.target import Language, parse_target
from gridstone.tuner.job import SAVE_SECONDS
from gridstone.tuner.outcome import Phase, Stop

BEST = "knobs(tile=8,stages=2)"


def dies_after(count, error):
    """A table whose measurements end with an error."""
    table = Table()
    table.answer = lambda c: error if len(table.screened) > count else smooth(c)
    return table


class TestPlace:
    @pytest.mark.parametrize("count", [0, 1, 2, 5])
    def test_an_interrupt_leaves_the_winner(self, place, count):
        """Breaks when the first few candidates of a search that was broken off replace the winner of a whole one."""
        first = place(Table()).winner
        with pytest.raises(KeyboardInterrupt):
            place(dies_after(count, KeyboardInterrupt()), again=True)
        assert place.kept()[0] == first
        assert sum(record.status == "winner" for record in place.kept()) == 1

    def test_no_time_to_race_leaves_the_winner(self, place):
        first = place(Table()).winner
        tuned = place(Table(), again=True, budget_seconds=0.15)
        assert not tuned.raced
        assert tuned.winner == place.kept()[0] == first

    def test_it_has_to_be_beaten(self, place):
        """Another that is as fast does not take its place."""
        first = place(Table(lambda c: LIBRARY if c.is_library else 1.0 + ("tile=4," not in c.text)))
        table = Table(lambda c: LIBRARY if c.is_library else 1.0, noise=0.05)
        assert place(table, again=True).winner.schedule == first.winner.schedule
        assert first.winner.schedule in table.raced[0][1]

    def test_it_may_be_beaten(self, place):
        place(Table(lambda c: LIBRARY if c.is_library else 1.0 + ("tile=4," not in c.text)))
        assert place(Table(), again=True).winner.schedule == BEST

    def test_one_that_fails_now_is_replaced(self, place):
        place(Table())
        table = Table(lambda c: MismatchError("wrong today") if BEST in c.text else smooth(c))
        tuned = place(table, again=True, budget_seconds=0.25)
        assert tuned.winner.schedule != BEST
        assert place.kept()[0].schedule == tuned.winner.schedule

    def test_another_target_has_winners_of_its_own(self, place):
        """Breaks when tuning for AVX2 makes calls for this CPU's widest target use an AVX2 kernel."""
        narrow = parse_target("cpp:generic")
        assert narrow != host_target()
        first = place(Table()).winner
        other = place(Table(), target=narrow)
        assert not other.reused
        assert other.winner.target == str(narrow)
        assert place.kept()[0] == first
        assert place.kept(target=narrow)[0] == other.winner

    def test_a_missing_toolchain_does_not_depose_it(self, place, monkeypatch):
        """Its artefact may be in the cache."""
        first = place(Table()).winner
        monkeypatch.setattr(make.TOOLCHAINS[Language.CPP], "missing", lambda: "no compiler", raising=False)
        tuned = place(Table())
        assert tuned.winner == place.kept()[0] == first
        assert {record.recipe for record in tuned.records} == {"gemm.library.torch"}


class TestShortOfTime:
    def test_a_larger_budget_searches_on_and_the_same_does_not(self, place):
        """Breaks when a winner that was never raced is final."""
        first = place(Table(), budget_seconds=0.15)
        assert (first.stop, first.winner.reason, first.winner.budget) == (Stop.BUDGET, UNRACED, 0.15)
        assert first.winner.doubt == UNRACED
        assert place(Untouchable(), budget_seconds=0.15).winner == first.winner
        table = Table()
        second = place(table, budget_seconds=4.0)
        assert (second.reused, second.raced) == (False, True)
        assert first.winner.schedule in " ".join(table.raced[0])
        assert second.winner.doubt == ""

    def test_so_it_is_when_part_was_searched(self, place):
        first = place(Table(), budget_seconds=1.5)
        assert (first.stop, first.raced, first.winner.reason) == (Stop.BUDGET, True, PARTIAL)
        assert first.measured < first.feasible
        for budget in (1.5, 1.0, 0.0):
            assert place(Untouchable(), budget_seconds=budget).reused
        second = place(Table())
        assert (second.reused, second.winner.schedule, second.winner.reason) == (False, BEST, "")
        assert place(Untouchable(), budget_seconds=1e6).reused, "the search came to its own end"

    def test_what_cannot_be_raced_again_settles_the_larger_budget_too(self, place):
        """Breaks when every run with that budget searches, finds no time to race, and leaves the record as it was."""
        place(Table(), budget_seconds=0.15)
        second = place(Table(), budget_seconds=0.2)
        assert (second.reused, second.raced) == (False, False)
        assert (place.kept()[0], second.winner.budget) == (second.winner, 0.2)
        assert place(Untouchable(), budget_seconds=0.2).reused

    def test_a_short_search_takes_nothing_from_one_that_ended(self, place):
        place(Table())
        assert place(Table(), again=True, budget_seconds=1.5).winner.reason == ""
        assert place(Untouchable(), budget_seconds=1e6).reused

    def test_a_record_without_a_budget_is_searched_on(self, place):
        """One of an older version."""
        first = place(Table(), budget_seconds=0.15).winner
        old = msgspec.structs.replace(first, budget=None)
        place.book.put(old.spec, old.environment.device, 2, (old,))
        assert not place(Table(), budget_seconds=0.15).reused
        assert place(Untouchable(), budget_seconds=0.15).reused

    def test_the_share_that_was_stated_decides(self, place):
        """Breaks when what other problems leave of their shares makes a second run with one budget search again."""
        place(Table(), budget_seconds=1.5, stated_seconds=2.0)
        assert place(Untouchable(), budget_seconds=9.0, stated_seconds=2.0).reused
        assert place(Untouchable(), budget_seconds=1.0, stated_seconds=9.0).reused, "there is less"
        assert not place(Table(), budget_seconds=4.0, stated_seconds=9.0).reused


class TestEnd:
    @pytest.mark.parametrize("error", [GridstoneError("cannot be measured"), ZeroDivisionError(), SystemExit(3)])
    def test_whatever_ends_a_job_what_was_learned_is_kept(self, place, error):
        with pytest.raises(type(error)):
            place(dies_after(12, error))
        kept = place.kept()
        assert len(kept) == 12
        assert (kept[0].status, kept[0].reason) == ("winner", "interrupted")
        assert not place(Table()).reused

    def test_a_job_that_is_killed_loses_little(self, place):
        """The book is written while the search goes on."""
        seen = []

        def look(progress):
            if progress.phase is Phase.BUILD:
                seen.append((table.now, len(place.kept())))

        table = Table(cost=SAVE_SECONDS / 3)
        place(table, progress=look)
        assert all(kept for now, kept in seen if now > 2 * SAVE_SECONDS)
        assert any(now > 2 * SAVE_SECONDS for now, _ in seen)
        assert place.kept()[0].reason == ""


def test_two_jobs_on_one_folder_both_end_and_lose_nothing(place, cache):
    ready, tuned = threading.Barrier(2), {}

    def job(seed):
        table = Table(seed=seed)
        table.open = lambda problem: ready.wait(30)  # both have read the book, neither has written
        own = {"store": Store(cache, 1 << 30), "book": RecordBook(cache)}
        tuned[seed] = place(table, seed=seed, max_evaluations=16, **own)

    jobs = [threading.Thread(target=job, args=(seed,)) for seed in (1, 2)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join(60)
    kept = place.kept()
    tried = [{record.schedule for record in tuned[seed].records} for seed in (1, 2)]
    assert {record.schedule for record in kept} == tried[0] | tried[1]
    assert tried[0] != tried[1]
    assert [record.status for record in kept].count("winner") == 1
    assert kept[0].schedule in {one.winner.schedule for one in tuned.values()}
