"""Axes of a view of a stored (N, K) matrix: its own two, in either order, and extents over which it is repeated.

torch takes products apart into views of their operands: `@` with an x whose rows do not follow each other, `einsum`,
`bmm`. A packed weight cannot be reshaped, but each of those views is one tuple: `ROWS` and `COLUMNS` stand for the
matrix's own extents, any other entry is the extent of an axis along which every element is the same. So the plain
matrix is `(ROWS, COLUMNS)`, its transpose `(COLUMNS, ROWS)`, and `w.t().expand(3, -1, -1)` is `(3, COLUMNS, ROWS)`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

ROWS, COLUMNS = -1, -2
Axes = tuple[int, ...]
PLAIN: Axes = (ROWS, COLUMNS)


def extents(axes: Axes, n: int, k: int) -> tuple[int, ...]:
    """Return the shape of a view of an (n, k) matrix.

    >>> extents((3, COLUMNS, ROWS), 48, 64)
    (3, 64, 48)
    """
    return tuple(n if axis == ROWS else k if axis == COLUMNS else axis for axis in axes)


def is_transposed(axes: Axes) -> bool:
    """Whether K comes before N."""
    return axes.index(COLUMNS) < axes.index(ROWS)


def expanded(axes: Axes, n: int, k: int, size: Sequence[int]) -> Axes | None:
    """Return the axes after `expand(size)`, or None where no view of the matrix has that shape."""
    added = len(size) - len(axes)
    if added < 0 or -1 in size[:added]:
        return None
    kept: list[int] = []
    for axis, have, want in zip(axes, extents(axes, n, k), size[added:], strict=True):
        if want in (-1, have):
            kept.append(axis)
        elif axis == 1:
            kept.append(want)
        else:
            return None
    return (*size[:added], *kept)


def viewed(axes: Axes, n: int, k: int, size: Sequence[int]) -> Axes | None:
    """Return the axes after `view(size)`, or None where it would cut or join the matrix's own axes.

    Elements keep their order when as many of them lie before each of the matrix's own axes as did. One of extent 1 may
    stand anywhere: the last place is taken, so that repetitions lead.

    >>> viewed((2, 3, ROWS, COLUMNS), 48, 64, (6, 48, 64))
    (6, -1, -2)
    >>> viewed(PLAIN, 48, 64, (-1,)) is None
    True
    """
    have = extents(axes, n, k)
    if -1 in size:
        rest = math.prod(extent for extent in size if extent != -1)
        if not rest or math.prod(have) % rest:
            return None
        size = [math.prod(have) // rest if extent == -1 else extent for extent in size]
    if math.prod(size) != math.prod(have):
        return None
    own = [at for at, axis in enumerate(axes) if axis < 0]

    def fits(at: int, place: int) -> bool:
        same = size[place] == have[at]
        return same and (have[at] == 1 or math.prod(size[:place]) == math.prod(have[:at]))

    pairs = [(i, j) for i, j in itertools.permutations(range(len(size)), 2) if fits(own[0], i) and fits(own[1], j)]
    if not pairs:
        return None
    i, j = max(pairs, key=lambda pair: (min(pair), max(pair), pair[0] < pair[1]))
    return tuple(axes[own[0]] if at == i else axes[own[1]] if at == j else extent for at, extent in enumerate(size))
