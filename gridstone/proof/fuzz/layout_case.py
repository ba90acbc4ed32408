"""Layouts to try the algebra on, the cases that hold them, and what each means when it is written out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from gridstone.ir.errors import LayoutError, SpecError
from gridstone.ir.layout import IntTuple, Layout, Swizzle, Swizzled, coalesce, flatten, make_layout, size
from gridstone.proof.fuzz.hypothesis_law import Choose

MOST = 4096  # elements of a layout in a case
EXTENTS = (1, 2, 2, 3, 4, 4, 5, 6, 8, 16, 32)
FAR = (0, 1, 2**35, 3 * 2**70)  # strides


class One(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layout."""

    layout: str

    def __post_init__(self) -> None:
        read(self.layout)


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two layouts: what is composed, divided or repeated, and by what."""

    layout: str
    by: str

    def __post_init__(self) -> None:
        if size(read(self.layout)) * size(read(self.by)) > 16 * MOST:
            raise SpecError(f"{self.layout} and {self.by} have too many elements")


class Triple(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Three layouts, composed in either order."""

    a: str
    b: str
    c: str

    def __post_init__(self) -> None:
        for text in (self.a, self.b, self.c):
            read(text)


class ByMode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layout and tilers for its leading modes."""

    layout: str
    by: tuple[str, ...]

    def __post_init__(self) -> None:
        for text in (self.layout, *self.by):
            read(text)


class Covered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layout and how many indices its complement is to cover."""

    layout: str
    cotarget: int

    def __post_init__(self) -> None:
        read(self.layout)
        if self.cotarget > 16 * MOST:
            raise SpecError(f"{self.cotarget} indices are too many")


class Mixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A swizzle's fields, and a layout that it follows."""

    bits: int
    base: int
    shift: int
    layout: str

    def __post_init__(self) -> None:
        read(self.layout)
        if max(map(abs, (self.bits, self.base, self.shift))) > 100:
            raise SpecError("fields of a swizzle up to 100 are enough")


class Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An access to memory: lanes, and how wide each reads."""

    layout: str
    swizzle: tuple[int, int, int]
    limit: int
    origin: int
    banks: int
    bank_bytes: int
    access_bytes: int

    def __post_init__(self) -> None:
        read(self.layout)
        if max(map(abs, self.swizzle)) > 100 or max(self.banks, self.bank_bytes, self.access_bytes) > 1024:
            raise SpecError("the machine is too large")


def read(text: str) -> Layout:
    """Return the layout of a text, read without the parser that is tried.

    Raises:
        SpecError: It is none, or it is too large for a case.
    """
    try:
        shape, _, stride = text.partition(":")
        layout = Layout(nested(shape), nested(stride))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{text!r} is no layout: {error}") from None
    if math.prod(leaves(layout.shape)) > MOST:
        raise SpecError(f"{text} has more than {MOST} elements")
    return layout


def nested(text: str) -> IntTuple:
    """Return the nested tuple of ints that a text such as `(4,(2,))` holds."""

    def tuples(value: object) -> IntTuple:
        if isinstance(value, list):
            return tuple(map(tuples, value))
        if not isinstance(value, int):
            raise ValueError(f"{value!r} is no integer")
        return value

    return tuples(json.loads(text.replace(",)", ")").replace("(", "[").replace(")", "]")))


def leaves(value: IntTuple) -> list[int]:
    """Return the ints of a nested tuple, written out."""
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else [value]


def images(layout: Layout | Swizzled) -> list[int]:
    """Return all indices in order, by the definition: leftmost fastest, each digit times its stride."""
    if isinstance(layout, Swizzled):
        return [permuted(layout.swizzle, index) for index in images(layout.layout)]
    found = [0]
    for extent, step in zip(leaves(layout.shape), leaves(layout.stride), strict=True):
        found = [index + digit * step for digit in range(extent) for index in found]
    return found


def permuted(swizzle: Swizzle, index: int) -> int:
    """Return where a swizzle moves an index, bit by bit."""
    low = swizzle.base + max(0, -swizzle.shift)
    for bit in range(swizzle.bits):
        index ^= (index >> (low + bit + swizzle.shift) & 1) << (low + bit)
    return index


def refined(fine: IntTuple, coarse: IntTuple) -> bool:
    """Whether a shape is another one with some extents split into tuples of the same size."""
    if isinstance(coarse, int):
        return math.prod(leaves(fine)) == coarse
    return isinstance(fine, tuple) and len(fine) == len(coarse) and all(map(refined, fine, coarse))


def accepted(make: Callable[[], Layout]) -> Layout | None:
    """Return what an operation gives, or None when it refuses its operands by name."""
    try:
        return make()
    except LayoutError:
        return None


def refuses(make: Callable[[], object]) -> bool:
    """Return whether a LayoutError is raised."""
    try:
        make()
    except LayoutError:
        return True
    return False


def same(what: str, expected: object, found: object) -> str:
    """Return that two values differ, in words; empty when they are equal."""
    return "" if expected == found else f"{what} is {_short(found)}, not {_short(expected)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 160 else text[:160] + "..."


def first(*faults: str) -> str:
    """Return the first fault that is one."""
    return next(filter(None, faults), "")


# Drawing --------------------------------------------------------------------------------------------------------------


def draw_shape(choose: Choose, most: int, depth: int = 3) -> IntTuple:
    """Choose a nested shape of up to five leaves and `most` elements."""
    extents: list[int] = []
    for extent in choose.some(0, 5, lambda: choose.one(EXTENTS)):
        if math.prod(extents) * extent <= most:
            extents.append(extent)
    return _nest(choose, extents, depth)


def _nest(choose: Choose, items: Sequence[int], depth: int) -> IntTuple:
    if len(items) == 1 and choose.flag():
        return items[0]
    if depth == 1 or not choose.flag():
        return tuple(items)
    at = choose.integer(0, len(items))
    return (_nest(choose, items[:at], depth - 1), _nest(choose, items[at:], depth - 1))


def _filled(shape: IntTuple, values: Iterator[int]) -> IntTuple:
    return tuple(_filled(item, values) for item in shape) if isinstance(shape, tuple) else next(values)


def draw_layout(choose: Choose, most: int = 256) -> Layout:
    """Choose any layout: compact in some order, or with any strides, broadcasts and overlaps included."""
    shape = draw_shape(choose, most)
    kind = choose.integer(0, 2)
    if kind == 0:
        return Layout(shape)
    if kind == 1:
        return draw_invertible(choose, most)
    strides = [choose.one([choose.integer(0, 30), *FAR]) for _ in leaves(shape)]
    return Layout(shape, _filled(shape, iter(strides)))


def draw_invertible(choose: Choose, most: int = 128, gap: int = 3) -> Layout:
    """Choose a one-to-one layout that has a complement: its modes in any order, with holes of up to `gap` between."""
    shape = draw_shape(choose, most)
    extents = leaves(shape)
    strides, end = [0] * len(extents), 1
    for place in choose.shuffled(range(len(extents))):
        strides[place] = end * choose.integer(1, gap)
        end = strides[place] * extents[place]
    return Layout(shape, _filled(shape, iter(strides)))


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, the smallest first."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def draw_inner(choose: Choose, outer: Layout) -> Layout:
    """Choose a layout that composes with another: digits of the numbers of its elements, split, permuted, repeated."""
    pieces: list[tuple[int, int]] = []
    weight = 1
    for extent in flatten(coalesce(outer).shape):
        first = choose.one(divisors(extent))
        pieces += [(first, weight), (extent // first, weight * first)]
        weight *= extent
    chosen = choose.shuffled(pieces)[: choose.integer(1, 4)]
    whole = Layout(tuple(extent for extent, _ in chosen), tuple(step for _, step in chosen))
    if choose.flag():
        return coalesce(whole)
    return make_layout(whole, Layout(choose.integer(1, 3), 0)) if choose.flag() else whole
