# pyright: strict
"""Functions after functions, and back: composition, complement and the two inverses of layouts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import overload

from gridstone.ir.errors import LayoutError
from gridstone.ir.int_tuple import compact_stride, ints, nested
from gridstone.ir.modes import (
    Layout,
    Mode,
    Tiler,
    as_layout,
    by_mode,
    coalesce,
    cosize,
    flat,
    leaves,
    size,
    sorted_modes,
)
from gridstone.ir.swizzle import Swizzle, Swizzled


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
            dividing it, or two of its modes together do. Then i -> outer(inner(i)) is no layout, but for few that are
            refused all the same: 4:3 does not divide the 5 of (5,2):(1,10), and (2,2):(3,11) would be their composite.

    Example:
        >>> row_major = Layout((4, 8), (8, 1))
        >>> print(composition(row_major, Layout((2, 8), (1, 2))))
        (2,(2,4)):(8,(16,1))
    """
    if isinstance(outer, Layout):
        return by_mode(_compose, outer, inner)
    if isinstance(outer, Swizzled):
        return Swizzled(outer.swizzle, composition(outer.layout, inner))
    if isinstance(inner, tuple):
        raise LayoutError(f"{outer} has no modes to compose by mode", "compose it with a layout")
    return Swizzled(outer, as_layout(inner))


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
    gaps: list[Mode] = []
    end = 1
    for extent, step in sorted_modes(layout):
        if step % end:
            raise LayoutError(
                f"{layout} has no complement: its mode {extent}:{step} starts at {step}, not a multiple of {end} "
                "where the modes of smaller stride end",
                f"pad the stride to {_padded(step, end)}",
            )
        gaps.append((step // end, end))
        end = extent * step
    if cotarget is not None:
        if cotarget < 1 or cotarget % end:
            raise LayoutError(
                f"{layout} has no complement in {cotarget}: {end}, where its last mode ends, does not divide "
                f"{cotarget}",
                f"pad {cotarget} to {_padded(max(cotarget, 1), end)}",
            )
        gaps.append((cotarget // end, end))
    return flat([gap for gap in gaps if gap[0] > 1])


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
    inverse: list[Mode] = [(weighted[0][0], 0)] if weighted else []
    for (step, extent, weight), (above, wider, _) in itertools.pairwise(weighted):
        if above % step or extent * step > above:
            raise LayoutError(
                f"{layout} has no left inverse: its mode {extent}:{step} ends at {extent * step}, and the next mode "
                f"{wider}:{above} must start there or later, at a multiple of {step}"
            )
        inverse.append((above // step, weight))
    inverse.extend((extent, weight) for _, extent, weight in weighted[-1:])
    return coalesce(flat(inverse))


def right_inverse(layout: Layout) -> Layout:
    """The layout R with layout(R(j)) == j for every j < size(R): which element lies at index j.

    R covers the run of indices 0, 1, 2, ... that the modes of `layout` reach one after the other, each starting where
    the last one ends; 1:0 when there is none. For a compact layout that is all of it, and R is the inverse. It always
    exists, since a layout reaches index 0.

    Example:
        >>> print(right_inverse(Layout((4, 8), (8, 1))), right_inverse(Layout((4, 8), (1, 5))))
        (8,4):(4,1) 4:1
    """
    inverse: list[Mode] = []
    end = 1
    for step, extent, weight in _weighted(layout):
        if step == end:
            inverse.append((extent, weight))
            end *= extent
    return coalesce(flat(inverse))


def _compose(outer: Layout, inner: Layout) -> Layout:
    """`composition` of two layouts: mode by mode of `inner`, each walking over the modes of `outer`."""
    steps = leaves(coalesce(outer))
    reach = [0] * len(steps)
    if cosize(inner) > size(outer):
        raise LayoutError(
            f"cannot compose {outer} with {inner}: the latter reaches number {cosize(inner) - 1}, "
            f"and the former has {size(outer)} elements",
            "pad it, or take a smaller tile",
        )
    try:
        parts = [_compose_mode(steps, reach, extent, step) for extent, step in leaves(inner)]
        # Each part is right on its own; their sum is, if no digit of `outer` overflows into the next.
        for (extent, step), top in zip(steps, reach, strict=True):
            if top >= extent:
                raise LayoutError(
                    f"modes of {inner} together reach {top} in the mode {extent}:{step}, beyond its extent; "
                    "no mode may carry into the next",
                    f"choose extents that divide {extent}",
                )
    except LayoutError as reason:
        raise LayoutError(f"cannot compose {outer} with {inner}: {reason.problem}", reason.remedy) from None
    shapes = nested((part.shape for part in parts), inner.shape)
    return Layout(shapes, nested((part.stride for part in parts), inner.shape))


def _compose_mode(steps: Sequence[Mode], reach: list[int], count: int, jump: int) -> Layout:
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
                    f"{digit} does not divide {extent}",
                    f"choose a stride that does, or a multiple of {extent}",
                )
            if piece % here:
                raise LayoutError(
                    f"mode {whole} leaves the mode {extent}:{step} every {here} elements, but {here} does not divide "
                    f"its {piece}",
                    f"choose a multiple of {here}, or at most {here}",
                )
            onward.append((here, rest, stride + digit * step))
            if here < piece:
                onward.append((piece // here, rest * here + 1, stride * here))
            reach[number] += (here - 1) * digit
        pieces = onward
    return flat([(piece, stride) for piece, _, stride in pieces])


def _weighted(layout: Layout) -> list[tuple[int, int, int]]:
    """(stride, extent, compact stride) of the flat modes of extent above 1, by stride, the longest first."""
    weights = ints(compact_stride(layout.shape))
    weighted = zip(ints(layout.stride), ints(layout.shape), weights, strict=True)
    return sorted((mode for mode in weighted if mode[1] > 1), key=lambda mode: (mode[0], -mode[1]))


def _padded(value: int, unit: int) -> int:
    """The least multiple of `unit` that is not below `value`."""
    return -(-value // unit) * unit
