"""Laws of the layout algebra's operations on two layouts: composition, complement, division and product."""

from __future__ import annotations

from typing import Any

from gridstone.ir.layout import (
    Layout,
    Swizzle,
    Swizzled,
    blocked_product,
    coalesce,
    complement,
    composition,
    cosize,
    logical_divide,
    logical_product,
    make_layout,
    modes,
    raked_product,
    rank,
    size,
    tiled_divide,
    tiled_product,
    zipped_divide,
    zipped_product,
)
from gridstone.proof.fuzz.hypothesis_law import Choose, Law
from gridstone.proof.fuzz.layout_case import (
    ByMode,
    Covered,
    Pair,
    Triple,
    accepted,
    divisors,
    draw_inner,
    draw_invertible,
    draw_layout,
    first,
    images,
    leaves,
    read,
    refined,
    same,
)
from gridstone.proof.fuzz.subject import Wanted

_FEW = 2000  # elements up to which a product is written out


# Composition and complement -------------------------------------------------------------------------------------------


def _composed_fault(outer: Layout, inner: Layout, result: Layout | Swizzled, swizzle: Swizzle | None = None) -> str:
    plain = result.layout if isinstance(result, Swizzled) else result
    table = images(outer) if swizzle is None else images(Swizzled(swizzle, outer))
    return first(
        "" if refined(plain.shape, inner.shape) else f"{result} is not shaped as {inner}",
        same(f"{outer} after {inner}", [table[index] for index in images(inner)], images(result)),
    )


def _composition_fault(case: Pair) -> str:
    """R(i) == A(B(i)), unless it is refused; what reaches beyond A is."""
    outer, inner = read(case.layout), read(case.by)
    result = accepted(lambda: composition(outer, inner))
    if result is None:
        return ""
    beyond = max(images(inner)) >= size(outer)
    return f"{inner} reaches beyond {outer}, and is taken" if beyond else _composed_fault(outer, inner, result)


def _admissible_fault(case: Pair) -> str:
    """Digits of the numbers of A's elements compose with A, and an identity changes nothing."""
    outer, inner = read(case.layout), read(case.by)
    swizzle = Swizzle(2, 1, 3)
    return first(
        _composed_fault(outer, inner, composition(outer, inner)),
        _composed_fault(outer, inner, composition(Swizzled(swizzle, outer), inner), swizzle),
        same("the layout after the identity", images(outer), images(composition(outer, Layout(outer.shape)))),
        same("the layout after its size", images(outer), images(composition(outer, size(outer)))),
    )


def _draw_admissible(choose: Choose, wanted: Wanted) -> Pair:
    outer = draw_layout(choose)
    return Pair(str(outer), str(draw_inner(choose, outer)))


def _draw_pair(choose: Choose, wanted: Wanted) -> Pair:
    outer = draw_layout(choose)
    if choose.flag():
        return Pair(str(outer), str(draw_layout(choose, 64)))
    return Pair(str(outer), str(Layout(choose.integer(1, 12), choose.integer(0, 12))))


def _associative_fault(case: Triple) -> str:
    """(A o B) o C == A o (B o C) where both are layouts."""
    a, b, c = map(read, (case.a, case.b, case.c))
    one = accepted(lambda: composition(composition(a, b), c))
    other = accepted(lambda: composition(a, composition(b, c)))
    return "" if one is None or other is None else same("(a o b) o c", images(other), images(one))


def _draw_triple(choose: Choose, wanted: Wanted) -> Triple:
    a = draw_layout(choose)
    b = draw_inner(choose, a)
    return Triple(str(a), str(b), str(draw_inner(choose, b)))


def _by_mode_fault(case: ByMode) -> str:
    """A tuple of tilers composes, and divides, mode by mode; modes without a tiler stay."""
    layout, tilers = read(case.layout), tuple(map(read, case.by))
    parts = modes(layout)
    whole = accepted(lambda: composition(layout, tilers))
    if len(tilers) > len(parts):
        return "" if whole is None else f"{len(tilers)} tilers are taken for {len(parts)} modes"
    apart = [accepted(lambda pair=pair: composition(*pair)) for pair in zip(parts, tilers, strict=False)]
    wanted = None if None in apart else [*apart, *parts[len(tilers) :]]
    fault = same("composition by mode", wanted, None if whole is None else list(modes(whole)))
    divided = accepted(lambda: logical_divide(layout, tilers))
    if fault or divided is None or not tilers:
        return fault
    pairs = [modes(pair) for pair in modes(divided)[: len(tilers)]]
    tile = make_layout(*(inside for inside, _ in pairs))
    rest = make_layout(*(out for _, out in pairs), *modes(divided)[len(tilers) :])
    cut = [_divided_fault(*operands) for operands in zip(parts, tilers, modes(divided), strict=False)]
    return first(
        *cut,
        same("zipped_divide", make_layout(tile, rest), zipped_divide(layout, tilers)),
        same("tiled_divide", make_layout(tile, *modes(rest)), tiled_divide(layout, tilers)),
    )


def _draw_by_mode(choose: Choose, wanted: Wanted) -> ByMode:
    layout = draw_layout(choose)
    count = choose.integer(0, rank(layout) + (0 if choose.integer(0, 9) else 1))
    tilers = [
        draw_inner(choose, part) if choose.flag() else Layout(choose.one(divisors(size(part))))
        for part in [*modes(layout), Layout(1)][:count]
    ]
    return ByMode(str(layout), tuple(map(str, tilers)))


def _complement_fault(case: Covered) -> str:
    """Each index below the target is one index of the layout plus one of the complement, which is increasing."""
    layout, table = read(case.layout), sorted(set(images(read(case.layout))))
    rest = accepted(lambda: complement(layout, case.cotarget))
    if rest is not None:
        offsets = images(rest)
        cover = sorted(a + b for a in table for b in offsets)
        return first(
            same("the complement, sorted,", sorted(offsets), offsets),
            same("what both cover", list(range(case.cotarget)), cover),
        )
    if len(table) != size(layout):
        return ""
    free = set(range(case.cotarget))  # offsets are forced: each is the least index that is not covered yet
    while free and free >= {index + min(free) for index in table}:
        free -= {index + min(free) for index in table}
    return "" if free or case.cotarget < 1 else "a complement is refused, and there is one"


def _draw_covered(choose: Choose, wanted: Wanted) -> Covered:
    layout = draw_invertible(choose, 64) if choose.flag() else draw_layout(choose, 32)
    end = max([1, *(e * d for e, d in zip(leaves(layout.shape), leaves(layout.stride), strict=True) if e > 1)])
    cotarget = end * choose.integer(1, 4) if choose.flag() else choose.integer(0, 300)
    choose.require(cotarget <= 20_000)
    return Covered(str(layout), cotarget)


# Division and product -------------------------------------------------------------------------------------------------


def _divided_fault(layout: Layout, tile: Layout, result: Layout) -> str:
    """Mode 0 is the tile, mode 1 the rest; together they visit each element once."""
    inside, between = modes(result)
    rest = complement(tile, size(layout))
    visited = sorted(images(layout)) if len(set(images(tile))) == size(tile) else sorted(images(result))
    table, starts = images(layout), images(rest)
    expected = [table[i + j] for j in starts for i in images(tile)]
    return first(
        _composed_fault(layout, tile, inside),
        _composed_fault(layout, rest, between),
        same(f"{layout} divided by {tile}", expected, images(result)),
        same("what the division visits", visited, sorted(images(result))),
    )


def _divide_fault(case: Pair) -> str:
    """The tile, and from tile to tile; zipped and tiled are the same, gathered."""
    layout, tile = read(case.layout), read(case.by)
    result = accepted(lambda: logical_divide(layout, tile))
    if result is None:
        able = (
            size(layout) % size(tile) == 0 and tile == Layout(size(tile)) and coalesce(layout) == Layout(size(layout))
        )
        return "dividing a run into equal runs is refused" if able else ""
    flat = (modes(result)[0], *modes(modes(result)[1]))
    return first(
        _divided_fault(layout, tile, result),
        same("zipped_divide", result, zipped_divide(layout, tile)),
        same("tiled_divide", flat, modes(tiled_divide(layout, tile))),
    )


def _draw_divide(choose: Choose, wanted: Wanted) -> Pair:
    layout = draw_layout(choose)
    if choose.flag():
        return Pair(str(layout), str(Layout(choose.one(divisors(size(layout))))))
    return Pair(str(layout), str(draw_inner(choose, layout)))


def _product_fault(case: Pair) -> str:
    """Mode 0 is the block, mode 1 its copies, in the order of the repetition; copies share no index."""
    block, repeats = read(case.layout), read(case.by)
    result = accepted(lambda: logical_product(block, repeats))
    compact = sorted(images(block)) == list(range(size(block)))
    if result is None:
        return f"{block} has no holes, and repeating it is refused" if compact and size(block) == cosize(block) else ""
    own, copies = modes(result)
    numbers, places = images(repeats), images(copies)
    at = dict(zip(numbers, places, strict=True))
    seen = [index + place for index in set(images(block)) for place in at.values()]
    return first(
        same("mode 0", block, own),
        "" if refined(copies.shape, repeats.shape) else f"{copies} is not shaped as {repeats}",
        same("the place of a copy", places, [at[number] for number in numbers]),
        same("the order of the copies", sorted(at.values()), [at[number] for number in sorted(at)]),
        "copies overlap" if len(set(seen)) < len(seen) else "",
        same("zipped_product", result, zipped_product(block, repeats)),
        same("tiled_product", (block, *modes(copies)), modes(tiled_product(block, repeats))),
        _by_pairs_fault(block, repeats, result),
    )


def _by_pairs_fault(block: Layout, repeats: Layout, result: Layout) -> str:
    """Blocked and raked products have the product's indices; mode i pairs both modes i, either way round."""
    blocked, raked = (accepted(lambda form=form: form(block, repeats)) for form in (blocked_product, raked_product))
    if blocked is None or raked is None:
        return same("whether blocked_product refuses", raked is None, blocked is None)
    width = max(rank(block), rank(repeats))
    whole = sorted(images(result))
    return first(
        same("the indices of blocked_product", whole, sorted(images(blocked))),
        same("the indices of raked_product", whole, sorted(images(raked))),
        same("the pairs of raked_product", [modes(m)[::-1] for m in modes(blocked)], [modes(m) for m in modes(raked)]),
        same(
            "the blocks of blocked_product",
            [*modes(block), *[Layout(1, 0)] * (width - rank(block))],
            [modes(mode)[0] for mode in modes(blocked)],
        ),
    )


def _draw_product(choose: Choose, wanted: Wanted) -> Pair:
    block = draw_invertible(choose, 64, gap=choose.integer(1, 3)) if choose.flag() else draw_layout(choose, 32)
    repeats = draw_invertible(choose, 32, gap=1) if choose.flag() else draw_layout(choose, 32)
    choose.require(size(block) * size(repeats) <= _FEW and cosize(repeats) < 1 << 20)
    return Pair(str(block), str(repeats))


LAWS: tuple[Law[Any], ...] = (
    Law("composition", Pair, _draw_pair, _composition_fault),
    Law("admissible", Pair, _draw_admissible, _admissible_fault),
    Law("associative", Triple, _draw_triple, _associative_fault),
    Law("by_mode", ByMode, _draw_by_mode, _by_mode_fault),
    Law("complement", Covered, _draw_covered, _complement_fault),
    Law("divide", Pair, _draw_divide, _divide_fault),
    Law("product", Pair, _draw_product, _product_fault),
)
