"""Cases print on one line, and the line is parsed again."""

from __future__ import annotations

import random

import pytest

from gridstone.ir.errors import GridstoneError
from gridstone.lower.target import Language
from gridstone.proof.fuzz.case import Case, parse_case
from gridstone.proof.fuzz.draw import draw_calls, draw_kernel, rows_of, targets_of
from gridstone.proof.fuzz.simplify import simpler_cases
from gridstone.proof.fuzz.subject import Wanted
from gridstone.templates.registry import refusal

LANGUAGES = tuple(Language)
TEXT = (
    "gemm[x: f32(M,96), w: int4:g32@lane16(33,96)] + bias -> f32(M,33) | gemm.cpp.direct | "
    "direct(dot=f32,m_r=4,n_r=2,m_chunk=96,prefetch=8192) | cpp:avx2 | "
    "M=17 values=huge seed=3 x_gap=5 transposed=true threads=2"
)


def drawn(seed, count=40):
    """Kernels of every recipe, with a call each."""
    rng = random.Random(seed)
    for recipe in rows_of(LANGUAGES, Wanted()):
        targets = targets_of(LANGUAGES, Wanted())
        for _ in range(max(1, count // 9)):
            kernel = draw_kernel(rng, recipe, targets, Wanted())
            assert kernel is not None, recipe.name
            for call in draw_calls(rng, kernel, 2):
                yield Case(kernel, call)


def test_a_case_says_everything():
    case = parse_case(TEXT)
    assert str(case) == TEXT
    assert (case.call.M, case.call.x_gap, case.call.transposed, case.call.residual_gap) == (17, 5, True, 0)
    assert case.static.output.shape == (17, 33)


def test_drawn_cases_are_parsed_again():
    for case in drawn(1):
        assert parse_case(str(case)) == case


def test_the_same_seed_draws_the_same_cases():
    assert list(map(str, drawn(5))) == list(map(str, drawn(5)))
    assert list(map(str, drawn(5))) != list(map(str, drawn(6)))


def test_drawn_and_simplified_kernels_are_legal():
    """What a recipe refuses or a space excludes is no case: it would be reported as a failure."""
    for case in drawn(2):
        for one in (case, *simpler_cases(case)):
            kernel = one.kernel
            assert refusal(kernel.recipe, kernel.spec, kernel.target) is None
            assert kernel.recipe.space.violated(kernel.schedule, kernel.spec, kernel.target) is None
            assert parse_case(str(one)) == one


def test_simpler_cases_come_to_an_end():
    """A shrinker that goes round in circles, or grows, would never stop."""
    case = next(drawn(3))
    for _ in range(400):
        simpler = next(simpler_cases(case), None)
        if simpler is None:
            break
        case = simpler
    assert case.call.M == 0
    assert not case.kernel.spec.epilogue


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gemm", "has 1 parts"),
        (TEXT.replace("M=17", "M=x"), "'M=x' is not a number"),
        (TEXT.replace("M=17", "M=99999999"), "is not a number up to"),
        (TEXT.replace("M=17", "rows=17"), "unknown part 'rows=17'"),
        (TEXT.replace("M=17", "M=1 M=2"), "M is given twice"),
        (TEXT.replace("transposed=true", "transposed=1"), "not true or false"),
        (TEXT.replace("gemm.cpp.direct", "gemm.cpp.indirect"), "gemm.cpp.direct"),
        (TEXT.replace("m_r=4", "m_r=1000"), "m_r is one of"),
        (TEXT.replace("+ bias", "+ gello"), "did you mean gelu"),
        (TEXT.replace("cpp:avx2", "cpp:avx3"), "cpp:avx2"),
    ],
)
def test_malformed_cases_are_refused_with_the_piece(text, message):
    with pytest.raises(GridstoneError, match=message):
        parse_case(text)
