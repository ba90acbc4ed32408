"""Outcomes of mutants: a line of JSON each, and the table that sums them up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.equivalent import reason


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant.

    Args:
        kernel: Its name.
        source: Hash of the text that it was made from.
        id: Of the mutant; "original" for the text itself.
        operator, line, text, before, after: Of the mutant; the text of its line.
        result: One of `examine.Result`'s values.
        by, why: The check that killed it, and what that said.
        seconds: It took.
    """

    kernel: str
    source: str
    id: str
    operator: str
    line: int
    text: str
    before: str
    after: str
    result: str
    by: str
    why: str
    seconds: float

    @property
    def reason(self) -> str:
        """Why it is equivalent; empty when nobody knows."""
        return reason(self.kernel, self.text, self.operator, self.before, self.after)

    def __str__(self) -> str:
        head = f"{self.result:9} {self.kernel:22} {self.id:12} {self.operator:10}"
        change = f"line {self.line}: {self.before!r} -> {self.after!r}"
        return f"{head} {change[:90]} {f'by {self.by}: {self.why[:110]}' if self.by else ''}".rstrip()


def read_outcomes(state: Path) -> list[Outcome]:
    """Return the outcomes of a file; a line that was cut off is left out, and the last of an id counts."""
    found: dict[tuple[str, str, str], Outcome] = {}
    for line in state.read_text().splitlines() if state.exists() else []:
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[outcome.kernel, outcome.source, outcome.id] = outcome
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Counts:
    """How many mutants of a row became what.

    Args:
        mutants: All that were made and built.
        stillborn, same: No mutants: a compiler refuses them, or sees no difference.
        killed: By check.
        survived: The others.
    """

    mutants: int
    stillborn: int
    same: int
    killed: Counter[str]
    survived: int

    @property
    def score(self) -> str:
        """Share of the mutants that are programs of their own which were killed."""
        tried = self.killed.total() + self.survived
        return f"{100 * self.killed.total() / tried:.1f} %" if tried else ""


def count(outcomes: Sequence[Outcome]) -> Counts:
    """Count outcomes."""
    results = Counter(outcome.result for outcome in outcomes)
    killed = Counter(outcome.by for outcome in outcomes if outcome.result == "killed")
    return Counts(len(outcomes), results["stillborn"], results["same"], killed, results["survived"])


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the tables by kernel and by operator, and every survivor with the reason why it is equivalent."""
    parts = [_table("kernel", lambda o: o.kernel, outcomes), _table("operator", lambda o: o.operator, outcomes)]
    survivors = [(o, o.reason) for o in outcomes if o.result == "survived"]
    lines = [f"{len(survivors)} survivors, {sum(not why for _, why in survivors)} of them OPEN"]
    for outcome, why in sorted(survivors, key=lambda pair: (bool(pair[1]), pair[0].kernel, pair[0].line)):
        lines += [
            f"{outcome.id} {outcome.kernel}, {outcome.operator}, line {outcome.line}: {outcome.text}",
            f"    {outcome.before!r} -> {outcome.after!r}",
            f"    {why or 'OPEN'}{f' ({outcome.why})' if outcome.why else ''}",
        ]
    return "\n\n".join([*parts, "\n".join(lines)])


def _table(title: str, row: Callable[[Outcome], str], outcomes: Sequence[Outcome]) -> str:
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(row(outcome), []).append(outcome)
    rows = [*((name, count(group)) for name, group in sorted(groups.items())), ("all", count(outcomes))]
    cells = [(title, "mutants", "stillborn", "same", "killed", "survived", "score", "killed by")]
    for name, of in rows:
        by = ", ".join(f"{check} {times}" for check, times in of.killed.most_common())
        numbers = (of.mutants, of.stillborn, of.same, of.killed.total(), of.survived)
        cells.append((name, *map(str, numbers), of.score, by))
    wide = [max(len(line[at]) for line in cells) for at in range(len(cells[0]) - 1)]
    numbers = [[part.rjust(w) for part, w in zip(line[1:-1], wide[1:], strict=True)] for line in cells]
    return "\n".join("  ".join([line[0].ljust(wide[0]), *n, line[-1]]) for line, n in zip(cells, numbers, strict=True))
