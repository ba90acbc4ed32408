"""Subjects: what is fuzzed. A subject draws cases, runs one, and knows simpler ones; a case is a line of text.

Because a case is text, and says everything that its outcome depends on, it travels between processes, is printed as a
repro, kept in a file, and run again years later. No case is ever a position in a stream of random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from gridstone.ir.errors import SpecError, nearest


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run is restricted to; an empty field restricts nothing.

    Args:
        ops: Names of ops.
        targets: Names of targets, as `cpp:avx2`, or of languages, as `cuda`.
        formats: Names of formats, as `int4:g128`, or of codes, as `int4`.
    """

    ops: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()

    def takes_op(self, name: str) -> bool:
        """Whether an op is wanted."""
        return not self.ops or name in self.ops

    def takes_target(self, name: str) -> bool:
        """Whether a target is wanted, by its own name or its language's."""
        return not self.targets or name in self.targets or name.partition(":")[0] in self.targets

    def takes_format(self, name: str) -> bool:
        """Whether a format is wanted, by its own name or its code's."""
        return not self.formats or name in self.formats or name.partition(":")[0] in self.formats


@dataclass(frozen=True, slots=True)
class Trying:
    """A case is about to run: if the process dies now, it was this one."""

    case: str


@dataclass(frozen=True, slots=True)
class Ran:
    """Cases that ran and were right.

    Args:
        cases: How many.
        row: What they cover, for the table: a recipe, a law.
        kernel: Hash of the built kernel, where there is one, so that distinct ones can be counted.
    """

    cases: int
    row: str
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A case that is wrong, and what is wrong with it."""

    case: str
    problem: str


Event = Trying | Ran | Failed


class Subject(Protocol):
    """Something that can be wrong."""

    @property
    def name(self) -> str:
        """A word for the command line and the names of files, such as `cuda` or `layout`."""
        ...

    def missing(self) -> str:
        """Return why it cannot run on this machine; empty when it can."""
        ...

    def explore(self, seed: int, wanted: Wanted) -> Iterator[Event]:
        """Draw some cases and run them, for a few seconds; the same seed draws the same cases."""
        ...

    def problem(self, case: str) -> str:
        """Run one case; return what is wrong, empty when it is right.

        Raises:
            SpecError: The text is no case of this subject.
        """
        ...

    def simpler(self, case: str) -> Iterator[str]:
        """Yield simpler cases, the simplest first, any of which may be wrong for the same reason."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """A failure, shrunk.

    Args:
        subject: Name of the subject.
        case: The simplest case found.
        problem: What is wrong with it.
        first: The case that was found first.
        steps: Simpler cases tried.
    """

    subject: str
    case: str
    problem: str
    first: str
    steps: int = field(default=0, compare=False)

    @property
    def repro(self) -> str:
        """The command that runs it again."""
        return f"gridstone fuzz --case {quoted(f'{self.subject}: {self.case}')}"


def quoted(text: str) -> str:
    """Return a text as one word of a POSIX shell.

    >>> print(quoted("a 'b'"))
    'a '"'"'b'"'"''
    """
    return "'" + text.replace("'", "'\"'\"'") + "'"


def split_case(text: str) -> tuple[str, str]:
    """Return (name of the subject, case) of a printed case, `subject: case`.

    Raises:
        SpecError: There is no subject before a colon.
    """
    name, colon, case = text.strip().partition(": ")
    if not colon or not name.isidentifier():
        raise SpecError(f"{text!r} does not name a subject", "write it as printed: `cpp: gemm[...] | ...`")
    return name, case


def subject_named(name: str, subjects: Iterable[Subject]) -> Subject:
    """Return the subject of this name; SpecError suggests the nearest."""
    known = {subject.name: subject for subject in subjects}
    if name not in known:
        raise SpecError(f"nothing called {name!r} is fuzzed", nearest(name, known))
    return known[name]
