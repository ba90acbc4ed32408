"""Plan: a spec and a schedule with every decision that a template needs. Nothing in it is ever overwritten."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from gridstone.ir.spec import Spec
from gridstone.ir.text import print_spec
from gridstone.lower.decisions import Decision
from gridstone.lower.schedule import Schedule, print_schedule
from gridstone.lower.target import Target

D = TypeVar("D", bound=Decision)


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions in the order in which the passes took them."""

    spec: Spec
    schedule: Schedule
    target: Target
    decisions: tuple[Decision, ...] = ()

    def the(self, kind: type[D]) -> D:
        """Return the decision of this kind; it is a bug to ask before its pass has run."""
        for decision in self.decisions:
            if isinstance(decision, kind):
                return decision
        raise AssertionError(f"no {kind.__name__} decision yet")

    def __str__(self) -> str:
        lines = [f"spec      {print_spec(self.spec)}", f"target    {self.target}"]
        lines.append(f"schedule  {print_schedule(self.schedule)}")
        lines.extend(print_decision(decision) for decision in self.decisions)
        return "\n".join(lines)


def print_decision(decision: Decision) -> str:
    """Return a decision as one line per field, aligned under its name."""
    rows = [(f.name, getattr(decision, f.name)) for f in dataclasses.fields(decision)]
    name = type(decision).__name__.lower()
    return "\n".join(f"{name if i == 0 else '':<14}{field} = {value}" for i, (field, value) in enumerate(rows))
