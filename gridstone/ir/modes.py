# pyright: strict
"""A layout and its modes: the class, its sizes, and what takes its modes apart and puts them together.

Read `gridstone/ir/layout.py` first: it says what a layout is, and why so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, overload

from gridstone.ir.errors import LayoutError
from gridstone.ir.int_tuple import (
    IntTuple,
    as_text,
    checked,
    checked_strides,
    index_of,
    ints,
    product,
    read_int_tuple,
    unreadable,
)

Tiler: TypeAlias = "int | Layout | tuple[Tiler, ...]"
"""What divides or repeats a layout: a layout, an int n for n:1, or a tuple of tilers, one for each leading mode."""

Mode: TypeAlias = tuple[int, int]
"""The extent and the stride of one mode of a flat layout."""

_Partner = TypeVar("_Partner")
_MARK: Final = re.compile(r"([(),:])")


@dataclass(frozen=True, slots=True, init=False)
class Layout:
    """The function coordinate -> index that a shape and a stride of the same nesting define.

    Args:
        shape: positive extents, nested at will; the leftmost runs fastest.
        stride: the step in the index of each extent, congruent to `shape`, not negative. Omitted: compact column-major.

    Raises:
        LayoutError: an extent below 1, a negative stride, or a stride that is not nested as the shape is.

    Example:
        >>> print(Layout((4, (2, 3)), (2, (1, 8))), Layout((4, 8)))
        (4,(2,3)):(2,(1,8)) (4,8):(1,4)
    """

    shape: IntTuple
    stride: IntTuple

    def __init__(self, shape: IntTuple, stride: IntTuple | None = None) -> None:
        extents, steps = checked_strides(shape, stride)
        object.__setattr__(self, "shape", extents)
        object.__setattr__(self, "stride", steps)

    def __call__(self, coord: IntTuple) -> int:
        """The index of a coordinate: an int, or a tuple nested as the shape, or one with an int in place of any tuple.

        Raises:
            LayoutError: the coordinate is out of range, or nested deeper or longer than the shape.
        """
        return index_of(checked(coord, least=0, noun="coordinate"), self.shape, self.stride)

    def __str__(self) -> str:
        return f"{as_text(self.shape)}:{as_text(self.stride)}"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """The layout that prints as `text`; spaces are free, and ':stride' may be omitted for compact column-major.

        Raises:
            LayoutError: the text is not a layout; the message shows where.

        Example:
            >>> Layout.parse("(8,512):(1,8)") == Layout.parse("(8, 512)")
            True
        """
        text = "".join(part.strip() for part in _MARK.split(text))
        shape, end = read_int_tuple(text, 0)
        if end == len(text):
            return cls(shape)
        if text[end] != ":":
            raise unreadable(text, end, "':' and the stride")
        stride, end = read_int_tuple(text, end + 1)
        if end != len(text):
            raise unreadable(text, end, "the end")
        return cls(shape, stride)


def size(value: Layout | IntTuple) -> int:
    """How many coordinates a layout, or a shape, has.

    >>> size(Layout((4, (2, 3)))), size((4, 8))
    (24, 32)
    """
    return product(_shape(value))


def cosize(layout: Layout) -> int:
    """One more than the largest index of a layout: the room that it needs.

    >>> cosize(Layout((4, 8), (1, 10)))
    74
    """
    return 1 + sum((extent - 1) * step for extent, step in leaves(layout))


def rank(value: Layout | IntTuple) -> int:
    """How many modes there are at the top; 1 for an int."""
    shape = _shape(value)
    return len(shape) if isinstance(shape, tuple) else 1


def depth(value: Layout | IntTuple) -> int:
    """How deep the nesting goes; 0 for an int, 1 for a flat tuple."""
    shape = _shape(value)
    return 1 + max(map(depth, shape), default=0) if isinstance(shape, tuple) else 0


def modes(layout: Layout) -> tuple[Layout, ...]:
    """The modes of a layout as layouts; a layout of one int is its own only mode.

    >>> print(*modes(Layout(((2, 3), 4))))
    (2,3):(1,2) 4:6
    """
    if isinstance(layout.shape, tuple) and isinstance(layout.stride, tuple):
        return tuple(map(Layout, layout.shape, layout.stride))
    return (layout,)


def make_layout(*layouts: Layout) -> Layout:
    """The layout whose modes are the given ones; its index is the sum of theirs.

    >>> print(make_layout(Layout(4, 2), Layout((2, 3))))
    (4,(2,3)):(2,(1,2))
    """
    return Layout(tuple(part.shape for part in layouts), tuple(part.stride for part in layouts))


def select(layout: Layout, *which: int) -> Layout:
    """The layout of the modes with the given numbers, in that order: a projection, or a transpose.

    Raises:
        LayoutError: there is no mode with such a number.

    Example:
        >>> print(select(Layout((4, 8, 3)), 1, 0))
        (8,4):(4,1)
    """
    parts = modes(layout)
    for number in which:
        if not 0 <= number < len(parts):
            raise LayoutError(f"{layout} has modes 0 to {len(parts) - 1}, not {number}")
    return make_layout(*(parts[number] for number in which))


@overload
def flatten(value: Layout) -> Layout: ...
@overload
def flatten(value: IntTuple) -> tuple[int, ...]: ...
def flatten(value: Layout | IntTuple) -> Layout | tuple[int, ...]:
    """The same function, or the same ints, without nesting.

    >>> print(flatten(Layout((4, (2, 3)))), flatten((1, (2, (3,)))))
    (4,2,3):(1,4,8) (1, 2, 3)
    """
    if not isinstance(value, Layout):
        return tuple(ints(value))
    return value if isinstance(value.shape, int) else Layout(tuple(ints(value.shape)), tuple(ints(value.stride)))


def coalesce(layout: Layout, target: IntTuple | None = None) -> Layout:
    """The same function of one integer, with as few modes as it can have.

    Modes of extent 1 go, and a mode that continues its left neighbour (its stride is the neighbour's extent times the
    neighbour's stride) is merged into it.

    Args:
        layout: any layout.
        target: None or an int coalesces all of the layout into a flat one; a tuple coalesces mode by mode, so that the
            layout keeps its rank. Only the nesting of `target` counts; modes beyond its length stay as they are.

    Raises:
        LayoutError: `target` has more modes than the layout.

    Example:
        >>> nested = Layout((2, (1, 6)), (1, (6, 2)))
        >>> print(coalesce(nested), coalesce(nested, (1, 1)))
        12:1 (2,6):(1,2)
    """
    if isinstance(target, tuple):
        pairs, rest = paired(layout, target)
        return make_layout(*(coalesce(part, wanted) for part, wanted in pairs), *rest)
    merged: list[Mode] = []
    for extent, step in leaves(layout):
        if extent == 1:
            continue
        if merged and step == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0] * extent, merged[-1][1])
        else:
            merged.append((extent, step))
    return flat(merged)


def leaves(layout: Layout) -> list[Mode]:
    """The flat modes of a layout; for a layout that `coalesce` returned, at least one."""
    return list(zip(ints(layout.shape), ints(layout.stride), strict=True))


def flat(pairs: Sequence[Mode]) -> Layout:
    """The layout of some flat modes: 1:0 for none, an int extent for one."""
    if len(pairs) == 1:
        return Layout(*pairs[0])
    return Layout(tuple(extent for extent, _ in pairs), tuple(step for _, step in pairs)) if pairs else Layout(1, 0)


def sorted_modes(layout: Layout) -> list[Mode]:
    """The flat modes that move the index, by stride."""
    return sorted((mode for mode in leaves(layout) if mode[0] > 1 and mode[1] > 0), key=lambda mode: mode[::-1])


def by_mode(operation: Callable[[Layout, Layout], Layout], layout: Layout, tiler: Tiler) -> Layout:
    """The operation on the whole layout, or on each mode when the tiler is a tuple; modes without a tiler stay."""
    if not isinstance(tiler, tuple):
        return operation(layout, as_layout(tiler))
    pairs, rest = paired(layout, tiler)
    return make_layout(*(by_mode(operation, part, own) for part, own in pairs), *rest)


def paired(layout: Layout, partners: tuple[_Partner, ...]) -> tuple[list[tuple[Layout, _Partner]], tuple[Layout, ...]]:
    """The leading modes of a layout, each with its partner, and the modes that have none."""
    parts = modes(layout)
    if len(partners) > len(parts):
        raise LayoutError(f"{layout} has {len(parts)} modes, too few for a tuple of {len(partners)}")
    return list(zip(parts, partners, strict=False)), parts[len(partners) :]


def as_layout(tiler: int | Layout) -> Layout:
    """A tiler that is no tuple as a layout: an int n is n:1."""
    return tiler if isinstance(tiler, Layout) else Layout(tiler)


def _shape(value: Layout | IntTuple) -> IntTuple:
    return value.shape if isinstance(value, Layout) else value
