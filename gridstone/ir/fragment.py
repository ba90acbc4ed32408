"""Fragments: which element of a matrix operand each lane of a warp holds, and in which register.

A fragment is a layout from (lane, value) to the index of an element in the operand's (rows, columns) matrix, rows
fastest. Lanes are split as t = lane % 4 and g = lane / 4, values in the order in which registers hold them, low bits
first. The rows below state the tables of the PTX ISA (section "Matrix Fragments for mma"); `proof/cuda_on_cpu` states
the same tables once more in its own words, and tests hold the two against each other.

Everything that must agree with the hardware is derived from these rows: the order in which weights are stored, the rows
that a lane loads, the columns that it writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from gridstone.ir.errors import SpecError, nearest
from gridstone.ir.layout import Layout

WARP = 32


@dataclass(frozen=True, slots=True)
class Fragment:
    """One operand of one warp-wide instruction.

    Args:
        name: Instruction and operand.
        rows, columns: Extents of the operand: (m, k) of A, (n, k) of B, (m, n) of the accumulator.
        bits: Width of an element.
        layout: ((t, g), value modes) -> row + rows * column.
    """

    name: str
    rows: int
    columns: int
    bits: int
    layout: Layout

    @property
    def values(self) -> int:
        """Elements that one lane holds."""
        return self.rows * self.columns // WARP

    def element(self, lane: int, value: int) -> tuple[int, int]:
        """Return (row, column) of a lane's value.

        >>> fragment("mma.m16n8k16.a").element(5, 3)
        (9, 3)
        """
        index = self.layout((lane, value))
        return index % self.rows, index // self.rows


_LANES = (4, 8)
_ROWS = (
    #         instruction and operand  rows cols bits
    Fragment("mma.m16n8k16.a", 16, 16, 16, Layout((_LANES, (2, 2, 2)), ((32, 1), (16, 8, 128)))),
    Fragment("mma.m16n8k16.b", 8, 16, 16, Layout((_LANES, (2, 2)), ((16, 1), (8, 64)))),
    Fragment("mma.m16n8k16.d", 16, 8, 32, Layout((_LANES, (2, 2)), ((32, 1), (16, 8)))),
    Fragment("mma.m16n8k32.a", 16, 32, 8, Layout((_LANES, (4, 2, 2)), ((64, 1), (16, 8, 256)))),
    Fragment("mma.m16n8k32.b", 8, 32, 8, Layout((_LANES, (4, 2)), ((32, 1), (8, 128)))),
    Fragment("mma.m16n8k256.a", 16, 256, 1, Layout((_LANES, (32, 2, 2)), ((512, 1), (16, 8, 2048)))),
    Fragment("mma.m16n8k256.b", 8, 256, 1, Layout((_LANES, (32, 2)), ((256, 1), (8, 1024)))),
)
FRAGMENTS = {row.name: row for row in _ROWS}


def fragment(name: str) -> Fragment:
    """Return the fragment of this name; SpecError suggests the nearest."""
    if name not in FRAGMENTS:
        raise SpecError(f"unknown fragment {name!r}", nearest(name, FRAGMENTS))
    return FRAGMENTS[name]
