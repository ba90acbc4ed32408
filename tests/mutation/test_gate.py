"""The gate itself: what is planted is there, and caught, survived and broken are told apart; a sample of real bugs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import pytest

from tests.mutation.gate import ROOT, FalseAlarm, Options, Report, Trial, Variants, as_json, run_gate, table
from tests.mutation.plant import LANGUAGES, Planted, is_textual
from tests.mutation.planted import PLANTED, PROMISED, fits_here
from tests.mutation.trial import COPIED, Result, Running, Seen, copy_tree, try_bug
from tests.mutation.variants import draw_variants, problem_of, runs_here

WITNESS = "tests.mutation.witness"
SAMPLED = 3  # of each language, how many of the first are candidates for the sample: they are quick


# ---- the list -------------------------------------------------------------------------------------------------------


def test_every_bug_can_be_planted():
    """Breaks when a file was edited and a bug points at what is gone."""
    problems = {bug.name: bug.problem(ROOT) for bug in PLANTED}
    assert {name: problem for name, problem in problems.items() if problem} == {}


def test_every_bug_has_a_name_and_checks_of_its_own():
    names = Counter(bug.name for bug in PLANTED)
    assert [name for name, count in names.items() if count > 1] == []
    edits = Counter((bug.file, bug.old, bug.new, bug.language, bug.tests) for bug in PLANTED)
    assert [edit for edit, count in edits.items() if count > 1] == []
    assert all(bug.old != bug.new for bug in PLANTED)
    assert all(bug.tests for bug in PLANTED)


def test_no_check_compares_texts():
    """A golden notices every edit of a template, and would prove nothing of the checks that compute."""
    assert [(bug.name, test) for bug in PLANTED for test in bug.tests if is_textual(test)] == []
    assert is_textual("tests/templates/test_golden.py::test_golden[gemm.cpp.direct-aligned]")
    assert not is_textual("tests/templates/test_triton.py::test_kernels_are_right")


def test_tests_that_are_named_exist():
    files = {test.partition("::")[0] for bug in PLANTED for test in bug.tests}
    assert [name for name in sorted(files) if not (ROOT / name).is_file()] == []
    for bug in PLANTED:
        for test in bug.tests:
            name, _, function = test.partition("[")[0].partition("::")
            plain = function.rpartition("::")[2]
            assert not plain or f"def {plain}(" in (ROOT / name).read_text(), (bug.name, test)


def test_every_class_is_planted_in_every_language_that_is_promised():
    planted = {(bug.klass, bug.language) for bug in PLANTED}
    assert {(klass, language) for klass, languages in PROMISED.items() for language in languages} == planted
    assert len(PROMISED) >= 40
    assert len(PLANTED) >= 140
    assert {bug.language for bug in PLANTED} == set(LANGUAGES)


# ---- a tree of a few lines -------------------------------------------------------------------------------------------

PACKAGE = """\
# A remark.
class GridstoneError(Exception):
    pass


class BuildError(GridstoneError):
    pass


def double(x):
    if x > 10:
        raise GridstoneError("too large")
    return 2 * x
"""
TESTS = """\
import time

import gridstone


def test_double():
    assert gridstone.double(2) == 4


def test_nothing():
    pass


def test_slowly():
    time.sleep(0.01 if gridstone.double(3) == 6 else 60)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tree with a package of one function and its tests."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "gridstone").mkdir()
    (root / "gridstone" / "__init__.py").write_text(PACKAGE)
    (root / "tests" / "mutation").mkdir(parents=True)
    (root / "tests" / "test_tiny.py").write_text(TESTS)
    for name in ("witness.py", "plant.py", "trial.py"):
        (root / "tests" / "mutation" / name).write_text((ROOT / "tests" / "mutation" / name).read_text())
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["slow: long", "gpu: no"]\n')
    return root


def bug(old, new, *tests, name="a bug"):
    return Planted(name, "any", "python", "__init__.py", old, new, tests or ("tests/test_tiny.py::test_double",))


def tried(tiny, folder, planted, cap=60.0):
    return try_bug(planted, tiny, folder / "trial", None, Running(), cap=cap, fuzz=False)[0]


TINY = {
    "a wrong result": (bug("2 * x", "3 * x"), Result.CAUGHT, "assert"),
    "an error of ours": (bug("x > 10", "x < 10"), Result.CAUGHT, "GridstoneError: too large"),
    "a comment": (bug("# A remark.", "# Another remark."), Result.SURVIVED, "1 tests passed"),
    "what no test asks for": (bug("x > 10", "x > 9"), Result.SURVIVED, "1 tests passed"),
    "a syntax error": (bug("return 2 * x", "return 2 *"), Result.BROKEN, "SyntaxError"),
    "a name that is not there": (bug("2 * x", "2 * y"), Result.BROKEN, "NameError: name 'y' is not defined"),
    "text that no compiler takes": (
        bug("return 2 * x", 'raise BuildError("expected ;")'), Result.BROKEN, "BuildError: expected ;",
    ),
    "an error that nobody planned": (bug("2 * x", "[][x]"), Result.BROKEN, "IndexError"),
    "a crash": (bug("return 2 * x", "__import__('os').abort()"), Result.CAUGHT, "the process died of SIGABRT"),
    "a test that is gone": (bug("2 * x", "3 * x", "tests/test_tiny.py::test_gone"), Result.BROKEN, "ended with 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", TINY)
def test_what_became_of_a_bug_is_told_apart(case, tiny, tmp_path):
    """A comment is the negative control of the gate: if that were caught, it would catch anything."""
    planted, result, why = TINY[case]
    seen = tried(tiny, tmp_path, planted)
    assert (seen.result, why in seen.why) == (result, True), seen
    assert not (tmp_path / "trial").exists()
    assert (tiny / "gridstone" / "__init__.py").read_text() == PACKAGE


def test_the_first_test_that_objects_is_named(tiny, tmp_path):
    order = tuple(f"tests/test_tiny.py::test_{name}" for name in ("nothing", "double", "slowly"))
    seen = tried(tiny, tmp_path, bug("2 * x", "3 * x", *order))
    assert (seen.result, seen.by) == (Result.CAUGHT, order[1])


def test_the_time_is_up(tiny, tmp_path):
    """A check that does not end has not objected."""
    seen = tried(tiny, tmp_path, bug("2 * x", "3 * x", "tests/test_tiny.py::test_slowly"), cap=4.0)
    assert seen.result is Result.SURVIVED
    assert seen.why.startswith("the time was up")


def test_another_tree_is_not_tested(tiny, tmp_path):
    """Breaks when an installed package is tested in place of the copy."""
    copy = copy_tree(tiny, tmp_path / "copy")
    (copy / "gridstone" / "__init__.py").unlink()
    (copy / "gridstone").rmdir()
    report = tmp_path / "report"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", WITNESS, f"--witness={report}"],
        cwd=copy, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 3
    assert "gridstone is imported from" in run.stdout + run.stderr
    assert not report.exists()


def test_a_gate_of_three_bugs(tiny, tmp_path):
    """The whole of it: control, trials, table; and the exit is that of the worst."""
    bugs = (
        bug("2 * x", "3 * x", name="tripled"),
        bug("# A remark.", "# Said.", name="said otherwise"),
        bug("return 2 * x", "return", name="nothing given"),
    )
    said = []
    report = run_gate(bugs, tmp_path, Options(jobs=2, cap=60.0, fuzz=False, variants=False), said.append, tiny)
    assert [trial.seen.result for trial in report.trials] == [Result.CAUGHT, Result.SURVIVED, Result.CAUGHT]
    assert not report.passed
    assert str(report).startswith("3 planted, 2 caught, 1 survived, 0 broken; 0:")
    assert "SURVIVED:  1 tests passed" in table(report)
    assert '"result": "survived"' in as_json(report)
    assert sum(line.startswith("[") for line in said) == 3


def test_a_tree_that_fails_its_own_checks_stops_the_gate(tiny, tmp_path):
    wrong = copy_tree(tiny, tmp_path / "wrong")
    path = wrong / "gridstone" / "__init__.py"
    path.write_text(PACKAGE.replace("2 * x", "5 * x"))
    folder = tmp_path / "gate"
    folder.mkdir()
    with pytest.raises(FalseAlarm, match="test_double"):
        run_gate((bug("5 * x", "3 * x"),), folder, Options(1, 60.0, False, False), print, wrong)


def test_a_false_alarm_or_a_bug_that_was_not_tried_fails_the_gate():
    caught = Trial(bug("a", "b"), Seen(Result.CAUGHT, "a test", ""), 1.0)
    whole = Report((caught,), 1, Variants(200, ()), 754.6)
    assert whole.passed
    assert str(whole) == "1 planted, 1 caught, 0 survived, 0 broken; 200 correct variants, 0 false alarms; 12:35"
    assert not dataclasses.replace(whole, variants=Variants(199, ("a variant: off",))).passed
    assert not dataclasses.replace(whole, asked=2).passed
    assert "1 not tried" in str(dataclasses.replace(whole, asked=2))


# ---- real ones ------------------------------------------------------------------------------------------------------


def sample():
    """One bug of each language, chosen anew whenever the list changes."""
    turn = zlib.crc32("\n".join(bug.name for bug in PLANTED).encode())
    able = [bug for bug in PLANTED if fits_here(bug) and len(bug.tests) == 1]
    return [[bug for bug in able if bug.language == language][turn % SAMPLED] for language in LANGUAGES]


def trial(planted, folder, cache):
    """Try one bug in a copy of this tree, with what this session has built."""
    control = copy_tree(ROOT, folder / "control")
    return try_bug(planted, control, folder / "trial", cache, Running(), cap=240.0, fuzz=False)[0]


@pytest.mark.parametrize("language", range(len(LANGUAGES)), ids=LANGUAGES)
def test_a_sample_of_bugs_is_caught(language, tmp_path, session_cache):
    seen = trial(sample()[language], tmp_path, session_cache)
    assert seen.result is Result.CAUGHT, seen


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_every_bug_is_caught(planted, tmp_path, session_cache):
    if not fits_here(planted):
        pytest.skip(f"{planted.needs} does not run here")
    seen = trial(planted, tmp_path, session_cache)
    assert seen.result is Result.CAUGHT, seen


def test_variants_are_many_and_all_different():
    drawn = list(draw_variants())
    assert len(drawn) >= 200
    assert len(set(map(str, drawn))) == len(drawn)
    assert len({(one.family, one.schedule) for one in drawn}) >= 50
    assert any("k_splits=2" in one.schedule for one in drawn)
    assert any("ordered=false" in one.schedule for one in drawn)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_correct_variant_is_called_wrong():
    alarms = {str(one): problem for one in draw_variants() if runs_here(one) and (problem := problem_of(one))}
    assert alarms == {}


def test_what_is_copied_is_there():
    assert [name for name in COPIED if not (ROOT / name).exists()] == []
    assert Path(__file__).is_relative_to(ROOT / "tests")
