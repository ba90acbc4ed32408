# pyright: strict
"""Nested tuples of ints: shapes, strides and coordinates; how they are checked, numbered, written and read.

The order is co-lexicographic: the leftmost int runs fastest (why: `gridstone/ir/layout.py`).
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Iterator
from typing import Final, TypeAlias, cast

from gridstone.ir.errors import LayoutError

IntTuple: TypeAlias = "int | tuple[IntTuple, ...]"

_NUMBER: Final = re.compile(r"[0-9]+")
_LONGEST: Final = 600  # digits of a number in a text; Python may refuse more than 640
_DEEPEST: Final = 64  # tuples in each other in a text


def product(value: IntTuple) -> int:
    """The product of all ints in a nested tuple; 1 for ()."""
    return math.prod(ints(value))


def is_congruent(a: IntTuple, b: IntTuple) -> bool:
    """Whether two tuples are nested alike, whatever their ints are."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(is_congruent, a, b))
    return not isinstance(a, tuple) and not isinstance(b, tuple)


def is_compatible(coarse: IntTuple, fine: IntTuple) -> bool:
    """Whether shape `fine` is `coarse` with some extents split into tuples of the same size.

    Then each coordinate of `coarse` is one of `fine`, for the same element.

    >>> is_compatible((4, 6), (4, (2, 3))), is_compatible((4, 6), (2, 12))
    (True, False)
    """
    if isinstance(coarse, int):
        return product(fine) == coarse
    return isinstance(fine, tuple) and len(coarse) == len(fine) and all(map(is_compatible, coarse, fine))


def compact_stride(shape: IntTuple) -> IntTuple:
    """The column-major strides without holes: each is the product of all extents to its left.

    >>> compact_stride((4, (2, 3), 5))
    (1, (4, 8), 24)
    """
    return nested(itertools.accumulate(ints(shape), operator.mul, initial=1), shape)


def crd2idx(crd: IntTuple, shape: IntTuple, stride: IntTuple | None = None) -> int:
    """The index of coordinate `crd`: `Layout(shape, stride)(crd)`.

    >>> crd2idx((3, 2), (4, 4)), crd2idx((3, 2), (4, 4), (4, 1))
    (11, 14)
    """
    extents, steps = checked_strides(shape, stride)
    return index_of(checked(crd, least=0, noun="coordinate"), extents, steps)


def idx2crd(idx: int, shape: IntTuple) -> IntTuple:
    """The coordinate of the element with number `idx`, nested as `shape`; the inverse of `crd2idx(crd, shape)`.

    Raises:
        LayoutError: `idx` is not in [0, size(shape)).

    Example:
        >>> idx2crd(11, (4, (2, 2)))
        (3, (0, 1))
    """
    if not 0 <= idx < product(shape):
        raise LayoutError(f"number {idx} is outside shape {as_text(shape)} of size {product(shape)}")

    def digits(rest: int) -> Iterator[int]:
        for extent in ints(shape):
            rest, digit = divmod(rest, extent)
            yield digit

    return nested(digits(idx), shape)


def index_of(coord: IntTuple, shape: IntTuple, stride: IntTuple) -> int:
    """The index of a coordinate in a shape and a stride that are known to be congruent."""
    if isinstance(coord, tuple):
        if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(coord) != len(shape):
            raise LayoutError(
                f"coordinate {as_text(coord)} does not fit shape {as_text(shape)}: it is nested deeper or longer"
            )
        return sum(map(index_of, coord, shape, stride))
    if coord >= product(shape):
        raise LayoutError(f"coordinate {coord} is outside shape {as_text(shape)} of size {product(shape)}")
    index = 0
    for extent, step in zip(ints(shape), ints(stride), strict=True):
        coord, digit = divmod(coord, extent)
        index += digit * step
    return index


def ints(value: IntTuple) -> Iterator[int]:
    """The ints of a nested tuple, from left to right."""
    if isinstance(value, tuple):
        for item in value:
            yield from ints(item)
    else:
        yield value


def nested(values: Iterator[int] | Iterator[IntTuple], profile: IntTuple) -> IntTuple:
    """The values, in order, nested as the profile is."""
    if isinstance(profile, tuple):
        return tuple(nested(values, item) for item in profile)
    return next(values)


def checked(value: object, least: int, noun: str) -> IntTuple:
    """The value as plain nested ints (a torch.Size or a NumPy int may come in), or a LayoutError."""
    if isinstance(value, tuple):
        return tuple(checked(item, least, noun) for item in cast("tuple[object, ...]", value))
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise LayoutError(f"{noun} {value!r} is a {type(value).__name__}", "give an int, or a nested tuple of ints")
    number = operator.index(cast("int", value))
    if number < least:
        raise LayoutError(f"{noun} {number} is refused: {'an' if noun == 'extent' else 'a'} {noun} is {least} or more")
    return number


def checked_strides(shape: object, stride: object = None) -> tuple[IntTuple, IntTuple]:
    """A shape and a stride nested alike, or a LayoutError; without a stride the compact one."""
    extents = checked(shape, least=1, noun="extent")
    steps = compact_stride(extents) if stride is None else checked(stride, least=0, noun="stride")
    if not is_congruent(extents, steps):
        raise LayoutError(f"shape {as_text(extents)} and stride {as_text(steps)} are nested differently")
    return extents, steps


def as_text(value: IntTuple) -> str:
    """A nested tuple without spaces; a tuple of one has a comma, so that (4,) and 4 differ."""
    if isinstance(value, int):
        return str(value)
    return f"({','.join(map(as_text, value))}{',' if len(value) == 1 else ''})"


def read_int_tuple(text: str, start: int, depth: int = 0) -> tuple[IntTuple, int]:
    """The int tuple that starts at a position of the text, and the position behind it."""
    number = _NUMBER.match(text, start)
    if number is not None:
        if len(number[0]) > _LONGEST:
            raise unreadable(text, start, f"a number of at most {_LONGEST} digits")
        return int(number[0]), number.end()
    if not text.startswith("(", start):
        raise unreadable(text, start, "a number or '('")
    if depth == _DEEPEST:
        raise unreadable(text, start, f"tuples at most {_DEEPEST} deep")
    items: list[IntTuple] = []
    at = start + 1
    while not text.startswith(")", at):
        item, at = read_int_tuple(text, at, depth + 1)
        items.append(item)
        if text.startswith(",", at):
            at += 1
        elif len(items) == 1:
            raise unreadable(text, at, "','; a tuple of one is written (4,)")
        elif not text.startswith(")", at):
            raise unreadable(text, at, "',' or ')'")
    return tuple(items), at + 1


def unreadable(text: str, at: int, expected: str) -> LayoutError:
    """The error that says what was expected at a position of the text of a layout."""
    found = repr(text[at]) if at < len(text) else "the end"
    return LayoutError(f"cannot read the layout {text!r}: expected {expected} at column {at + 1}, found {found}")
