"""Candidates: every recipe with every feasible schedule on every target asked for, the library call included."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gridstone.ir.errors import ScheduleError
from gridstone.ir.spec import Spec
from gridstone.lower.schedule import Schedule, Value, parse_schedule, print_schedule
from gridstone.lower.target import Language, Target
from gridstone.templates.recipe import Recipe
from gridstone.templates.registry import refusal
from gridstone.templates.render import recipe_hash
from gridstone.tuner.feasible import Branch, FeasibleSet

LIMIT = 200_000  # feasible schedules of one recipe that are held; later ones are left out


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute a spec."""

    recipe: Recipe[Schedule]
    schedule: Schedule
    target: Target

    @property
    def text(self) -> str:
        """Recipe, schedule and target, for people."""
        return f"{self.recipe.name} {print_schedule(self.schedule)} {self.target}"

    @property
    def hash(self) -> str:
        """What it is quarantined by: its text and its recipe's hash."""
        return hashlib.sha256(f"{self.text}\0{recipe_hash(self.recipe)}".encode()).hexdigest()[:16]

    @property
    def is_library(self) -> bool:
        """Whether it is the call that is used without Gridstone."""
        return self.target.language is Language.LIBRARY


class Candidates:
    """The candidates of a spec, numbered as the points of a feasible set.

    Args:
        spec: Static.
        choices: (recipe, target) pairs, in order of preference; recipes that refuse the spec are left out before.
    """

    def __init__(self, spec: Spec, choices: Sequence[tuple[Recipe[Schedule], Target]]) -> None:
        self.choices = tuple(choices)
        self._starts = [
            recipe.space.default(spec.with_storage(target.storage), target) for recipe, target in self.choices
        ]
        self.points = FeasibleSet(
            [_branch(spec.with_storage(target.storage), recipe, target) for recipe, target in self.choices]
        )

    def candidate(self, point: int) -> Candidate:
        """Return the candidate of a point."""
        at, row = self.points.locate(point)
        branch = self.points.branches[at]
        fields: dict[str, Value] = {
            axis.field: axis.values[ordinal] for axis, ordinal in zip(branch.axes, branch.rows[row], strict=True)
        }
        recipe, target = self.choices[at]
        return Candidate(recipe, dataclasses.replace(self._starts[at], **fields), target)

    def point(self, recipe: str, target: str, schedule: str) -> int | None:
        """Return the point of a candidate that is given by its texts, or None when it is not feasible here."""
        for at, (known, place) in enumerate(self.choices):
            if (known.name, str(place)) == (recipe, target):
                try:
                    return self._find(at, parse_schedule(schedule, known.schedule, self._starts[at]))
                except ScheduleError:
                    return None
        return None

    def defaults(self) -> tuple[int, ...]:
        """Return the points of the recipes' default schedules, in order of preference, infeasible ones left out."""
        found = (self._find(at, start) for at, start in enumerate(self._starts))
        return tuple(point for point in found if point is not None)

    def _find(self, at: int, schedule: Schedule) -> int | None:
        branch = self.points.branches[at]
        row = _row(branch, schedule)
        point = None if row is None else self.points.find(branch.name, row)
        # Fields that no axis covers are as in the default, or the schedule is none of these.
        return point if point is not None and self.candidate(point).schedule == schedule else None


def _branch(spec: Spec, recipe: Recipe[Schedule], target: Target) -> Branch:
    axes = recipe.space.fields
    bare = Branch(f"{recipe.name}@{target}", axes, np.empty((0, len(axes)), dtype=np.int16))
    rows = [_row(bare, schedule) for schedule in itertools.islice(recipe.space.feasible(spec, target), LIMIT)]
    return dataclasses.replace(bare, rows=np.array(rows, dtype=np.int16).reshape(len(rows), len(axes)))


def _row(branch: Branch, schedule: Schedule) -> tuple[int, ...] | None:
    """Return the ordinals of a schedule, or None when a value is not among the choices."""
    try:
        return tuple(axis.values.index(getattr(schedule, axis.field)) for axis in branch.axes)
    except ValueError:
        return None


def pairs(
    recipes: Sequence[Recipe[Schedule]], spec: Spec, target: Target
) -> tuple[tuple[Recipe[Schedule], Target], ...]:
    """Return the recipes that compute a spec on a target, in their order, each with the target."""
    resolved = spec.with_storage(target.storage)
    return tuple(
        (recipe, target)
        for recipe in recipes
        if (recipe.op, recipe.language) == (spec.op.name, target.language) and refusal(recipe, resolved, target) is None
    )
