# pyright: strict
"""Accesses: what a layout means to a machine, as all its indices, its vectors and its bank conflicts."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from gridstone.ir.errors import LayoutError
from gridstone.ir.modes import Layout, coalesce, cosize, leaves, size
from gridstone.ir.swizzle import Swizzled, shifted


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
        if source | shifted(source, shift) >= 1 << 63:
            raise LayoutError(f"{layout.swizzle} moves bits beyond 63", f"call {layout} with one coordinate at a time")
        plain = indices(layout.layout)
        return plain ^ shifted(plain & source, shift)
    if cosize(layout) > 1 << 63:
        raise LayoutError(f"{layout} has indices beyond 63 bits", "call it with one coordinate at a time")
    images = np.zeros(1, np.int64)
    for extent, step in leaves(coalesce(layout)):
        # The new mode is slower than those before it, so it is the outer axis.
        images = np.add.outer(np.arange(extent, dtype=np.int64) * step, images).ravel()
    return images


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
    fastest, *rest = leaves(coalesce(plain))
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
