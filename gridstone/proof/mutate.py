"""Mutants of an emitted text: each differs in one place, by a fault that somebody could have made.

Checks that let a mutant through would have let that fault through. A mutant that computes the same is no fault; most of
these are not made at all, or are told by a compiler:

- comments, strings, directives, types, attributes and inline assembly are never touched;
- what only bears on speed is left alone where its form shows it: on a CPU the numbers of the schedule that divide the
  work, since others are another schedule; prefetches with the loops that count them, the
  functions that do nothing else and the constants that nothing else reads; depths of pipelining, cache hints, bounds on
  registers; calls that emit no instruction; one element more of an array, which is only more memory;
- in `a < b ? a : b` the comparison is turned round and not made `<=`, since both sides are equal there;
- a function without machine code (C++ and CUDA, as `compiled` says) or that the entry point does not reach (Triton) is
  not of this kernel;
- a mutant whose machine code is the original's is the same program: whoever builds it sees that, as Papadakis et al.,
  "Trivial compiler equivalence", ICSE 2015, propose.

The operators:

| name | what it does |
|---|---|
| `relational`, `equality`, `logical`, `bitwise` | `<` to `<=`, `==` to `!=`, `&&` to `or`, `&` to `|`, and back |
| `extremum` | the lesser for the greater |
| `constant`, `shift`, `index`, `extent` | one more or less: an integer, a shift, a subscript or pointer, an array |
| `mask` | the highest bit of a mask cleared; a mask of a Triton load or store left out |
| `arithmetic` | `+` for `-`, `/` for `%`, a factor dropped |
| `condition`, `boolean`, `negation` | a condition always true or false, a truth value turned round, a sign dropped |
| `accumulate`, `zero` | `+=` to `=`, a sum that starts at one |
| `barrier`, `statement` | a barrier, wait, commit or fence left out; any other call or assignment left out |
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from gridstone.lower.target import Language
from gridstone.proof import mutate_c, mutate_triton
from gridstone.templates.source import Source

OPERATORS = (
    "relational", "equality", "logical", "bitwise", "extremum", "constant", "shift", "index", "extent", "mask",
    "arithmetic", "condition", "boolean", "negation", "accumulate", "zero", "barrier", "statement",
)  # fmt: skip
_ID = 12  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Mutant:
    """A text with one fault.

    Args:
        id: The same in every run, as long as the kernel, the line and what stands on it stay the same.
        operator: One of `OPERATORS`.
        line: Number of the line, from 1.
        before, after: What stood there, and what stands there now.
        original: The text without the fault.
        start: Where it begins.
    """

    id: str
    operator: str
    line: int
    before: str
    after: str
    original: str = field(repr=False)
    start: int = field(repr=False)

    @property
    def text(self) -> str:
        """The text with the fault."""
        return self.original[: self.start] + self.after + self.original[self.start + len(self.before) :]

    @property
    def line_text(self) -> str:
        """The line as it was, without its indentation."""
        return self.original.splitlines()[self.line - 1].strip()

    def __str__(self) -> str:
        return f"{self.id} {self.operator} at line {self.line}: {self.before!r} -> {self.after!r} in {self.line_text}"


def mutants(source: Source, compiled: frozenset[int] | None = None) -> tuple[Mutant, ...]:
    """Return all mutants of a text, in order of place.

    Args:
        source: Emitted C++, CUDA or Triton.
        compiled: Of C++ and CUDA: numbers of the lines that an unoptimised build has machine code of. Functions without
            any are left alone; all are changed when it is omitted.
    """
    text = source.text
    match source.language:
        case Language.CPP | Language.CUDA:
            edits = mutate_c.edits(text, compiled, on_cpu=source.language is Language.CPP)
        case Language.TRITON:
            edits = mutate_triton.edits(text, source.entry)
        case _:
            edits = iter(())
    origin = source.origin
    name = "|".join((origin.recipe, origin.spec, origin.schedule, origin.target))
    lines, seen = text.splitlines(), Counter[tuple[str, str]]()
    found: list[Mutant] = []
    for edit in edits:
        line = text.count("\n", 0, edit.start)
        kind = (edit.operator, lines[line].strip())
        number = hashlib.sha256("\0".join((name, *kind, str(seen[kind]))).encode()).hexdigest()[:_ID]
        seen[kind] += 1
        before = text[edit.start : edit.end]
        found.append(Mutant(number, edit.operator, line + 1, before, edit.after, text, edit.start))
    return tuple(found)
