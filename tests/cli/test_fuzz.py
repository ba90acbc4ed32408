"""gridstone fuzz: what it runs, what it prints, how it ends."""

from __future__ import annotations

import shlex

import pytest

from gridstone.cli.fuzz_worker import FUZZED
from gridstone.ir.errors import SpecError
from gridstone.proof.fuzz.saved import read_case, save, saved
from gridstone.proof.fuzz.subject import Finding, quoted, split_case

KERNEL = (
    "cpp: gemm[x: f32(M,32), w: int4:g32@lane16(7,32)] + relu | gemm.cpp.direct | direct() | cpp:generic | M=3 seed=5"
)
INFEASIBLE = KERNEL.replace("direct()", "direct(m_r=1000)")


def test_a_short_run_counts_what_it_did(run):
    ran = run("fuzz", "--minutes", "0.02", "--seed", "1", "--subject", "layout", "--jobs", "1", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["seed"] == 1
    assert not ran.json["findings"]
    (layout,) = ran.json["subjects"].values()
    assert layout["cases"] == sum(layout["rows"].values()) > 0
    assert "--seed 1" in ran.err


def test_cases_run_again_also_from_files(run, tmp_path):
    subject, case = split_case(KERNEL)
    path = save(Finding(subject, case, "wrong\nin two lines", "found so"), tmp_path)
    assert path.read_text() == f"# what was wrong: wrong\n# in two lines\n# found as: found so\n{KERNEL}\n"
    assert list(saved(tmp_path)) == [path]
    ran = run("fuzz", "--replay", str(path), "--case", KERNEL.replace("M=3", "M=0"))
    assert ran.status == 0
    assert ran.out == f"{KERNEL.replace('M=3', 'M=0')}\n    right\n{KERNEL}\n    right\n"


def test_a_file_holds_one_case(tmp_path):
    path = tmp_path / "two.case"
    path.write_text(f"# why\n{KERNEL}\n{KERNEL}\n")
    with pytest.raises(SpecError, match=r"two\.case holds 2 cases"):
        read_case(path)


def test_a_case_that_is_none_is_refused_by_its_worker(run):
    ran = run("fuzz", "--case", INFEASIBLE)
    assert ran.status == 2
    assert "m_r is one of" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--subject", "layouts"), "did you mean layout?"),
        (("--op", "gem"), "did you mean gemm?"),
        (("--target", "cpp:avx3"), "cpp:avx2"),
        (("--format", "int44"), "did you mean int4"),
        (("--case", "nonsense"), "does not name a subject"),
        (("--subject", "layout", "--target", "cuda"), "nothing"),
    ],
)
def test_what_cannot_be_fuzzed_is_refused_with_the_remedy(run, arguments, message):
    ran = run("fuzz", "--minutes", "0.01", *arguments)
    assert ran.status == 2
    assert message in ran.err


def test_names_are_unique_and_fit_for_files():
    names = [subject.name for subject in FUZZED]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)


@pytest.mark.parametrize("text", ["plain", "it's", "a 'b' \"c\" $d `e`"])
def test_a_repro_is_one_word_of_a_shell(text):
    assert shlex.split(quoted(text)) == [text]
