# pyright: strict
"""Swizzles: permutations of indices by XOR, and layouts as matrices over bits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from gridstone.ir.errors import LayoutError
from gridstone.ir.int_tuple import IntTuple
from gridstone.ir.modes import Layout, leaves

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Bits = TypeVar("Bits", int, "npt.NDArray[np.int64]")

_SWIZZLE: Final = re.compile(r"Sw<([0-9]{1,9}),([0-9]{1,9}),(-?[0-9]{1,9})>")
_FARTHEST: Final = 1 << 12  # bit that a swizzle may move: masks of it are ints, and take memory


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
        LayoutError: negative `bits` or `base`, fields that overlap, or that reach beyond bit 4096.

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
        if self.base + self.bits + abs(self.shift) > _FARTHEST:
            raise LayoutError(f"{self}: its fields reach beyond bit {_FARTHEST} of an index")
        if abs(self.shift) < self.bits:
            raise LayoutError(f"{self}: the two fields of {self.bits} bits overlap", f"shift by {self.bits} or more")

    @property
    def source(self) -> int:
        """The mask of the bits that are read."""
        return ((1 << self.bits) - 1) << (self.base + max(self.shift, 0))

    def __call__(self, index: int) -> int:
        """The place where `index` goes; raises `LayoutError` if it is negative."""
        if index < 0:
            raise LayoutError(f"{self} moves indices from 0 up, not {index}")
        return index ^ shifted(index & self.source, self.shift)

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
    for extent, step in leaves(layout):
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


def shifted(field: Bits, shift: int) -> Bits:
    """Bits moved down by `shift`, or up if it is negative."""
    return field >> shift if shift >= 0 else field << -shift
