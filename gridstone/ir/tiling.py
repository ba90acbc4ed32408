# pyright: strict
"""Tilings: a layout cut into tiles (division), and a layout repeated (product)."""

from __future__ import annotations

import math
from collections.abc import Callable

from gridstone.ir.composition import complement, composition
from gridstone.ir.errors import LayoutError
from gridstone.ir.modes import (
    Layout,
    Tiler,
    as_layout,
    by_mode,
    cosize,
    make_layout,
    modes,
    paired,
    rank,
    size,
    sorted_modes,
)


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
    return by_mode(_split, layout, tiler)


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
    return _separate(by_mode(_repeat, block, _one_each(block, tiler)), tiler)


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


def _split(layout: Layout, tile: Layout) -> Layout:
    """`logical_divide` by one layout."""
    try:
        return composition(layout, make_layout(tile, complement(tile, size(layout))))
    except LayoutError as reason:
        raise LayoutError(f"cannot divide {layout} by {tile}: {reason.problem}", reason.remedy) from None


def _repeat(block: Layout, copies: Layout) -> Layout:
    """`logical_product` by one layout."""
    try:
        ordered = sorted_modes(block)
        end = ordered[-1][0] * ordered[-1][1] if ordered else 1
        holes = max(1, end // math.prod(extent for extent, _ in ordered))  # 0 would mean that modes overlap
        periods = -(-cosize(copies) // holes)  # as many periods of the block as give a place to each copy
        return make_layout(block, composition(complement(block, end * periods), copies))
    except LayoutError as reason:
        raise LayoutError(f"cannot repeat {block} by {copies}: {reason.problem}", reason.remedy) from None


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
            f"cannot repeat {block} mode by mode with {len(tiler)} tilers: it has {rank(block)} modes",
            "give each one, 1 for a mode that is not repeated",
        )
    return tiler


def _separate(repeated: Layout, tiler: Tiler) -> Layout:
    """The product, if repeating mode by mode did not make one mode run into another."""
    if isinstance(tiler, tuple):
        reached = 0
        for extent, step in sorted_modes(repeated):
            if step <= reached:
                raise LayoutError(
                    f"repeating mode by mode gives {repeated}, where mode {extent}:{step} starts inside the "
                    f"{reached + 1} indices of the modes before it, since copies fill the holes of a mode first",
                    "use blocked_product, or a tiler whose stride skips those holes",
                )
            reached += (extent - 1) * step
    return repeated


def _zipped(operation: Callable[[Layout, Layout], Layout], layout: Layout, tiler: Tiler) -> tuple[Layout, Layout]:
    """As `by_mode` for an operation with two modes, gathered: all first ones, and all second ones with the rest."""
    if not isinstance(tiler, tuple):
        first, second = modes(operation(layout, as_layout(tiler)))
        return first, second
    pairs, rest = paired(layout, tiler)
    halves = [_zipped(operation, part, own) for part, own in pairs]
    return make_layout(*(first for first, _ in halves)), make_layout(*(second for _, second in halves), *rest)
