"""Generated mutants are built, told from the original, killed and counted; what changes nothing is let through."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridstone.kernel_cache.toolchain_cpp import CppToolchain
from gridstone.proof.fuzz.inputs import VALUES
from gridstone.proof.mutate import Mutant, mutants
from tests.mutation import equivalent, generated
from tests.mutation.examiners import Examiner
from tests.mutation.generated import mark, passed, trials
from tests.mutation.kernels import SUBJECTS, Subject, calls
from tests.mutation.outcomes import Outcome, count, read_outcomes, report
from tests.mutation.scratch_order import missing_barrier

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or CppToolchain().compiler() is None, reason="mutants are examined on Linux, with g++"
)
CPP, CUDA, TRITON = "cpp.direct generic", "cuda.mma", "triton.small"


def subject(name: str) -> Subject:
    return next(subject for subject in SUBJECTS if subject.name == name)


def mutant(name: str, operator: str, line: str, after: str = "") -> Mutant:
    """The first mutant of a kernel by this operator, on a line with this in it, into what holds this."""
    found = mutants(subject(name).source)
    return next(m for m in found if m.operator == operator and line in m.line_text and after in m.after)


@pytest.fixture(scope="module")
def examiner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examiner]:
    # What executes CUDA is built once for all tests.
    one = Examiner(tmp_path_factory.mktemp("examiner"), Path(os.environ["GRIDSTONE_CACHE_DIR"]))
    yield one
    one.close()


SLOW = pytest.mark.slow
KILLED = [
    # Whole vectors behind the end of a row: only a page that nobody may touch sees what lies behind the last one.
    (CPP, "condition", "if (left >= BLOCK_N)", "true", "calls", "crashes with SIG"),
    (CPP, "relational", "k < size", "<=", "calls", ""),
    # A vector is copied from beyond an array on the stack, and written over with what is right at once.
    pytest.param(CPP, "condition", "const int count = left", "true", "sanitizer", "stack-buffer-overflow", marks=SLOW),
    (CUDA, "barrier", "the stage has come for everybody", ";", "calls", "faults"),
    pytest.param(CUDA, "relational", "m0 + row < c.m", "<=", "calls", "bounds", marks=SLOW),
    (TRITON, "barrier", "every thread's sums are written", "pass", "order", "no barrier between store of parts"),
    pytest.param(TRITON, "mask", "mask=(rows < m)", "| True", "calls", "a load of byte", marks=SLOW),
]


@pytest.mark.parametrize(("name", "operator", "line", "after", "by", "why"), KILLED)
def test_a_mutant_is_killed(
    examiner: Examiner, name: str, operator: str, line: str, after: str, by: str, why: str
) -> None:
    found = mutant(name, operator, line, after)
    answer = examiner.ask(name, found.text)
    assert answer["result"] == "killed", (str(found), answer)
    assert answer["by"] == by
    assert why in answer["why"]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (CPP, "// Rows of x as the inner loop reads them", "// Rows of x"),
        (CPP, "const int words = slab_words(s);\n  for", "const int words = slab_words(s), spare = words;\n  for"),
        (CUDA, "// Tokens and rows of the weight change places", "// Rows and tokens change places"),
        pytest.param(TRITON, "def load_scales(", "# of a step\ndef load_scales(", marks=SLOW),
    ],
)
def test_what_changes_no_instruction_is_the_same_program(examiner: Examiner, name: str, old: str, new: str) -> None:
    text = subject(name).source.text
    assert text.count(old) == 1
    assert examiner.ask(name, text.replace(old, new))["result"] == "same"


def test_a_text_that_no_compiler_takes_is_stillborn(examiner: Examiner) -> None:
    text = subject(CPP).source.text
    answer = examiner.ask(CPP, text.replace("const int words = slab_words(s);", "const int words = slab_words();", 1))
    assert answer["result"] == "stillborn"
    assert "slab_words" in answer["why"]


@pytest.mark.slow
@pytest.mark.parametrize("one", SUBJECTS, ids=lambda one: one.name)
def test_no_check_objects_to_a_kernel_as_it_is(examiner: Examiner, one: Subject) -> None:
    if one not in generated.runnable():
        pytest.skip(f"{one.kernel.target} does not run here")
    answer = examiner.ask(one.name, one.source.text, always=True)
    assert answer["result"] == "survived", answer
    assert not answer["why"], "the time was up before all checks were made"


@pytest.mark.slow
def test_a_mutant_that_hangs_is_killed_and_the_next_one_lives(examiner: Examiner) -> None:
    text = subject(CPP).source.text
    spins = text.replace("if (u >= work) return;", "if (u >= work) u = 0;")
    assert spins != text
    answer = examiner.ask(CPP, spins)
    assert (answer["result"], answer["by"]) == ("killed", "calls")
    assert examiner.ask(CPP, text)["result"] == "same"


def test_every_distribution_and_every_kind_of_view_is_called() -> None:
    for one in SUBJECTS:
        made = calls(one.kernel)
        assert len({call.M for call in made}) > 2
        assert any(call.nan and call.inf for call in made)
        assert any(call.x_gap and call.out_gap for call in made)
        assert any(call.x_offset and call.out_offset for call in made)
        if not one.kernel.target.sms:
            assert {call.threads for call in made} >= {1, 2, 3}
            assert {call.values for call in made} == set(VALUES)
        else:
            assert len({call.order for call in made}) > 3


def test_barriers_between_accesses_to_scratch_are_told() -> None:
    def text(body: str) -> str:
        lines = "\n".join(f"    {line}" for line in body.split("; "))
        return f"def kernel(parts, tickets, at, ORDERED):\n{lines}\n"

    draw = "last = tl.atomic_add(tickets + 1, 1) == 3"
    right = f"tl.store(parts + at, 1); tl.debug_barrier(); {draw}; tl.debug_barrier(); v = tl.load(parts + at)"
    assert missing_barrier(text(right), "kernel") == ""
    before, between, behind = right.split("tl.debug_barrier(); ")
    for wrong in (f"{before}{between}tl.debug_barrier(); {behind}", f"{before}tl.debug_barrier(); {between}{behind}"):
        assert "no barrier between" in missing_barrier(text(wrong), "kernel")
    assert missing_barrier(text("v = tl.load(parts + at); w = tl.load(parts)"), "kernel") == ""
    late = "v = tl.load(parts); w = tl.load(tickets); tl.store(parts, v)"
    assert "store of parts" in missing_barrier(text(late), "kernel")


def test_one_mutant_of_each_kernel_and_operator_comes_first() -> None:
    pair = (subject(TRITON), subject("triton.large"))
    made = list(trials(pair, seed=1))
    classes = {(trial.subject.name, trial.mutant.operator) for trial in made if trial.mutant}
    first = [(trial.subject.name, trial.mutant.operator) for trial in made[: len(classes)] if trial.mutant]
    assert sorted(first) == sorted(classes)
    assert Counter(trial.mutant.id for trial in made if trial.mutant).most_common(1)[0][1] == 1
    assert [trial.mutant for trial in trials(pair, seed=1)] == [trial.mutant for trial in made]
    assert [trial.mutant for trial in trials(pair, seed=2)] != [trial.mutant for trial in made]


def outcome(at: int, result: str, by: str = "", operator: str = "mask", after: str = "0x7") -> Outcome:
    return Outcome("cpp.gemv", "s", f"{at:x}", operator, 3, "a & 0xF", "0xF", after, result, by, "", 0.5)


def test_the_table_counts_and_survivors_without_a_reason_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        *(outcome(at, "killed", "calls") for at in range(17)),
        *(outcome(at, "killed", "sanitizer", "index") for at in range(20, 22)),
        outcome(30, "stillborn"), outcome(31, "same"), outcome(32, "survived"),
    ]  # fmt: skip
    counts = count(made)
    assert (counts.mutants, counts.stillborn, counts.same, counts.survived) == (22, 1, 1, 1)
    assert counts.killed == Counter(calls=17, sanitizer=2)
    assert counts.score == "95.0 %"
    text = report(made)
    assert "1 survivors, 1 of them OPEN" in text
    assert not passed(made, least=20)  # nobody knows why it survived
    known = equivalent.Reason(r"a & 0xF", ("mask",), r"^0xF -> 0x7$", "the fourth bit is never set")
    monkeypatch.setattr(equivalent, "REASONS", (known,))
    assert "the fourth bit is never set" in report(made)
    assert passed(made, least=20)
    assert not passed(made, least=21)  # too few
    assert not passed([*made, outcome(33, "survived")], least=20)  # 19 of 21 are not enough
    assert not passed([*made[1:], outcome(33, "killed", "calls"), outcome(34, "survived", after="0x6")], least=20)


def test_a_run_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    first, second = outcome(1, "survived"), outcome(2, "killed", "calls")
    again = dataclasses.replace(first, result="killed", by="drawn")
    lines = [json.dumps(dataclasses.asdict(one)) for one in (first, second, again)]
    state.write_text("\n".join([*lines, lines[0][:40]]))  # the last line was being written
    assert read_outcomes(state) == [again, second]
    assert mark("a") != mark("b")
