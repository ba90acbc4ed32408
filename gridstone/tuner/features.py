"""Features: what a model sees of the points of a feasible set, as numbers in which near means alike.

Costs follow ratios, so a number enters as its logarithm. Hardware counts in powers of two (lanes, banks, vectors), so
whether a number is one is a feature of its own where a choice has others too. A name is one column for each, a switch a
column. Choices of the same field in several recipes share their columns; a recipe without it is in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gridstone.lower.schedule import Choice
from gridstone.tuner.feasible import FeasibleSet, is_ordered

Matrix = npt.NDArray[np.float64]
_ABSENT = 0.5


def scales(axis: Choice) -> Matrix:
    """Return (values, columns) in 0..1: what each value of a choice is in every column.

    >>> from gridstone.lower.schedule import Choice
    >>> scales(Choice("tile", (1, 2, 4, 6, 16)))[:, 0].round(2).tolist()
    [0.0, 0.25, 0.5, 0.65, 1.0]
    >>> scales(Choice("tile", (2, 6, 8)))[:, 1].tolist()
    [0.0, 1.0, 0.0]
    >>> scales(Choice("order", ("row", "column", "z"))).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if not is_ordered(axis):
        if len(axis.values) <= 2:
            return np.arange(len(axis.values), dtype=np.float64)[:, None]
        return np.eye(len(axis.values))
    values = [int(value) for value in axis.values]
    low = min(values)
    # Numbers that start at 0, as switches and counts do, are moved by one; those below it only have an order.
    logs = [math.log2(v + (low == 0)) for v in values] if low >= 0 else list(range(len(values)))
    spread = (max(logs) - min(logs)) or 1.0
    columns = [[(log - min(logs)) / spread for log in logs]]
    odd = [float(v > 0 and v & (v - 1) != 0) for v in values]
    if low >= 0 and len(values) > 2 and 0 < sum(odd) < len(odd):
        columns.append(odd)
    return np.array(columns).T


class Features:
    """The features of a feasible set's points.

    Args:
        points: The set.
        prior: (size,) seconds that are believed of each point, NaN where nothing is: one more column.
    """

    def __init__(self, points: FeasibleSet, prior: Matrix | None = None) -> None:
        self._points = points
        self._prior = None if prior is None else _believed(prior)
        self._scales = [[scales(axis) for axis in branch.axes] for branch in points.branches]
        self._columns: dict[tuple[str, int], int] = {}
        for branch, tables in zip(points.branches, self._scales, strict=True):
            for axis, ordinals, table in zip(branch.axes, branch.rows.T, tables, strict=True):
                for column in range(table.shape[1]):
                    used = table[np.unique(ordinals), column]
                    if used.size and (len(points.branches) > 1 or used.min() < used.max()):  # else it tells nothing
                        self._columns.setdefault((axis.field, column), len(self._columns))
        self._branches = len(points.branches) if len(points.branches) > 1 else 0

    @property
    def width(self) -> int:
        """How many columns there are."""
        return len(self._columns) + self._branches + (self._prior is not None)

    def of(self, chosen: Sequence[int] | npt.NDArray[np.intp]) -> Matrix:
        """Return (chosen, width) features of points."""
        wanted = np.asarray(chosen, dtype=np.intp)
        found = np.full((len(wanted), self.width), _ABSENT)
        where = np.searchsorted(np.asarray(self._points.starts), wanted, side="right") - 1
        for at, branch in enumerate(self._points.branches):
            mine = np.flatnonzero(where == at)
            if not mine.size:
                continue
            rows = branch.rows[wanted[mine] - self._points.starts[at]]
            for axis, ordinals, table in zip(branch.axes, rows.T, self._scales[at], strict=True):
                for column in range(table.shape[1]):
                    place = self._columns.get((axis.field, column))
                    if place is not None:
                        found[mine, place] = table[ordinals, column]
        if self._branches:
            end = len(self._columns) + self._branches
            found[:, len(self._columns) : end] = where[:, None] == np.arange(self._branches)
        if self._prior is not None:
            found[:, -1] = self._prior[wanted]
        return found


def _believed(prior: Matrix) -> Matrix:
    """Return 0 for the shortest time that is believed of any point, 1 for the median, all longer and unknown ones."""
    known = prior[np.isfinite(prior)]
    if not known.size or known.min() <= 0 or known.min() == np.median(known):
        return np.ones(len(prior))
    share = np.log(prior / known.min()) / np.log(np.median(known) / known.min())
    return np.where(np.isfinite(share), np.minimum(share, 1.0), 1.0)
