"""Why some mutants that survive compute the same, each with its reason.

A row says which mutants it speaks of: by kernel, by what stands on the line, by operator, and by what was changed into
what. A reason must hold for each of them: a row names the kernels of which it is true where it is not true of all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Why mutants are equivalent.

    Args:
        line: Pattern of the line's text, searched in it.
        operators: Which operators; all of them when empty.
        change: Pattern of `before -> after`, searched in it.
        why: The reason, as a sentence that an expert can check.
        kernels: Pattern of the kernel's name, which all of it must match; any kernel when empty.
    """

    line: str
    operators: tuple[str, ...]
    change: str
    why: str
    kernels: str = ""

    def speaks_of(self, kernel: str, line: str, operator: str, change: str) -> bool:
        """Whether it is about a mutant."""
        known = not self.operators or operator in self.operators
        of = not self.kernels or bool(re.fullmatch(self.kernels, kernel))
        return of and known and bool(re.search(self.line, line)) and bool(re.search(self.change, change))


REASONS: tuple[Reason, ...] = ()


def reason(kernel: str, line: str, operator: str, before: str, after: str) -> str:
    """Return why a mutant is equivalent; empty when nothing is known."""
    change = f"{before} -> {after}"
    return next((found.why for found in REASONS if found.speaks_of(kernel, line, operator, change)), "")
