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
rounding taken out. In the laws `==` holds for every coordinate in range; `tests/ir/layout_laws.py` states them.

Where to read on
----------------
This page holds the idea and gathers all names. The algebra is in six files, each of which needs only those before it:
`int_tuple` (shapes, strides, coordinates), `modes` (`Layout`, and its modes apart and together), `swizzle` (XOR, and
layouts as bit matrices), `composition` (with complement and inverses), `tiling` (division and product), and `access`
(indices, vectors, banks).
"""

from __future__ import annotations

from gridstone.ir.access import bank_conflicts, indices, max_vector
from gridstone.ir.composition import complement, composition, left_inverse, right_inverse
from gridstone.ir.errors import LayoutError
from gridstone.ir.int_tuple import IntTuple, compact_stride, crd2idx, idx2crd, is_compatible, is_congruent, product
from gridstone.ir.modes import Layout, Tiler, coalesce, cosize, depth, flatten, make_layout, modes, rank, select, size
from gridstone.ir.swizzle import Swizzle, Swizzled, f2_matrix
from gridstone.ir.tiling import (
    blocked_product,
    logical_divide,
    logical_product,
    raked_product,
    tiled_divide,
    tiled_product,
    zipped_divide,
    zipped_product,
)

__all__ = [
    "IntTuple",
    "Layout",
    "LayoutError",
    "Swizzle",
    "Swizzled",
    "Tiler",
    "bank_conflicts",
    "blocked_product",
    "coalesce",
    "compact_stride",
    "complement",
    "composition",
    "cosize",
    "crd2idx",
    "depth",
    "f2_matrix",
    "flatten",
    "idx2crd",
    "indices",
    "is_compatible",
    "is_congruent",
    "left_inverse",
    "logical_divide",
    "logical_product",
    "make_layout",
    "max_vector",
    "modes",
    "product",
    "raked_product",
    "rank",
    "right_inverse",
    "select",
    "size",
    "tiled_divide",
    "tiled_product",
    "zipped_divide",
    "zipped_product",
]
