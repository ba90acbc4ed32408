"""Laws of the mutants: one fault each, in code and nowhere else, under a name that does not change."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections import Counter

import pytest

from gridstone.lower.target import Language
from gridstone.proof import mutate_c, mutate_triton
from gridstone.proof.c_tokens import read
from gridstone.proof.edit import Edit
from gridstone.proof.mutate import OPERATORS, Mutant, mutants
from tests.mutation.kernels import SUBJECTS, Subject

C_BESIDE = re.compile(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"|^[ \t]*#(?!pragma omp barrier)[^\n]*', re.MULTILINE)
PYTHON_BESIDE = re.compile(r'#[^\n]*|"""(?:.|\n)*?"""|"[^"\n]*"')
NAMES = [subject.name for subject in SUBJECTS]


@functools.cache
def subject(name: str) -> Subject:
    return next(subject for subject in SUBJECTS if subject.name == name)


@functools.cache
def found(name: str) -> tuple[Mutant, ...]:
    return mutants(subject(name).source)


def beside(name: str, text: str) -> list[tuple[int, int]]:
    """What no mutant may touch: comments, strings, directives."""
    return [match.span() for match in (PYTHON_BESIDE if name.startswith("triton") else C_BESIDE).finditer(text)]


def spelled(edits: list[Edit], text: str) -> Counter[tuple[str, str, str]]:
    return Counter((edit.operator, text[edit.start : edit.end], edit.after) for edit in edits)


@pytest.mark.parametrize("name", NAMES)
def test_a_mutant_differs_in_one_place(name: str) -> None:
    text = subject(name).source.text
    for mutant in found(name):
        end = mutant.start + len(mutant.before)
        assert text[mutant.start : end] == mutant.before
        assert mutant.text == text[: mutant.start] + mutant.after + text[end:] != text
        assert text.splitlines()[mutant.line - 1].strip() == mutant.line_text
        assert mutant.operator in OPERATORS


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_and_stay_when_other_lines_change(name: str) -> None:
    source = subject(name).source
    ids = [mutant.id for mutant in found(name)]
    assert len(set(ids)) == len(ids) > 300
    lead = "#\n" if source.language is Language.TRITON else "//\n"
    moved = mutants(dataclasses.replace(source, text=lead + source.text))
    assert [mutant.id for mutant in moved] == ids
    assert [mutant.line for mutant in moved] == [mutant.line + 1 for mutant in found(name)]


def test_kernels_share_no_id() -> None:
    ids = [mutant.id for name in NAMES for mutant in found(name)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_comments_strings_and_directives_stay(name: str) -> None:
    text = subject(name).source.text
    kept = beside(name, text)
    assert len(kept) > 50
    for mutant in found(name):
        first, last = mutant.start, mutant.start + len(mutant.before)
        touched = [span for span in kept if span[0] < last and first < span[1]]
        # A statement that is left out, or a condition that is forced, takes along what stands in it.
        whole = mutant.operator in ("statement", "condition")
        assert all(whole and first <= span[0] and span[1] <= last for span in touched), str(mutant)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("triton")])
def test_a_mutant_of_triton_is_python(name: str) -> None:
    for mutant in found(name)[::25]:
        ast.parse(mutant.text)


def test_every_operator_occurs_in_every_language() -> None:
    for language in Language:
        of = {m.operator for name in NAMES if subject(name).source.language is language for m in found(name)}
        # A Triton array has no extent that could be too small, and nothing there is a preprocessor's.
        missing = {"extent"} if language is Language.TRITON else set()
        assert language is Language.LIBRARY or of == set(OPERATORS) - missing


# ---- C++ and CUDA --------------------------------------------------------------------------------------------------

SMALL = """\
// a < b
#define LIMIT (1 << 3)
template <class T, int N = 4> struct Tile { T at[N]; };
constexpr int64_t AHEAD = 4096;  // of the prefetch alone
static void run(const float* x, int n, Tile<float, 2> t) {
  for (int i = 0; i < n; ++i) __builtin_prefetch(x + AHEAD + i, 0, 3);
  float sum = 0.f, part[8] = {};
  const bool all = n >= 2 && !part;
  if (all) sum += get<1, true>(x)[n - 1];
  asm("add %0, 1" : "+v"(sum));
  __syncthreads();
}
"""


def test_the_edits_of_a_small_text_are_those_counted_by_hand() -> None:
    assert spelled([*mutate_c.edits(SMALL)], SMALL) == Counter({
        ("extent", "N", "(N) - 1"): 1,  # the template's parameters stay
        ("zero", "0.f", "1.f"): 1,
        ("constant", "8", "7"): 1,  # one more would only be more memory
        ("zero", "", "1"): 1,
        ("relational", ">=", ">"): 1,
        ("constant", "2", "3"): 1, ("constant", "2", "1"): 1,
        ("logical", "&&", "||"): 1,
        ("negation", "!", ""): 1,
        ("condition", "all", "true"): 1, ("condition", "all", "false"): 1,
        ("statement", "sum += get<1, true>(x)[n - 1];", ";"): 1,
        ("accumulate", "+=", "="): 1,
        ("constant", "1", "2"): 2, ("constant", "1", "0"): 2,  # the argument of a call, and in the subscript
        ("boolean", "true", "false"): 1,
        ("index", "n - 1", "(n - 1) + 1"): 1, ("index", "n - 1", "(n - 1) - 1"): 1,
        ("arithmetic", "-", "+"): 1,
        ("barrier", "__syncthreads();", ";"): 1,
    })  # fmt: skip


def test_template_brackets_are_no_comparisons() -> None:
    text = "auto v = f<A, (2 > 1)>(x) < g<h<int>>(y) ? cut<4>(z) >> 2 : a<b;"
    code = read(text)
    edits = [edit for edit in mutate_c.edits(text) if edit.operator == "relational"]
    assert [(edit.start, edit.after) for edit in edits] == [(text.index("> 1"), ">="), (text.index("< g"), "<="), (
        text.index("<b;"), "<=")]  # fmt: skip
    assert sorted(text[code.tokens[at].start] for at in code.angles) == ["<", "<", "<", "<", ">", ">", ">", ">"]


def test_functions_without_machine_code_are_left_alone() -> None:
    text = "static int used(int a) {\n  return a + 1;\n}\nstatic int spare(int a) {\n  return a - 1;\n}\n"
    text += "constexpr int known(int a) {\n  return a * 3;\n}\n"
    lines = {text.count("\n", 0, edit.start) + 1 for edit in mutate_c.edits(text, frozenset({1, 2, 3}))}
    assert lines == {2, 8}
    assert {text.count("\n", 0, edit.start) + 1 for edit in mutate_c.edits(text)} == {2, 5, 8}


def test_the_lesser_of_two_is_turned_round_and_not_made_equal() -> None:
    text = "const int c = left < L ? (int)(left) : L, d = left < L ? left : 0;"
    edits = [edit for edit in mutate_c.edits(text) if text[edit.start : edit.end] == "<"]
    assert [(edit.operator, edit.after) for edit in edits] == [("extremum", ">"), ("relational", "<=")]


def test_prefetches_are_left_alone_with_what_serves_them_only() -> None:
    text = """\
constexpr int FAR = 512;
INLINE void ask(const uint8_t* p, int rows) {
  for (int m = 0; m < rows; ++m)
    for (int b = 0; b < 256; b += 64) __builtin_prefetch(p + m * 7 + b + FAR, 1, 3);
}
void f(const uint8_t* p, int s) {
  if (s == 4) ask(p, 9);
}
"""
    assert [*mutate_c.edits(text)] == []
    assert [*mutate_c.edits(text.replace("if (s == 4)", "s = 3;\n  if (s == 4)"))] != []


# ---- Triton --------------------------------------------------------------------------------------------------------

KERNEL = """\
N, DEPTH = tl.constexpr(70), tl.constexpr(3)  # N < 71
WHOLE = tl.constexpr(N % 16 == 0)


@triton.jit
def unused(x):
    return x + 1


@triton.jit
def kernel(x, y, n, ORDERED: tl.constexpr):
    at = tl.arange(0, 16)
    if WHOLE:
        v = tl.load(x + at * 2)
    else:
        v = tl.load(x + at, mask=at < n, other=0.0, eviction_policy="evict_first")
    for _ in tl.range(0, n, num_stages=DEPTH):
        v *= -v >> 2
    tl.debug_barrier()
    tl.store(y, v)
"""


def test_the_edits_of_a_small_kernel_are_those_counted_by_hand() -> None:
    assert spelled([*mutate_triton.edits(KERNEL, "kernel")], KERNEL) == Counter({
        ("constant", "70", "71"): 1, ("constant", "70", "69"): 1,
        ("equality", "==", "!="): 1,
        ("arithmetic", "%", "//"): 1,
        ("constant", "16", "17"): 2, ("constant", "16", "15"): 2,  # in WHOLE, and of the range
        ("constant", "0", "1"): 3, ("constant", "0", "-1"): 3,  # in WHOLE, of the range, and of the loop
        ("condition", "WHOLE", "True"): 1, ("condition", "WHOLE", "False"): 1,
        # The branch that is not taken is left alone.
        ("index", "x + at", "(x + at) + 1"): 1, ("index", "x + at", "(x + at) - 1"): 1,
        ("arithmetic", "+", "-"): 1,
        ("mask", "at < n", "(at < n) | True"): 1,
        ("relational", "<", "<="): 1,
        ("zero", "0.0", "1.0"): 1,
        ("index", "n", "(n) + 1"): 1, ("index", "n", "(n) - 1"): 1,  # of the loop
        ("accumulate", "*=", "="): 1, ("statement", "v *= -v >> 2", "pass"): 1,
        ("shift", "", "1 + "): 1, ("shift", "", "-1 + "): 1,
        ("negation", "-", ""): 1,
        ("barrier", "tl.debug_barrier()", "pass"): 1,
        ("statement", "tl.store(y, v)", "pass"): 1,
        ("index", "y", "(y) + 1"): 1, ("index", "y", "(y) - 1"): 1,
    })  # fmt: skip
