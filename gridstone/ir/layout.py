# pyright: strict
"""Layouts: functions from coordinates to indices, and the algebra on them.

The idea
--------
Where does element (m, n) of a tile lie? Every kernel answers that many times: in memory, in shared memory, in the
registers of a warp, in the bits of a packed word. A `Layout` is one small value that holds the answer: a *shape* and
a *stride*, two nested tuples of ints with the same nesting. It is a function: multiply a coordinate with the strides,
entry by entry, and add up. One tile, three layouts:

    column-major               row-major                  2x2 blocks of 2x2
    (4,4):(1,4)                (4,4):(4,1)                ((2,2),(2,2)):((1,4),(2,8))

         n=0  1  2  3               n=0  1  2  3               n=0  1    2  3
    m=0    0  4  8 12          m=0    0  1  2  3          m=0    0  2 |  8 10
    m=1    1  5  9 13          m=1    4  5  6  7          m=1    1  3 |  9 11
    m=2    2  6 10 14          m=2    8  9 10 11                ------+------
    m=3    3  7 11 15          m=3   12 13 14 15          m=2    4  6 | 12 14
                                                          m=3    5  7 | 13 15

>>> blocks = Layout(((2, 2), (2, 2)), ((1, 4), (2, 8)))
>>> blocks((3, 2)), blocks(((1, 1), (0, 1))), blocks(11)
(13, 13, 13)

The three calls name the same element. The entries of a shape are its *modes*. A mode that is itself a tuple still
counts as one mode, so the blocked tile is a 4x4 matrix like the others, and a caller that thinks in (m, n) need not
know that each of them is two digits: a coordinate may have one integer in place of any tuple, also of all of itself.

Why this direction
------------------
An integer becomes a coordinate **co-lexicographically: the leftmost mode runs fastest**, as in a little-endian number
whose digits have the extents as bases: 11 in (4,4) is (3, 2), since 11 = 3 + 2 * 4. This order does not depend on the
strides. It numbers the elements, and the strides then say where each of them lies. Three things follow:

* Fastest first means that a mode appended on the right changes no number before it. A tile stays itself when it is
  repeated, and a warp's lanes stay lanes 0 to 31 when a second warp joins. A row-major count renumbers everything.
* Coordinate -> index, and not back, because that direction always exists: broadcasts (stride 0) and overlapping windows
  are functions too. The way back exists for one-to-one layouts only; `left_inverse` builds it or says why it cannot.
* Functions compose. `composition(a, b)` is the layout of i -> a(b(i)); tiling, partitioning among threads, transposing
  and re-packing are all compositions, so one rule is proved once and used everywhere.

How this differs from row-major habits
--------------------------------------
PyTorch and C count the *last* axis fastest. A contiguous (M, N) tensor is here (M,N):(N,1): the strides are the
tensor's own, nothing is transposed, and `layout((m, n))` is what you expect. Two things change. An *omitted* stride
means compact column-major: (4,8) is (4,8):(1,4). And `layout(1)` is element (1, 0), not (0, 1). Inside a nested mode
too the fast digit is on the left.

What it is used for here
------------------------
* Packing: a weight format is one map (n, k) -> bit address. An importer is another such map, and a re-pack is the one
  composed with the other's inverse.
* Vector width: `max_vector` reads off how many elements of a thread lie in a row and aligned.
* Bank conflicts: `bank_conflicts` counts what one warp's access costs, and a `Swizzle` is chosen by that count.
* Fragments: the operands of a matrix instruction are layouts (thread, value) -> element of the tile.
* FFT digit order: a digit reversal is a layout with its modes in the other order, so it is never executed.

Limits
------
Extents are positive and strides are not negative: an empty layout has no index 0, and a negative stride would make
`cosize` a lie. Both are refused with a `LayoutError`, as is every operation whose result is no layout: divisibility is
checked, never rounded. A partial tile is expressed by padding first. Ints are Python's: bit addresses exceed 2**31.

The algebra is that of CuTe (Cecka, "CuTe Layout Representation and Algebra"; NVIDIA CUTLASS documentation), with the
rounding taken out. In the laws below `==` holds for every coordinate in range; `tests/ir/test_layout.py` checks them.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

IntTuple: TypeAlias = "int | tuple[IntTuple, ...]"
Tiler: TypeAlias = "int | Layout | tuple[Tiler, ...]"
"""What divides or repeats a layout: a layout, an int n for n:1, or a tuple of tilers, one for each leading mode."""

_Mode: TypeAlias = tuple[int, int]
"""The extent and the stride of one mode of a flat layout."""

_Partner = TypeVar("_Partner")
_Bits = TypeVar("_Bits", int, "npt.NDArray[np.int64]")


class LayoutError(ValueError):
    """A layout, or an operation on layouts, that does not exist; the message says which number is in the way."""


# The types ------------------------------------------------------------------------------------------------------------


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
        extents = _checked(shape, least=1, noun="extent")
        steps = compact_stride(extents) if stride is None else _checked(stride, least=0, noun="stride")
        if not is_congruent(extents, steps):
            raise LayoutError(f"shape {_text(extents)} and stride {_text(steps)} are nested differently")
        object.__setattr__(self, "shape", extents)
        object.__setattr__(self, "stride", steps)

    def __call__(self, coord: IntTuple) -> int:
        """The index of a coordinate: an int, or a tuple nested as the shape, or one with an int in place of any tuple.

        Raises:
            LayoutError: the coordinate is out of range, or nested deeper or longer than the shape.
        """
        return _index(_checked(coord, least=0, noun="coordinate"), self.shape, self.stride)

    def __str__(self) -> str:
        return f"{_text(self.shape)}:{_text(self.stride)}"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """The layout that prints as `text`; spaces are free, and ':stride' may be omitted for compact column-major.

        Raises:
            LayoutError: the text is not a layout; the message shows where.

        Example:
            >>> Layout.parse("(8,512):(1,8)") == Layout.parse("(8, 512)")
            True
        """
        text = _BESIDE_MARK.sub(r"\1", text.strip())
        shape, end = _read(text, 0)
        if end == len(text):
            return cls(shape)
        if text[end] != ":":
            raise _unreadable(text, end, "':' and the stride")
        stride, end = _read(text, end + 1)
        if end != len(text):
            raise _unreadable(text, end, "the end")
        return cls(shape, stride)


@dataclass(frozen=True, slots=True)
class Swizzle:
    """The permutation of indices that XORs one field of bits onto another; it is its own inverse.

    With `shift` > 0 the `bits` bits from `base + shift` up are XORed onto those from `base` up; with `shift` < 0 the
    bits from `base` up are XORed onto those from `base - shift` up. The unit is the unit of the index: a swizzle of
    elements and one of bytes differ in `base`.

    Args:
        bits: width of either field; 0 is the identity.
        base: position of the lower field: the low `base` bits, a vector, stay together.
        shift: signed distance of the fields, at least `bits` in size so that they do not overlap.

    Raises:
        LayoutError: negative `bits` or `base`, or fields that overlap.

    Example:
        >>> swizzle = Swizzle(2, 0, 3)
        >>> [swizzle(row * 8 + column) for row in (0, 1) for column in range(4)]
        [0, 1, 2, 3, 9, 8, 11, 10]
    """

    bits: int
    base: int
    shift: int

    def __post_init__(self) -> None:
        if self.bits < 0 or self.base < 0:
            raise LayoutError(f"{self}: bits and base count bits, so neither may be negative")
        if abs(self.shift) < self.bits:
            raise LayoutError(
                f"{self}: the two fields of {self.bits} bits overlap; the shift must be {self.bits} or more"
            )

    @property
    def source(self) -> int:
        """The mask of the bits that are read."""
        return ((1 << self.bits) - 1) << (self.base + max(self.shift, 0))

    def __call__(self, index: int) -> int:
        """The place where `index` goes; raises `LayoutError` if it is negative."""
        if index < 0:
            raise LayoutError(f"{self} moves indices from 0 up, not {index}")
        return index ^ _shifted(index & self.source, self.shift)

    def __str__(self) -> str:
        return f"Sw<{self.bits},{self.base},{self.shift}>"

    @classmethod
    def parse(cls, text: str) -> Swizzle:
        """The swizzle that prints as `text`, such as `Sw<3,4,3>`; raises `LayoutError` if none does."""
        found = _SWIZZLE.fullmatch(text)
        if found is None:
            raise LayoutError(f"cannot read the swizzle {text!r}: expected the form 'Sw<bits,base,shift>'")
        return cls(int(found[1]), int(found[2]), int(found[3]))


@dataclass(frozen=True, slots=True)
class Swizzled:
    """A layout followed by a swizzle: coordinate -> swizzle(layout(coordinate)).

    Example:
        >>> tile = Swizzled(Swizzle(3, 0, 3), Layout((8, 8), (8, 1)))
        >>> print(tile, [tile((row, 0)) % 8 for row in range(8)])
        Sw<3,0,3> o (8,8):(8,1) [0, 1, 2, 3, 4, 5, 6, 7]
    """

    swizzle: Swizzle
    layout: Layout

    def __call__(self, coord: IntTuple) -> int:
        """The index of a coordinate, which may be all that `Layout` takes."""
        return self.swizzle(self.layout(coord))

    def __str__(self) -> str:
        return f"{self.swizzle} o {self.layout}"

    @classmethod
    def parse(cls, text: str) -> Swizzled:
        """The value that prints as `text`, such as `Sw<3,4,3> o (8,64):(64,1)`; raises `LayoutError` if none does."""
        swizzle, found, layout = text.partition(" o ")
        if not found:
            raise LayoutError(
                f"cannot read the swizzled layout {text!r}: expected 'Sw<bits,base,shift> o shape:stride'"
            )
        return cls(Swizzle.parse(swizzle.strip()), Layout.parse(layout))


# Int tuples and single layouts ----------------------------------------------------------------------------------------


def product(value: IntTuple) -> int:
    """The product of all ints in a nested tuple; 1 for ()."""
    return math.prod(_ints(value))


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
    return 1 + sum((extent - 1) * step for extent, step in _leaves(layout))


def rank(value: Layout | IntTuple) -> int:
    """How many modes there are at the top; 1 for an int."""
    shape = _shape(value)
    return len(shape) if isinstance(shape, tuple) else 1


def depth(value: Layout | IntTuple) -> int:
    """How deep the nesting goes; 0 for an int, 1 for a flat tuple."""
    shape = _shape(value)
    return 1 + max(map(depth, shape), default=0) if isinstance(shape, tuple) else 0


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
    return _nested(itertools.accumulate(_ints(shape), operator.mul, initial=1), shape)


def crd2idx(crd: IntTuple, shape: IntTuple, stride: IntTuple | None = None) -> int:
    """The index of coordinate `crd`: `Layout(shape, stride)(crd)`.

    >>> crd2idx((3, 2), (4, 4)), crd2idx((3, 2), (4, 4), (4, 1))
    (11, 14)
    """
    return Layout(shape, stride)(crd)


def idx2crd(idx: int, shape: IntTuple) -> IntTuple:
    """The coordinate of the element with number `idx`, nested as `shape`; the inverse of `crd2idx(crd, shape)`.

    Raises:
        LayoutError: `idx` is not in [0, size(shape)).

    Example:
        >>> idx2crd(11, (4, (2, 2)))
        (3, (0, 1))
    """
    if not 0 <= idx < product(shape):
        raise LayoutError(f"number {idx} is outside shape {_text(shape)} of size {product(shape)}")

    def digits(rest: int) -> Iterator[int]:
        for extent in _ints(shape):
            rest, digit = divmod(rest, extent)
            yield digit

    return _nested(digits(idx), shape)


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
        return tuple(_ints(value))
    return value if isinstance(value.shape, int) else Layout(tuple(_ints(value.shape)), tuple(_ints(value.stride)))


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
        pairs, rest = _paired(layout, target)
        return make_layout(*(coalesce(part, wanted) for part, wanted in pairs), *rest)
    merged: list[_Mode] = []
    for extent, step in _leaves(layout):
        if extent == 1:
            continue
        if merged and step == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0] * extent, merged[-1][1])
        else:
            merged.append((extent, step))
    return _flat(merged)


# Composition, complement, inverses ------------------------------------------------------------------------------------


@overload
def composition(outer: Layout, inner: Tiler) -> Layout: ...
@overload
def composition(outer: Swizzled, inner: Tiler) -> Swizzled: ...
@overload
def composition(outer: Swizzle, inner: Layout) -> Swizzled: ...
def composition(outer: Layout | Swizzled | Swizzle, inner: Tiler) -> Layout | Swizzled:
    """The layout R with R(i) == outer(inner(i)) for every i < size(inner).

    Its shape is that of `inner`, with an extent split into a tuple where it crosses modes of `outer`.

    Args:
        outer: the map that comes second: a layout, a swizzle, or both.
        inner: the map that comes first; an int n is n:1; a tuple composes mode by mode and keeps the other modes.

    Raises:
        LayoutError: `inner` reaches beyond the size of `outer`, one of its modes crosses a mode of `outer` without
            dividing it, or two of its modes together do. In each case i -> outer(inner(i)) is no layout.

    Example:
        >>> row_major = Layout((4, 8), (8, 1))
        >>> print(composition(row_major, Layout((2, 8), (1, 2))))
        (2,(2,4)):(8,(16,1))
    """
    if isinstance(outer, Layout):
        return _by_mode(_compose, outer, inner)
    if isinstance(outer, Swizzled):
        return Swizzled(outer.swizzle, composition(outer.layout, inner))
    if isinstance(inner, tuple):
        raise LayoutError(f"{outer} has no modes to compose by mode; compose it with a layout")
    return Swizzled(outer, _as_layout(inner))


def complement(layout: Layout, cotarget: int | None = None) -> Layout:
    """The layout of the offsets that repeat a layout's image over [0, cotarget), each index once.

    Law: every index below `cotarget` is one index of `layout` plus one index of the complement, in one way. The
    complement is increasing. Broadcast modes (stride 0) of `layout` add nothing to its image and do not count.

    Args:
        layout: sorted by stride, each mode must end where a multiple of it starts the next: 4:1 then 2:8, not 4:1
            then 2:6.
        cotarget: how many indices to cover; None covers just up to where the layout's last mode ends.

    Raises:
        LayoutError: copies of the image cannot cover [0, cotarget) without overlap or rest.

    Example:
        >>> print(complement(Layout(4, 2), 24))
        (2,3):(1,8)
    """
    gaps: list[_Mode] = []
    end = 1
    for extent, step in _sorted_modes(layout):
        if step % end:
            raise LayoutError(
                f"{layout} has no complement: its mode {extent}:{step} starts at {step}, not a multiple of {end} "
                f"where the modes of smaller stride end; pad the stride to {_padded(step, end)}"
            )
        gaps.append((step // end, end))
        end = extent * step
    if cotarget is not None:
        if cotarget < 1 or cotarget % end:
            raise LayoutError(
                f"{layout} has no complement in {cotarget}: {end}, where its last mode ends, does not divide "
                f"{cotarget}; pad {cotarget} to {_padded(max(cotarget, 1), end)}"
            )
        gaps.append((cotarget // end, end))
    return _flat([gap for gap in gaps if gap[0] > 1])


def left_inverse(layout: Layout) -> Layout:
    """The layout L with L(layout(i)) == i for every i < size(layout): from an index back to the number of its element.

    What it yields for an index that `layout` does not reach has no meaning.

    Raises:
        LayoutError: two coordinates have one index, or no layout leads back: sorted by stride, each mode's stride must
            divide the next one's, and the mode must end at or before it.

    Example:
        >>> padded = Layout((8, 3), (1, 10))
        >>> back = left_inverse(padded)
        >>> print(back, back(padded((7, 2))) == 7 + 8 * 2)
        (10,3):(1,8) True
    """
    weighted = _weighted(layout)
    if any(step == 0 for step, _, _ in weighted):
        raise LayoutError(f"{layout} has no left inverse: a mode of stride 0 gives many coordinates one index")
    # A hole below the first mode: its digit is always 0, so any weight will do.
    inverse: list[_Mode] = [(weighted[0][0], 0)] if weighted else []
    for (step, extent, weight), (above, wider, _) in itertools.pairwise(weighted):
        if above % step or extent * step > above:
            raise LayoutError(
                f"{layout} has no left inverse: its mode {extent}:{step} ends at {extent * step}, and the next mode "
                f"{wider}:{above} must start there or later, at a multiple of {step}"
            )
        inverse.append((above // step, weight))
    inverse.extend((extent, weight) for _, extent, weight in weighted[-1:])
    return coalesce(_flat(inverse))


def right_inverse(layout: Layout) -> Layout:
    """The layout R with layout(R(j)) == j for every j < size(R): which element lies at index j.

    R covers the run of indices 0, 1, 2, ... that the modes of `layout` reach one after the other, each starting where
    the last one ends; 1:0 when there is none. For a compact layout that is all of it, and R is the inverse. It always
    exists, since a layout reaches index 0.

    Example:
        >>> print(right_inverse(Layout((4, 8), (8, 1))), right_inverse(Layout((4, 8), (1, 5))))
        (8,4):(4,1) 4:1
    """
    inverse: list[_Mode] = []
    end = 1
    for step, extent, weight in _weighted(layout):
        if step == end:
            inverse.append((extent, weight))
            end *= extent
    return coalesce(_flat(inverse))


# Division: a layout cut into tiles. Product: a layout repeated. -------------------------------------------------------


def logical_divide(layout: Layout, tiler: Tiler) -> Layout:
    """The layout cut into tiles: mode 0 walks inside a tile, mode 1 walks from tile to tile.

    It is `composition(layout, (tiler, complement(tiler, size(layout))))`. With a tuple of tilers each mode is cut by
    its own, and becomes such a pair.

    Args:
        layout: what to cut.
        tiler: which elements one tile has, as numbers of elements of `layout`; an int n takes n in a row.

    Raises:
        LayoutError: the tiles do not fill the layout exactly, or a tile crosses its modes without dividing them.

    Example:
        >>> print(logical_divide(Layout((8, 6), (6, 1)), (4, Layout(3, 2))))
        ((4,2),(3,2)):((6,24),(2,1))
    """
    return _by_mode(_split, layout, tiler)


def zipped_divide(layout: Layout, tiler: Tiler) -> Layout:
    """`logical_divide` with the parts gathered: mode 0 is the tile, mode 1 is everything from tile to tile.

    >>> print(zipped_divide(Layout((8, 6), (6, 1)), (4, 3)))
    ((4,3),(2,2)):((6,1),(24,3))
    """
    return make_layout(*_zipped(_split, layout, tiler))


def tiled_divide(layout: Layout, tiler: Tiler) -> Layout:
    """`zipped_divide` with the modes of the rest at the top: (tile, rest 0, rest 1, ...).

    >>> print(tiled_divide(Layout((8, 6), (6, 1)), (4, 3)))
    ((4,3),2,2):((6,1),24,3)
    """
    tile, rest = _zipped(_split, layout, tiler)
    return make_layout(tile, *modes(rest))


def logical_product(block: Layout, tiler: Tiler) -> Layout:
    """The block repeated: mode 0 is the block, mode 1 says where copy number j lies, in the order of `tiler`.

    Copies fill the holes of the block first and then follow it: mode 1 is `complement(block)`, continued as far as
    needed, composed with `tiler`. With a tuple of tilers each mode of the block is repeated on its own, which takes
    modes with room between them: mostly `blocked_product` is what you want.

    Args:
        block: what to repeat; it must have a `complement`.
        tiler: the layout of the copies, as numbers of places; an int n makes n copies in a row. A tuple has one tiler
            for each mode of the block.

    Raises:
        LayoutError: the block has no complement, the tiler does not divide it, or repeated modes would overlap.

    Example:
        >>> print(logical_product(Layout((2, 2), (4, 1)), Layout((2, 3))))
        ((2,2),(2,3)):((4,1),(2,8))
    """
    return _separate(_by_mode(_repeat, block, _one_each(block, tiler)), tiler)


def zipped_product(block: Layout, tiler: Tiler) -> Layout:
    """`logical_product` with the parts gathered: mode 0 is the block, mode 1 is all of the repetition.

    >>> print(zipped_product(Layout((4, 2), (1, 100)), (3, Layout(5, 100))))
    ((4,2),(3,5)):((1,100),(4,200))
    """
    return _separate(make_layout(*_zipped(_repeat, block, _one_each(block, tiler))), tiler)


def tiled_product(block: Layout, tiler: Tiler) -> Layout:
    """`zipped_product` with the modes of the repetition at the top: (block, copies 0, copies 1, ...).

    >>> print(tiled_product(Layout((4, 2)), Layout((3, 5))))
    ((4,2),3,5):((1,4),8,24)
    """
    first, copies = _zipped(_repeat, block, _one_each(block, tiler))
    return _separate(make_layout(first, *modes(copies)), tiler)


def blocked_product(block: Layout, repeats: Layout) -> Layout:
    """A block repeated mode by mode, kept together: mode i is (block's mode i, repeats' mode i).

    The shorter of the two gets modes 1:0 on the right.

    Raises:
        LayoutError: as `logical_product`.

    Example:
        >>> print(blocked_product(Layout((2, 2)), Layout((3, 4), (4, 1))))
        ((2,3),(2,4)):((1,16),(2,4))
    """
    inner, outer = _matched_product(block, repeats)
    return make_layout(*map(make_layout, inner, outer))


def raked_product(block: Layout, repeats: Layout) -> Layout:
    """A block repeated mode by mode, interleaved: mode i is (repeats' mode i, block's mode i).

    The same indices as `blocked_product`, dealt like cards: neighbours along a mode belong to different copies.

    Raises:
        LayoutError: as `logical_product`.

    Example:
        >>> print(raked_product(Layout((2, 2)), Layout((3, 4), (4, 1))))
        ((3,2),(4,2)):((16,1),(4,2))
    """
    inner, outer = _matched_product(block, repeats)
    return make_layout(*map(make_layout, outer, inner))


# Readings: what a layout means to a machine ---------------------------------------------------------------------------


def indices(layout: Layout | Swizzled) -> npt.NDArray[np.int64]:
    """All indices of a layout, in co-lexicographic order: `indices(x)[i] == x(i)`.

    Returns:
        An int64 array of `size(layout)` entries.

    Raises:
        LayoutError: an index does not fit into 63 bits.

    Example:
        >>> indices(Layout((2, 3), (3, 1)))
        array([0, 3, 1, 4, 2, 5])
    """
    if isinstance(layout, Swizzled):
        source, shift = layout.swizzle.source, layout.swizzle.shift
        if source | _shifted(source, shift) >= 1 << 63:
            raise LayoutError(f"{layout.swizzle} moves bits beyond 63; call {layout} with one coordinate at a time")
        plain = indices(layout.layout)
        return plain ^ _shifted(plain & source, shift)
    if cosize(layout) > 1 << 63:
        raise LayoutError(f"{layout} has indices beyond 63 bits; call it with one coordinate at a time")
    images = np.zeros(1, np.int64)
    for extent, step in _leaves(coalesce(layout)):
        # The new mode is slower than those before it, so it is the outer axis.
        images = np.add.outer(np.arange(extent, dtype=np.int64) * step, images).ravel()
    return images


def f2_matrix(layout: Layout | Swizzled) -> tuple[int, ...]:
    """The columns of a layout that is linear over bits: entry k is the index of element number 2**k.

    For such a layout f(a ^ b) == f(a) ^ f(b), so f(i) is the XOR of the entries at the set bits of i. That is the form
    in which swizzles, and layouts of powers of two, compose and invert by elimination.

    Raises:
        LayoutError: an extent is no power of two, or two entries share a bit, so that adding them carries.

    Example:
        >>> f2_matrix(Layout((4, 2), (2, 1)))
        (2, 4, 1)
        >>> f2_matrix(Swizzled(Swizzle(1, 0, 2), Layout((4, 2))))
        (1, 2, 5)
    """
    if isinstance(layout, Swizzled):
        return tuple(map(layout.swizzle, f2_matrix(layout.layout)))
    columns: list[int] = []
    seen = 0
    for extent, step in _leaves(layout):
        if extent & (extent - 1):
            raise LayoutError(f"{layout} is not linear over bits: its extent {extent} is no power of two")
        for column in (step << bit for bit in range(extent.bit_length() - 1)):
            if column & seen:
                raise LayoutError(
                    f"{layout} is not linear over bits: index {column} of its mode {extent}:{step} shares a bit with "
                    f"another mode or digit, so their sum is not their XOR"
                )
            seen |= column
            columns.append(column)
    return tuple(columns)


def max_vector(layout: Layout | Swizzled, *, limit: int | None = None, origin: int = 0) -> int:
    """How many elements one vector access may take: the widest contiguous, aligned run along the fastest coordinate.

    It is the largest power of two v such that each aligned group of v elements, numbers q*v to q*v + v - 1, lies at
    consecutive indices from a multiple of v on. For a `Swizzled` whose swizzle touches the indices, v also stays within
    the 2**base that the swizzle keeps together.

    Args:
        layout: number of an element -> index; the unit of both is one element.
        limit: the widest access of the machine, in elements, such as 128 bits // bits of an element; None: no limit.
        origin: the index, in elements, that is added (before the swizzle) to all of the layout's, or a number known to
            divide it.

    Raises:
        LayoutError: `limit` is below 1, or `origin` is negative.

    Example:
        >>> max_vector(Layout((8, 4), (1, 36))), max_vector(Layout((8, 4), (1, 32)), limit=4)
        (4, 4)
    """
    if origin < 0 or (limit is not None and limit < 1):
        raise LayoutError(f"max_vector needs a limit of 1 or more and an origin of 0 or more, not {limit} and {origin}")
    plain = layout.layout if isinstance(layout, Swizzled) else layout
    fastest, *rest = _leaves(coalesce(plain))
    run = fastest[0] if fastest[1] == 1 else 1
    run = math.gcd(run, origin, *(step for _, step in rest))
    if isinstance(layout, Swizzled) and layout.swizzle.bits:
        lowest = layout.swizzle.source & -layout.swizzle.source
        if origin or cosize(plain) > lowest:
            run = math.gcd(run, 1 << layout.swizzle.base)
    run &= -run
    return run if limit is None else min(run, 1 << (limit.bit_length() - 1))


def bank_conflicts(lanes: Layout | Swizzled, *, banks: int = 32, bank_bytes: int = 4, access_bytes: int = 4) -> int:
    """How many wavefronts one shared memory access of a warp takes; 1 is free of conflicts for accesses of one word.

    A bank yields one of its words in a wavefront, to any number of lanes. Lanes are served in groups that together ask
    for at most `banks * bank_bytes` bytes: all 32 for 4 bytes each, 16 for 8, 8 for 16. A group takes as many
    wavefronts as its fullest bank has distinct words, and group follows group, so the least for 16 bytes each is 4.
    (The groups: NVIDIA, GTC 2019, S9593, on 128-bit accesses. A word that two groups share is counted in both.)

    Args:
        lanes: lane -> address in bytes, one lane for each element.
        banks: number of banks.
        bank_bytes: width of a bank, in bytes.
        access_bytes: what each lane reads or writes, in bytes; a power of two.

    Raises:
        LayoutError: a size that is not positive, an `access_bytes` that is no power of two, or a misaligned address.

    Example:
        >>> bank_conflicts(Layout(32, 4)), bank_conflicts(Layout(32, 128)), bank_conflicts(Layout(32, 132))
        (1, 32, 1)
    """
    if min(banks, bank_bytes, access_bytes) < 1 or access_bytes & (access_bytes - 1):
        raise LayoutError(
            f"banks {banks} and bank_bytes {bank_bytes} must be positive, access_bytes {access_bytes} a power of two"
        )
    addresses = list(map(lanes, range(size(lanes.layout if isinstance(lanes, Swizzled) else lanes))))
    for lane, address in enumerate(addresses):
        if address % access_bytes:
            raise LayoutError(
                f"lane {lane} of {lanes} is at byte {address}, not a multiple of its {access_bytes} bytes"
            )
    together = max(1, banks * bank_bytes // access_bytes)
    wavefronts = 0
    for first in range(0, len(addresses), together):
        words = {
            word
            for address in addresses[first : first + together]
            for word in range(address // bank_bytes, (address + access_bytes - 1) // bank_bytes + 1)
        }
        wavefronts += max(Counter(word % banks for word in words).values())
    return wavefronts


# Details --------------------------------------------------------------------------------------------------------------


def _checked(value: object, least: int, noun: str) -> IntTuple:
    """The value as plain nested ints (a torch.Size or a NumPy int may come in), or a LayoutError."""
    if isinstance(value, tuple):
        return tuple(_checked(item, least, noun) for item in cast("tuple[object, ...]", value))
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise LayoutError(f"{noun} {value!r} is a {type(value).__name__}; expected an int, or a nested tuple of ints")
    number = operator.index(cast("int", value))
    if number < least:
        raise LayoutError(f"{noun} {number} is refused: {'an' if noun == 'extent' else 'a'} {noun} is {least} or more")
    return number


def _index(coord: IntTuple, shape: IntTuple, stride: IntTuple) -> int:
    """The index of a coordinate in a shape and a stride that are known to be congruent."""
    if isinstance(coord, tuple):
        if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(coord) != len(shape):
            raise LayoutError(
                f"coordinate {_text(coord)} does not fit shape {_text(shape)}: it is nested deeper or longer"
            )
        return sum(map(_index, coord, shape, stride))
    if coord >= product(shape):
        raise LayoutError(f"coordinate {coord} is outside shape {_text(shape)} of size {product(shape)}")
    index = 0
    for extent, step in zip(_ints(shape), _ints(stride), strict=True):
        coord, digit = divmod(coord, extent)
        index += digit * step
    return index


def _compose(outer: Layout, inner: Layout) -> Layout:
    """`composition` of two layouts: mode by mode of `inner`, each walking over the modes of `outer`."""
    steps = _leaves(coalesce(outer))
    reach = [0] * len(steps)
    if cosize(inner) > size(outer):
        raise LayoutError(
            f"cannot compose {outer} with {inner}: the latter reaches number {cosize(inner) - 1}, "
            f"and the former has {size(outer)} elements; pad it, or take a smaller tile"
        )
    try:
        parts = [_compose_mode(steps, reach, extent, step) for extent, step in _leaves(inner)]
        # Each part is right on its own; their sum is, if no digit of `outer` overflows into the next.
        for (extent, step), top in zip(steps, reach, strict=True):
            if top >= extent:
                raise LayoutError(
                    f"modes of {inner} together reach {top} in the mode {extent}:{step}, beyond its extent; "
                    f"no mode may carry into the next, so choose extents that divide {extent}"
                )
    except LayoutError as reason:
        raise LayoutError(f"cannot compose {outer} with {inner}: {reason}") from None
    shapes = _nested((part.shape for part in parts), inner.shape)
    return Layout(shapes, _nested((part.stride for part in parts), inner.shape))


def _compose_mode(steps: Sequence[_Mode], reach: list[int], count: int, jump: int) -> Layout:
    """The layout of i -> outer(i * jump) for i < count; adds to `reach` the top digit in each mode of `outer`.

    The number i * jump is written in the digits of `outer`, mode by mode. While no digit overflows, each is i times a
    digit of `jump`, so the index is i times a stride. Where one overflows, i splits into (j, k), i = j + here * k, such
    that j stays below the extent and k is exactly what carries; both go on as modes of their own.
    """
    whole = f"{count}:{jump}"
    pieces = [(count, jump, 0)]  # extent, what its step still is in the modes to come, stride so far
    for number, (extent, step) in enumerate(steps):
        onward: list[tuple[int, int, int]] = []
        for piece, step_left, stride in pieces:
            rest, digit = divmod(step_left, extent)
            here = piece if (piece - 1) * digit < extent else extent // digit
            if here < piece and extent % digit:
                raise LayoutError(
                    f"mode {whole} goes in steps of {digit} through the mode {extent}:{step} and out of it, but "
                    f"{digit} does not divide {extent}; choose a stride that does, or a multiple of {extent}"
                )
            if piece % here:
                raise LayoutError(
                    f"mode {whole} leaves the mode {extent}:{step} every {here} elements, but {here} does not divide "
                    f"its {piece}; choose a multiple of {here}, or at most {here}"
                )
            onward.append((here, rest, stride + digit * step))
            if here < piece:
                onward.append((piece // here, rest * here + 1, stride * here))
            reach[number] += (here - 1) * digit
        pieces = onward
    return _flat([(piece, stride) for piece, _, stride in pieces])


def _split(layout: Layout, tile: Layout) -> Layout:
    """`logical_divide` by one layout."""
    try:
        return _compose(layout, make_layout(tile, complement(tile, size(layout))))
    except LayoutError as reason:
        raise LayoutError(f"cannot divide {layout} by {tile}: {reason}") from None


def _repeat(block: Layout, copies: Layout) -> Layout:
    """`logical_product` by one layout."""
    try:
        ordered = _sorted_modes(block)
        end = ordered[-1][0] * ordered[-1][1] if ordered else 1
        holes = end // math.prod(extent for extent, _ in ordered)
        # As many periods of the block as give a place to each copy; an empty period would mean that modes overlap.
        periods = _padded(cosize(copies), max(holes, 1)) // max(holes, 1)
        return make_layout(block, _compose(complement(block, end * periods), copies))
    except LayoutError as reason:
        raise LayoutError(f"cannot repeat {block} by {copies}: {reason}") from None


def _matched_product(block: Layout, repeats: Layout) -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    """The modes of the block and those of its repetition, equally many."""
    width = max(rank(block), rank(repeats))
    wide_block, wide_repeats = (
        make_layout(*modes(layout), *[Layout(1, 0)] * (width - rank(layout))) for layout in (block, repeats)
    )
    first, second = modes(_repeat(wide_block, wide_repeats))
    return modes(first), modes(second)


def _one_each(block: Layout, tiler: Tiler) -> Tiler:
    """The tiler, if it is not a tuple that leaves modes of the block without one: are those block or repetition?"""
    if isinstance(tiler, tuple) and len(tiler) != rank(block):
        raise LayoutError(
            f"cannot repeat {block} mode by mode with {len(tiler)} tilers: it has {rank(block)} modes; give each one, "
            "1 for a mode that is not repeated"
        )
    return tiler


def _separate(repeated: Layout, tiler: Tiler) -> Layout:
    """The product, if repeating mode by mode did not make one mode run into another."""
    if isinstance(tiler, tuple):
        reached = 0
        for extent, step in _sorted_modes(repeated):
            if step <= reached:
                raise LayoutError(
                    f"repeating mode by mode gives {repeated}, where mode {extent}:{step} starts inside the "
                    f"{reached + 1} indices of the modes before it, since copies fill the holes of a mode first; use "
                    "blocked_product, or a tiler whose stride skips those holes"
                )
            reached += (extent - 1) * step
    return repeated


def _by_mode(operation: Callable[[Layout, Layout], Layout], layout: Layout, tiler: Tiler) -> Layout:
    """The operation on the whole layout, or on each mode when the tiler is a tuple; modes without a tiler stay."""
    if not isinstance(tiler, tuple):
        return operation(layout, _as_layout(tiler))
    pairs, rest = _paired(layout, tiler)
    return make_layout(*(_by_mode(operation, part, own) for part, own in pairs), *rest)


def _zipped(operation: Callable[[Layout, Layout], Layout], layout: Layout, tiler: Tiler) -> tuple[Layout, Layout]:
    """As `_by_mode` for an operation with two modes, gathered: all first ones, and all second ones with the rest."""
    if not isinstance(tiler, tuple):
        first, second = modes(operation(layout, _as_layout(tiler)))
        return first, second
    pairs, rest = _paired(layout, tiler)
    halves = [_zipped(operation, part, own) for part, own in pairs]
    return make_layout(*(first for first, _ in halves)), make_layout(*(second for _, second in halves), *rest)


def _paired(layout: Layout, partners: tuple[_Partner, ...]) -> tuple[list[tuple[Layout, _Partner]], tuple[Layout, ...]]:
    """The leading modes of a layout, each with its partner, and the modes that have none."""
    parts = modes(layout)
    if len(partners) > len(parts):
        raise LayoutError(f"{layout} has {len(parts)} modes, too few for a tuple of {len(partners)}")
    return list(zip(parts, partners, strict=False)), parts[len(partners) :]


def _as_layout(tiler: int | Layout) -> Layout:
    return tiler if isinstance(tiler, Layout) else Layout(tiler)


def _shape(value: Layout | IntTuple) -> IntTuple:
    return value.shape if isinstance(value, Layout) else value


def _ints(value: IntTuple) -> Iterator[int]:
    """The ints of a nested tuple, from left to right."""
    if isinstance(value, tuple):
        for item in value:
            yield from _ints(item)
    else:
        yield value


def _leaves(layout: Layout) -> list[_Mode]:
    """The flat modes of a layout; for a layout that `coalesce` returned, at least one."""
    return list(zip(_ints(layout.shape), _ints(layout.stride), strict=True))


def _flat(pairs: Sequence[_Mode]) -> Layout:
    """The layout of some flat modes: 1:0 for none, an int extent for one."""
    if len(pairs) == 1:
        return Layout(*pairs[0])
    return Layout(tuple(extent for extent, _ in pairs), tuple(step for _, step in pairs)) if pairs else Layout(1, 0)


def _sorted_modes(layout: Layout) -> list[_Mode]:
    """The flat modes that move the index, by stride."""
    return sorted((mode for mode in _leaves(layout) if mode[0] > 1 and mode[1] > 0), key=lambda mode: mode[::-1])


def _weighted(layout: Layout) -> list[tuple[int, int, int]]:
    """(stride, extent, compact stride) of the flat modes of extent above 1, by stride, the longest first."""
    weights = _ints(compact_stride(layout.shape))
    weighted = zip(_ints(layout.stride), _ints(layout.shape), weights, strict=True)
    return sorted((mode for mode in weighted if mode[1] > 1), key=lambda mode: (mode[0], -mode[1]))


def _nested(values: Iterator[int] | Iterator[IntTuple], profile: IntTuple) -> IntTuple:
    """The values, in order, nested as the profile is."""
    if isinstance(profile, tuple):
        return tuple(_nested(values, item) for item in profile)
    return next(values)


def _padded(value: int, unit: int) -> int:
    """The least multiple of `unit` that is not below `value`."""
    return -(-value // unit) * unit


def _shifted(field: _Bits, shift: int) -> _Bits:
    """Bits moved down by `shift`, or up if it is negative."""
    return field >> shift if shift >= 0 else field << -shift


_BESIDE_MARK: Final = re.compile(r"\s*([(),:])\s*")
_NUMBER: Final = re.compile(r"[0-9]+")
_SWIZZLE: Final = re.compile(r"Sw<([0-9]+),([0-9]+),(-?[0-9]+)>")


def _text(value: IntTuple) -> str:
    """A nested tuple without spaces; a tuple of one has a comma, so that (4,) and 4 differ."""
    if isinstance(value, int):
        return str(value)
    return f"({','.join(map(_text, value))}{',' if len(value) == 1 else ''})"


def _read(text: str, start: int) -> tuple[IntTuple, int]:
    """The int tuple that starts at a position of the text, and the position behind it."""
    number = _NUMBER.match(text, start)
    if number is not None:
        return int(number[0]), number.end()
    if not text.startswith("(", start):
        raise _unreadable(text, start, "a number or '('")
    items: list[IntTuple] = []
    at = start + 1
    while not text.startswith(")", at):
        item, at = _read(text, at)
        items.append(item)
        if text.startswith(",", at):
            at += 1
        elif len(items) == 1:
            raise _unreadable(text, at, "','; a tuple of one is written (4,)")
        elif not text.startswith(")", at):
            raise _unreadable(text, at, "',' or ')'")
    return tuple(items), at + 1


def _unreadable(text: str, at: int, expected: str) -> LayoutError:
    found = repr(text[at]) if at < len(text) else "the end"
    return LayoutError(f"cannot read the layout {text!r}: expected {expected} at column {at + 1}, found {found}")
