"""The worker as a process: what candidates do to it, and what that costs."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tuner_plants as planted

from gridstone.ir.errors import GridstoneError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.host import LIBRARY, host_target
from gridstone.kernel_cache.records import RecordBook
from gridstone.kernel_cache.store import Store
from gridstone.tuner.candidate import Candidate
from gridstone.tuner.job import tune
from gridstone.tuner.measurer import Fault, Problem, RaceLimits, SubprocessMeasurer
from gridstone.tuner.outcome import Stop

SLOW_LIBRARY = Candidate(planted.library.RECIPE, planted.library.Torch(), LIBRARY)
PLANTS = "tuner_plants:plants"

EXPECTED = {
    "abort": "was killed by SIGABRT",
    "segfault": "was killed by SIGSEGV",
    "exit": "ended with status 0",
    "killed": "was killed by SIGKILL",
    "loop": "no answer within",
    "wrong": "times its bound",
    "nan": "differ in being NaN",
    "outside": "after the output were overwritten",
    "before": "1 elements before and 0 after the output were overwritten",
    "stray": "times its bound",
    "input": "operand x was changed",
    "replies": "answered garbage",
    "raises": "RuntimeError: a planted failure",
    "memory": "allocate memory",
    "late": "times its bound",
}
WRONG = ("wrong", "nan", "outside", "before", "stray", "input", "late")


def faulty(name):
    return Candidate(planted.FAULTY, planted.Fault(name), host_target())


def knobs(tile, stages):
    return Candidate(planted.KNOBS, planted.Knobs(tile, stages), host_target())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def measurer(root):
    one = SubprocessMeasurer(PLANTS)
    one.open(Problem(planted.SPEC, ("lane16",), 1, (1, 2), Store(root, 1 << 30)))
    yield one
    one.close()


@pytest.fixture(scope="module")
def tuned(root):
    """One job over every fault."""
    one = SubprocessMeasurer(PLANTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gridstone.tuner.pace.PLATEAU_FEWEST", 1000)
        yield tune(
            planted.SPEC, [host_target()], recipes=(planted.FAULTY, planted.library.RECIPE), worker=one,
            hang_seconds=2.0, threads=1, budget_seconds=300.0, store=Store(root, 1 << 30), book=RecordBook(root),
        )  # fmt: skip
    one.close()


class TestJob:
    @pytest.mark.parametrize("fault", EXPECTED)
    def test_a_fault_costs_that_candidate_only(self, tuned, fault):
        (found,) = [r for r in tuned.records if r.schedule == f"fault(fault={fault})"]
        assert (found.status, found.samples) == ("failed", ())
        assert EXPECTED[fault] in found.reason
        assert found.reason.split(":")[0] == ("mismatch" if fault in WRONG else "launch")

    def test_it_ends_with_the_right_winner(self, tuned):
        assert (tuned.winner.status, tuned.winner.schedule) == ("winner", "fault(fault=fast)")
        assert tuned.raced
        assert tuned.winner.proof.worst_element <= 1

    def test_the_innocent_are_not_harmed(self, tuned):
        """Not by what ran before them in the same process, nor by what they print."""
        right = [r.schedule for r in tuned.records if r.status == "loser"]
        assert sorted(right) == ["fault(fault=garbage)", "fault(fault=none)", "torch()"]
        assert tuned.stop is Stop.EXHAUSTED


class TestMeasurer:
    def test_what_a_candidate_prints_does_no_harm(self, measurer):
        before = measurer.pid
        assert len(measurer.screen(faulty("garbage"), 3, 60.0).samples) == 3
        assert measurer.pid == before

    def test_a_race_blames_who_ran(self, measurer):
        for fault in ("abort", "wrong"):
            outcome = measurer.race([knobs(8, 2), SLOW_LIBRARY, faulty(fault)], RaceLimits(5, 5.0, 30.0, 60.0))
            assert isinstance(outcome, Fault)
            assert outcome.at == 2
            assert EXPECTED[fault] in str(outcome.error)

    def test_killed_from_outside_while_idle_costs_nothing(self, measurer):
        measurer.settle()
        killed = measurer.pid
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        assert len(measurer.screen(knobs(8, 2), 2, 60.0).samples) == 2
        assert measurer.pid != killed

    @pytest.mark.skipif(sys.platform != "linux", reason="the score is Linux's")
    def test_when_memory_runs_out_it_goes_first(self, measurer):
        measurer.settle()
        assert int(Path(f"/proc/{measurer.pid}/oom_score_adj").read_text()) == 1000

    def test_who_is_far_too_slow_leaves_the_race_without_another_check(self, measurer):
        slow = faulty("slow")
        outcome = measurer.race([slow, knobs(8, 2)], RaceLimits(6, 60.0, 60.0, 60.0))
        assert not isinstance(outcome, Fault)
        assert [len(row) for row in outcome.samples] == [1, 6]
        assert outcome.evidence[0] is None
        assert outcome.evidence[1].cases == 1

    def test_a_race_gives_samples_by_round(self, measurer):
        outcome = measurer.race([knobs(1, 1), knobs(8, 2)], RaceLimits(6, 60.0, 60.0, 60.0))
        assert not isinstance(outcome, Fault)
        assert len(outcome.samples[1]) == 6
        assert all(proof.cases >= 1 for proof in outcome.evidence)

    def test_another_problem_reuses_the_worker(self, measurer, root):
        measurer.settle()
        before = measurer.pid
        other = parse_spec("gemm[x: f32(3,64), w: f32(16,64)]")
        measurer.open(Problem(other, ("lane16",), 1, (1, 2), Store(root, 1 << 30)))
        measurer.screen(knobs(8, 2), 2, 60.0)
        assert measurer.pid == before

    def test_a_worker_that_cannot_start_is_nobody_s_fault(self, root):
        one = SubprocessMeasurer("no_such_module:plants")
        one.open(Problem(planted.SPEC, ("lane16",), 1, (1, 2), Store(root, 1 << 30)))
        with pytest.raises(GridstoneError, match=r"(?s)cannot be measured.*no_such_module") as caught:
            one.settle()
        assert type(caught.value) is GridstoneError

    def test_a_worker_without_plants_has_none_and_closing_leaves_nothing(self, root):
        """Without being told to, a worker knows the registry's recipes only."""
        opened = len(os.listdir("/proc/self/fd"))
        one = SubprocessMeasurer()
        one.open(Problem(planted.SPEC, ("lane16",), 1, (1, 2), Store(root, 1 << 30)))
        pid = one.pid
        with pytest.raises(GridstoneError, match="unknown recipe"):
            one.screen(knobs(8, 2), 2, 60.0)
        assert one.pid == pid  # nothing ran, so it is trusted still
        one.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert len(os.listdir("/proc/self/fd")) == opened


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_busy_worker_dies_with_its_parent(root):
    program = textwrap.dedent(f"""
        import os, signal, threading, time
        import tuner_plants as planted
        from pathlib import Path
        from gridstone.kernel_cache.host import host_target
        from gridstone.kernel_cache.store import Store
        from gridstone.tuner.candidate import Candidate
        from gridstone.tuner.measurer import Problem, SubprocessMeasurer
        one = SubprocessMeasurer({PLANTS!r})
        one.open(Problem(planted.SPEC, ("lane16",), 1, (1, 2), Store(Path({str(root)!r}), 1 << 30)))
        one.settle()
        print(one.pid, flush=True)
        loop = Candidate(planted.FAULTY, planted.Fault("loop"), host_target())
        threading.Thread(target=one.screen, args=(loop, 1, 100.0), daemon=True).start()
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    path = os.pathsep.join([str(Path(planted.__file__).parent), str(Path(__file__).parents[2])])
    parent = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    worker = int(parent.stdout)
    for _ in range(100):
        if not _is_running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_an_interrupt_ends_everything_and_keeps_what_was_measured(tmp_path):
    """As Ctrl-C does it, while a candidate is being measured."""
    program = textwrap.dedent("""
        import os, signal, sys, threading
        from gridstone.cli import main
        from gridstone.tuner.measurer import SubprocessMeasurer
        real, seen = SubprocessMeasurer.screen, []
        def screen(self, *arguments):
            seen.append(self.pid)
            if len(seen) == 3:
                print(self.pid, file=sys.stderr, flush=True)
                threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
            return real(self, *arguments)
        SubprocessMeasurer.screen = screen
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background is born deaf to it
        main(["tune", "gemm[x: f32(4,64), w: int4:g32(64,64)]", "--budget", "100s", "--json"])
    """)
    place = {"GRIDSTONE_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **place},
    )  # fmt: skip
    assert ran.returncode == 130, ran.stderr
    assert not _is_running(int(next(line for line in ran.stderr.split() if line.isdecimal())))
    kept = list(RecordBook(tmp_path).all())
    assert len(kept) >= 2
    assert (kept[0].status, kept[0].reason) == ("winner", "interrupted")


def test_a_real_job(root):
    """The registry's own recipes, built, checked and timed."""
    spec = parse_spec("gemm[x: f32(4,256), w: int4:g128(64,256)] + bias")
    book, store = RecordBook(root), Store(root, 1 << 30)
    tuned = tune(spec, [host_target()], threads=1, max_evaluations=4, budget_seconds=60.0, store=store, book=book)
    assert tuned.measured == 4
    assert [r.reason for r in tuned.records if r.status == "failed"] == []
    assert tuned.winner.proof.cases >= 3
    builds = store.counters().builds
    again = tune(spec, [host_target()], threads=1, store=store, book=book)
    assert again.reused
    assert store.counters().builds == builds
