"""The feasible set as numbers: what a search moves in, whether a device or a recorded table answers it.

A point is an integer from 0 to size - 1. It lies in one branch (a recipe on a target), where its schedule is a row of
ordinals: the index of every field's value among the field's choices. No infeasible schedule has a number.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gridstone.lower.schedule import Choice

Ordinals = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """The feasible schedules of one recipe on one target.

    Args:
        name: Unique in its set.
        axes: The choices, one for each column of `rows`.
        rows: (points, axes) ordinals, no two rows equal.
    """

    name: str
    axes: tuple[Choice, ...]
    rows: Ordinals

    def steps(self, ordinals: Sequence[int], among: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """Return the distance of rows from ordinals: steps along ordered axes, 1 where names or switches differ."""
        apart = np.abs(self.rows[among].astype(np.int64) - np.asarray(ordinals, dtype=np.int64))
        named = [not is_ordered(axis) for axis in self.axes]
        return np.where(named, apart > 0, apart).sum(axis=1)


def is_ordered(axis: Choice) -> bool:
    """Return whether neighbouring values of a choice are alike: numbers are, names and switches are not."""
    return all(isinstance(value, int) and not isinstance(value, bool) for value in axis.values)


class FeasibleSet:
    """Branches laid end to end.

    Args:
        branches: Not all empty.

    >>> from gridstone.lower.schedule import Choice
    >>> rows = np.array([[0], [2]], dtype=np.int16)
    >>> points = FeasibleSet([Branch("a", (Choice("tile", (8, 16, 32)),), rows), Branch("library", (), rows[:1, :0])])
    >>> points.size, points.locate(2), points.find("a", [2]), points.find("a", [1])
    (3, (1, 0), 1, None)
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        self.branches = tuple(branches)
        sizes = [len(branch.rows) for branch in self.branches]
        self.starts = [sum(sizes[:at]) for at in range(len(sizes))]
        self.size = sum(sizes)
        self._numbers = {branch.name: at for at, branch in enumerate(self.branches)}
        assert len(self._numbers) == len(self.branches), "two branches of one name"

    def locate(self, point: int) -> tuple[int, int]:
        """Return (index of the branch, row in it) of a point."""
        at = bisect.bisect_right(self.starts, point) - 1
        return at, point - self.starts[at]

    def ordinals(self, point: int) -> tuple[int, ...]:
        """Return the row of a point."""
        branch, row = self.locate(point)
        return tuple(int(ordinal) for ordinal in self.branches[branch].rows[row])

    def find(self, branch: str, ordinals: Sequence[int]) -> int | None:
        """Return the point of a branch with exactly these ordinals, or None when that is not feasible."""
        at = self._numbers[branch]
        hits = np.flatnonzero((self.branches[at].rows == np.asarray(ordinals, dtype=np.int16)).all(axis=1))
        return self.starts[at] + int(hits[0]) if hits.size else None

    def rows_left(self, branch: int, free: Mask) -> npt.NDArray[np.intp]:
        """Return the rows of a branch whose points are free."""
        start = self.starts[branch]
        return np.flatnonzero(free[start : start + len(self.branches[branch].rows)])

    def project(self, branch: int, ordinals: Sequence[int], free: Mask, rng: np.random.Generator) -> int:
        """Return the free point of a branch that is nearest to ordinals, any of them on a tie."""
        rows = self.rows_left(branch, free)
        apart = self.branches[branch].steps(ordinals, rows)
        return self.starts[branch] + int(rng.choice(rows[apart == apart.min()]))
