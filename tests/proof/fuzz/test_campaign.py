"""The campaign: workers that crash, hang, say nothing or are wrong, shrinking, shares of time, and interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import deque

import pytest

from gridstone.proof.fuzz.campaign import Campaign, shrink
from gridstone.proof.fuzz.crew import Crew, Died
from gridstone.proof.fuzz.subject import Finding, Wanted

# Numbers: 13 is wrong, and so is every multiple of it; 17 kills the process, 19 never ends.
FAKE = """
import os, random, signal, sys, time
from gridstone.ir.errors import SpecError
from gridstone.proof.fuzz.subject import Failed, Ran, Trying
from gridstone.proof.fuzz.worker import serve

class Numbers:
    def __init__(self, name, bad, pause):
        self.name, self.bad, self.pause = name, bad, pause
    def missing(self):
        return ""
    def problem(self, case):
        if not case.isdigit():
            raise SpecError(f"{case!r} is no number")
        number = int(case)
        print("what a kernel prints does not matter")
        if self.bad == 17 and number % 17 == 0 and number:
            print("killed by", number, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.bad == 19 and number % 19 == 0 and number:
            time.sleep(1000)
        return f"{number} is unlucky" if self.bad == 13 and number % 13 == 0 and number else ""
    def explore(self, seed, wanted):
        rng = random.Random(seed)
        for _ in range(40):
            time.sleep(self.pause)
            case = str(rng.randrange(1, 10000))
            yield Trying(case)
            problem = self.problem(case)
            if problem:
                yield Failed(case, problem)
                return
            yield Ran(1, f"row{int(case) % 2}", case)
    def simpler(self, case):
        number = int(case)
        yield from (str(n) for n in (0, number // 2, number - 13, number - 1) if 0 <= n < number)

serve((Numbers("right", 0, 0.0), Numbers("slow", 0, 0.02), Numbers("wrong", 13, 0.0), Numbers("crash", 17, 0.0),
       Numbers("hang", 19, 0.0)))
"""


@pytest.fixture
def crew(tmp_path):
    program = tmp_path / "fake.py"
    program.write_text(textwrap.dedent(FAKE))
    crews = []

    def make(count=2, hangs_s=30.0):
        crews.append(Crew((str(program),), count, hangs_s))
        return crews[-1]

    yield make
    for one in crews:
        one.close()


def ran(crew, weights, seconds=2.0, seed=1):
    campaign = Campaign(weights, seed, Wanted())
    campaign.run(crew, seconds)
    return campaign


def test_right_cases_are_counted(crew):
    campaign = ran(crew(), {"right": 1.0})
    tally = campaign.tallies["right"]
    assert not campaign.findings
    assert tally.cases == sum(tally.rows.values()) > 80
    assert set(tally.rows) == {"row0", "row1"}
    assert 40 < len(tally.kernels) <= tally.cases


def test_a_wrong_case_is_shrunk_to_the_simplest(crew):
    campaign = ran(crew(), {"wrong": 1.0})
    assert [(one.case, one.problem) for one in campaign.findings] == [("13", "13 is unlucky")]
    assert int(campaign.findings[0].first) % 13 == 0
    assert campaign.findings[0].repro == "gridstone fuzz --case 'wrong: 13'"


def test_a_case_that_kills_its_process_is_found_and_shrunk(crew):
    campaign = ran(crew(), {"crash": 1.0, "right": 1.0})
    assert campaign.findings
    for found in campaign.findings:
        assert int(found.case) % 17 == 0
        assert "SIGSEGV" in found.problem
        assert f"killed by {found.case}" in found.problem
    assert campaign.tallies["right"].cases > 0


def test_a_case_that_hangs_is_found(crew):
    campaign = Campaign({"hang": 1.0}, 1, Wanted())
    campaign.run(crew(hangs_s=1.0), 4.0)
    assert campaign.findings
    assert int(campaign.findings[0].first) % 19 == 0
    assert "said nothing for 1 s" in campaign.findings[0].problem


def test_time_is_shared_out_by_weight(crew):
    campaign = ran(crew(), {"slow": 4.0, "right": 1.0}, seconds=5.0)
    slow, right = campaign.tallies["slow"], campaign.tallies["right"]
    assert slow.batches > 1
    assert right.batches > 1
    assert slow.seconds > right.seconds


def test_the_same_seed_explores_the_same_cases(crew):
    first, again, other = (ran(crew(1), {"wrong": 1.0}, 1.5, seed).findings[0].first for seed in (3, 3, 4))
    assert first == again != other


def test_shrinking_gives_up_when_its_time_is_over():
    """A worker that never finds an end: each case has a simpler one that is wrong too."""
    asked = deque()

    def ask(request):
        asked.append(request)
        if "simpler" in request:
            return {"simpler": [request["case"] + "x"]}
        time.sleep(0.01)
        return {"problem": "still wrong"}

    found = shrink(Finding("any", "x", "wrong", "x"), ask, seconds=0.2)
    assert found.first == "x"
    assert len(found.case) > 1
    assert found.problem == "still wrong"


def test_shrinking_survives_a_worker_that_dies():
    def ask(request):
        if "simpler" in request:
            return {"simpler": ["1"] if request["case"] == "9" else []}
        return Died(request, "1", "the process died: SIGSEGV")

    found = shrink(Finding("any", "9", "wrong", "9"), ask)
    assert (found.case, found.problem) == ("1", "the process died: SIGSEGV")


def test_a_malformed_case_is_an_error_and_the_worker_lives(crew):
    one = crew(1)
    for text, answer in (("x", {"error": "spec: 'x' is no number"}), ("26", {"problem": "26 is unlucky"})):
        one.ask(next(one.idle()), {"problem": "wrong", "case": text})
        got = []
        while not got:
            got = [said for _, said in one.answers(5.0)]
        assert got == [answer]


def test_an_interrupt_keeps_what_was_found(tmp_path):
    """Ctrl-C in the middle of a run: the process ends at once, with its findings written."""
    program = tmp_path / "run.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from gridstone.cli import main
            cli = sys.modules["gridstone.cli.fuzz"]  # the package's attribute of this name is the command
            cli.WORKER = (sys.argv[1],)
            cli.WEIGHTS = {}
            class Named:
                def __init__(self, name): self.name = name
                def missing(self): return ""
            import gridstone.cli.fuzz_worker as worker
            worker.FUZZED = (Named("wrong"), Named("slow"))
            main(["fuzz", "--minutes", "10", "--seed", "1", "--json", "--jobs", "2", "--save", sys.argv[2]])
            """
        )
    )
    fake = tmp_path / "fake.py"
    fake.write_text(textwrap.dedent(FAKE))
    place = tmp_path / "found"
    child = subprocess.Popen(
        [sys.executable, str(program), str(fake), str(place)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not list(place.glob("*.case")):  # kept as soon as it is found
        assert child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    answer = json.loads(out)
    assert answer["interrupted"]
    assert answer["findings"][0]["case"] == "13"
    kept = [path.read_text().splitlines()[-1] for path in place.glob("*.case")]
    assert sorted(kept) == sorted("wrong: " + one["case"] for one in answer["findings"])
