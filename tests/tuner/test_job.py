import dataclasses
import itertools
import logging

import pytest
import torch
import tuner_plants as planted
from answer_table import LIBRARY, Table, Untouchable, smooth

from gridstone.ir.errors import BuildError, LaunchError, MismatchError, SpecError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache import make
from gridstone.kernel_cache.host import device_name
from gridstone.kernel_cache.records import RecordBook
from gridstone.kernel_cache.store import Store
from gridstone.lower.target import Language
from gridstone.tuner import builds
from gridstone.tuner.measurer import Fault
from gridstone.tuner.outcome import Phase, Stop


class TestWinner:
    @pytest.mark.parametrize("sampler", ["random", "tpe"])
    def test_the_optimum_of_a_table(self, place, sampler):
        table = Table()
        tuned = place(table, sampler=sampler)
        assert tuned.winner.schedule == "knobs(tile=8,stages=2)"
        assert (tuned.winner.status, tuned.raced, tuned.reused) == ("winner", True, False)
        assert len(set(table.screened)) == len(table.screened) == tuned.measured == len(tuned.records)
        assert tuned.winner.samples == place.kept()[0].samples
        assert tuned.library_seconds == pytest.approx(LIBRARY * 1e-3, rel=2.1)
        assert len(tuned.winner.samples) > 7  # the race's, not the screening's

    def test_first_come_the_default_and_the_library(self, place):
        table = Table()
        place(table)
        assert "knobs(tile=1,stages=1)" in table.screened[0]
        assert table.screened[1].startswith("gemm.library.torch")
        assert table.raced[0][:2] == table.screened[1::-1], "the library is the first incumbent"

    def test_the_default_is_that_of_the_recipe_that_claims_the_spec(self, place):
        shy = dataclasses.replace(planted.FAULTY, claims=lambda spec, target: False)
        table = Table(lambda c: LIBRARY if c.is_library else 1.0)
        place(table, recipes=(shy, *planted.KNOBS_AND_LIBRARY))
        assert table.raced[0][1].startswith("gemm.planted.knobs knobs(tile=1,stages=1)")

    def test_noise_is_survived(self, place):
        """Samples off by up to 20 % each, and a pace that changes threefold between rounds."""
        assert place(Table(noise=0.2)).winner.schedule == "knobs(tile=8,stages=2)"

    def test_the_library_stays_when_nothing_beats_it(self, place):
        tuned = place(Table(lambda c: 1.0 if c.is_library else 1.0 + smooth(c)))
        assert tuned.winner.recipe == "gemm.library.torch"
        assert tuned.raced

    def test_a_draw_leaves_the_incumbent(self, place):
        assert place(Table(lambda c: 1.0, noise=0.05)).winner.recipe == "gemm.library.torch"

    def test_the_default_stays_when_nothing_beats_it(self, place):
        def answer(candidate):
            return LIBRARY if candidate.is_library else 1.0

        assert place(Table(answer, noise=0.05)).winner.schedule == "knobs(tile=1,stages=1)"

    def test_deterministic_by_seed(self, place, tmp_path):
        tables = [Table(), Table(), Table()]
        for at, (table, seed) in enumerate(zip(tables, (1, 1, 2), strict=True)):
            root = tmp_path / str(at)
            place(table, seed=seed, store=Store(root, 1 << 30), book=RecordBook(root))
        assert tables[0].screened == tables[1].screened != tables[2].screened


class TestFailures:
    def test_each_costs_itself_only(self, place):
        def answer(candidate):
            if not candidate.is_library and candidate.schedule.stages == 3:
                return MismatchError("wrong by a mile")
            if not candidate.is_library and candidate.schedule.tile == 4:
                return LaunchError("the measuring process was killed by SIGSEGV")
            return smooth(candidate)

        tuned = place(Table(answer), max_evaluations=24)
        assert tuned.winner.schedule == "knobs(tile=8,stages=2)"
        failed = [r for r in tuned.records if r.status == "failed"]
        assert len(failed) >= 3
        assert all("stages=3" in r.schedule or "tile=4" in r.schedule for r in failed)
        assert {r.reason for r in failed if "stages=3" in r.schedule} == {"mismatch: wrong by a mile"}

    def test_they_are_quarantined(self, place):
        def answer(candidate):
            bad = not candidate.is_library and candidate.schedule.tile == 8
            return LaunchError("hangs") if bad else smooth(candidate)

        first = place(Table(answer))
        assert any(r.status == "failed" for r in first.records)
        table = Table(answer)
        place(table, again=True)
        failed = {r.schedule for r in first.records if r.status == "failed"}
        assert not any(schedule in text for schedule in failed for text in table.screened)

    def test_a_changed_recipe_lifts_the_quarantine(self, place, monkeypatch):
        place(Table(lambda c: LaunchError("hangs") if "tile=1,stages=1)" in c.text else smooth(c)))
        monkeypatch.setattr("gridstone.tuner.ledger.recipe_hash", lambda recipe: "changed")
        table = Table()
        place(table)
        assert any("tile=1,stages=1)" in text for text in table.screened)

    def test_builds_that_fail(self, place, monkeypatch):
        def refuse(candidate, spec, store):
            return None if candidate.is_library else BuildError("the compiler refused")

        monkeypatch.setattr(builds, "build", refuse)
        tuned = place(Table(), max_evaluations=6)
        assert tuned.winner.recipe == "gemm.library.torch"
        assert {r.reason for r in tuned.records[1:]} == {"build: the compiler refused"}
        assert (tuned.measured, tuned.raced) == (6, False)

    def test_all_invalid_falls_back_with_one_warning(self, place, caplog):
        with caplog.at_level(logging.WARNING, "gridstone"):
            tuned = place(Table(lambda c: MismatchError("nothing works")))
        assert (tuned.winner.recipe, tuned.winner.status) == ("gemm.library.torch", "failed")
        assert len(caplog.records) == 1
        assert "nothing works" in caplog.text
        assert all(record.status == "failed" for record in place.kept())

    def test_a_library_that_fails_is_no_obstacle(self, place):
        tuned = place(Table(lambda c: MismatchError("rounds too often") if c.is_library else smooth(c)))
        assert tuned.winner.schedule == "knobs(tile=8,stages=2)"
        assert tuned.library_seconds is None

    def test_a_finalist_that_dies_leaves_the_race(self, place):
        class Deadly(Table):
            def race(self, candidates, limits):
                for at, candidate in enumerate(candidates):
                    if "tile=8,stages=2)" in candidate.text:
                        return Fault(at, LaunchError("died in the race"))
                return super().race(candidates, limits)

        tuned = place(Deadly())
        assert tuned.raced
        assert "tile=8,stages=2)" not in tuned.winner.schedule
        assert tuned.winner.recipe == "gemm.planted.knobs"
        (dead,) = [r for r in tuned.records if r.status == "failed"]
        assert dead.schedule == "knobs(tile=8,stages=2)"
        assert dead.reason == "launch: died in the race"

    def test_bugs_are_not_swallowed(self, place):
        with pytest.raises(ZeroDivisionError):
            place(Table(lambda c: ZeroDivisionError()))


class TestLimits:
    def test_evaluations(self, place):
        tuned = place(Table(), max_evaluations=7)
        assert (tuned.measured, tuned.stop) == (7, Stop.EVALUATIONS)

    @pytest.mark.parametrize("budget", [0.05, 0.5, 1.0, 2.0])
    def test_seconds(self, place, budget):
        table = Table(cost=0.1)
        tuned = place(table, budget_seconds=budget)
        assert len(table.screened) >= 2  # library and default, whatever the budget
        assert tuned.seconds <= max(budget, 0.2) + 1e-9
        assert tuned.stop is Stop.BUDGET
        if budget >= 1.0:
            assert tuned.raced  # its time was kept
        assert tuned.winner.status == "winner"

    def test_without_time_to_race_only_the_clearly_better_wins(self, place):
        tuned = place(Table(), budget_seconds=0.05)
        assert tuned.winner.schedule == "knobs(tile=1,stages=1)"
        assert tuned.winner.reason.startswith("not raced")

    def test_a_plateau(self, place):
        tuned = place(Table(lambda c: LIBRARY if c.is_library else 1.0))
        assert tuned.stop is Stop.PLATEAU
        assert tuned.measured < tuned.feasible

    def test_the_set_is_exhausted(self, place):
        sample = itertools.count()
        tuned = place(Table(lambda c: LIBRARY if c.is_library else 5.0 * 0.98 ** next(sample)))
        assert tuned.stop is Stop.EXHAUSTED
        assert tuned.measured == tuned.feasible


class TestRecords:
    def test_a_winner_is_reused_without_measuring(self, place):
        first = place(Table())
        again = place(Untouchable())
        assert (again.reused, again.measured, again.records, again.stop) == (True, 0, (), Stop.REUSED)
        assert again.winner == first.winner

    def test_again_starts_from_the_winner(self, place):
        place(Table())
        table = Table()
        tuned = place(table, again=True)
        assert not tuned.reused
        assert "knobs(tile=8,stages=2)" in table.screened[2]

    def test_other_threads_are_another_problem(self, place):
        place(Table())
        assert not place(Table(), threads=1).reused

    def test_a_stale_winner_is_a_seed_not_an_answer(self, place, monkeypatch):
        place(Table())
        monkeypatch.setattr("gridstone.tuner.ledger.recipe_hash", lambda recipe: "changed")
        table = Table()
        tuned = place(table)
        assert not tuned.reused
        assert "knobs(tile=8,stages=2)" in table.screened[2]
        assert tuned.winner.recipe_hash == "changed"

    def test_the_nearest_m_is_a_seed(self, place):
        near, far = (parse_spec(f"gemm[x: f32({m},64), w: f32(48,64)]") for m in (16, 512))
        place(Table(), spec=near)
        place(Table(lambda c: LIBRARY if c.is_library else 1.0 + abs(c.schedule.tile - 32)), spec=far)
        table = Table()
        place(table)
        assert "knobs(tile=8,stages=2)" in table.screened[2]

    def test_environment_and_proof_are_kept(self, place):
        record = place(Table()).winner
        assert (record.environment.device, record.environment.threads) == (device_name(), 2)
        assert record.environment.torch == torch.__version__
        assert (record.proof.cases, record.proof.worst_element) == (6, 0.5)

    def test_an_interrupt_keeps_what_was_learned(self, place):
        def answer(candidate):
            return KeyboardInterrupt() if len(table.screened) > 12 else smooth(candidate)

        table = Table(answer)
        with pytest.raises(KeyboardInterrupt):
            place(table)
        kept = place.kept()
        assert len(kept) == 12
        assert (kept[0].status, kept[0].reason) == ("winner", "interrupted")
        assert not place(Table()).reused  # a later job goes on


class TestToolchains:
    def test_a_missing_one_leaves_the_library_until_it_is_there(self, place, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(make.TOOLCHAINS[Language.CPP], "missing", lambda: "no compiler", raising=False)
            first = place(Table())
            assert (first.winner.recipe, first.measured) == ("gemm.library.torch", 1)
            assert place(Untouchable()).reused
        tuned = place(Table())
        assert (tuned.reused, tuned.winner.recipe) == (False, "gemm.planted.knobs")

    def test_a_target_of_another_machine_is_refused(self, place, monkeypatch):
        monkeypatch.setattr("gridstone.tuner.job.runs_here", lambda target: False)
        with pytest.raises(LaunchError, match="does not run on this machine"):
            place(Untouchable())
        assert place.kept() == ()


class TestCalling:
    def test_symbolic_specs_are_refused(self, place):
        with pytest.raises(SpecError, match="only static specs are tuned"):
            place(Table(), spec=parse_spec("gemm[x: f32(M,64), w: f32(48,64)]"))

    def test_no_recipe(self, place):
        with pytest.raises(SpecError, match="no recipe computes"):
            place(Table(), recipes=())

    def test_progress(self, place):
        seen = []
        tuned = place(Table(), progress=seen.append)
        assert [seen[0].phase, seen[-1].phase] == [Phase.PREPARE, Phase.DONE]
        assert [p.done for p in seen] == sorted(p.done for p in seen)
        assert all(p.done <= p.total <= tuned.feasible for p in seen)
        assert seen[-1].done == seen[-1].total == tuned.measured
        best = [p.best_seconds for p in seen if p.best_seconds]
        assert best == sorted(best, reverse=True)
        assert seen[-1].library_seconds == pytest.approx(LIBRARY * 1e-3)
