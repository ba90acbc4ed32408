# pyright: strict
"""Families of layouts to check on, and the laws of the algebra: each `law_*` asserts, for any answer it is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from hypothesis import settings
from hypothesis import strategies as st

from gridstone.ir.errors import LayoutError
from gridstone.ir.layout import (
    IntTuple,
    Layout,
    Swizzle,
    Swizzled,
    coalesce,
    complement,
    cosize,
    depth,
    flatten,
    is_compatible,
    make_layout,
    modes,
    product,
    size,
)

# No example database: a test run leaves no files behind.
many = settings(max_examples=500, deadline=None, database=None)
some = settings(max_examples=200, deadline=None, database=None)


# Families and strategies ----------------------------------------------------------------------------------------------


def family(extents: Sequence[int], strides: Sequence[int], ranks: Sequence[int] = (1, 2)) -> Iterator[Layout]:
    """Every flat layout with these extents, strides and numbers of modes."""
    for width in ranks:
        for shape in itertools.product(extents, repeat=width):
            for stride in itertools.product(strides, repeat=width):
                yield Layout(shape, stride) if width > 1 else Layout(shape[0], stride[0])


SMALL = tuple(family((1, 2, 3, 4), (0, 1, 2, 3, 4, 6, 8)))
DEEP = tuple(family((2, 3), (0, 1, 2, 3, 4, 6), ranks=(3,)))


def nest(profile: IntTuple, values: Iterator[int]) -> IntTuple:
    return tuple(nest(item, values) for item in profile) if isinstance(profile, tuple) else next(values)


def tuples(children: st.SearchStrategy[IntTuple]) -> st.SearchStrategy[IntTuple]:
    return st.lists(children, max_size=3).map(tuple)


extents = st.integers(1, 6)
shapes: st.SearchStrategy[IntTuple] = st.recursive(extents, tuples, max_leaves=5)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any nested layout of at most 5 leaves, broadcasts and overlaps included."""
    shape = draw(shapes.filter(lambda shape: product(shape) <= 400))
    strides = st.one_of(st.integers(0, 30), st.sampled_from([0, 1, 2**35, 3 * 2**70]))
    return Layout(shape, nest(shape, iter(draw(st.lists(strides, min_size=9, max_size=9)) * 3)))


@st.composite
def invertibles(draw: st.DrawFn, gap: int = 3) -> Layout:
    """A one-to-one layout that has a complement: extents in any order, with holes up to `gap` between the strides."""
    shape = draw(shapes.filter(lambda shape: product(shape) <= 200))
    leaves = flatten(shape)
    strides = [0] * len(leaves)
    end = 1
    for place in draw(st.permutations(range(len(leaves)))):
        strides[place] = end * draw(st.integers(1, gap))
        end = strides[place] * leaves[place]
    return Layout(shape, nest(shape, iter(strides)))


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


@st.composite
def inners(draw: st.DrawFn, outer: Layout) -> Layout:
    """A layout that composes with `outer`: some digits of the numbers of its elements, split, permuted and nested."""
    pieces: list[tuple[int, int]] = []
    weight = 1
    for extent in flatten(coalesce(outer).shape):
        first = draw(st.sampled_from(divisors(extent)))
        pieces += [(first, weight), (extent // first, weight * first)]
        weight *= extent
    chosen = draw(st.permutations(pieces))[: draw(st.integers(1, 4))]
    whole = Layout(tuple(extent for extent, _ in chosen), tuple(step for _, step in chosen))
    if draw(st.booleans()):
        return make_layout(whole, Layout(draw(extents), 0))
    return coalesce(whole) if draw(st.booleans()) else whole


@st.composite
def swizzles(draw: st.DrawFn) -> Swizzle:
    bits = draw(st.integers(0, 3))
    return Swizzle(bits, draw(st.integers(0, 3)), draw(st.sampled_from([1, -1])) * (bits + draw(st.integers(0, 2))))


def images(layout: Layout | Swizzled) -> list[int]:
    """All indices in order, by the definition; `TestCoordinates` shows that a call is the same."""
    if isinstance(layout, Swizzled):
        return list(map(layout.swizzle, images(layout.layout)))
    found = [0]
    for extent, step in zip(flatten(layout.shape), flatten(layout.stride), strict=True):
        found = [index + digit * step for digit in range(extent) for index in found]
    return found


def sequence_is_layout(values: Sequence[int]) -> bool:
    """Whether any flat layout has these images, found by trying every way to split the size into extents."""
    if len(values) == 1:
        return values[0] == 0
    if values[0] != 0 or values[1] < 0:
        return False
    for first in divisors(len(values))[1:]:
        linear = all(values[i] == i * values[1] for i in range(first))
        rest = values[::first]
        if (
            linear
            and all(values[i] == values[i % first] + rest[i // first] for i in range(len(values)))
            and sequence_is_layout(rest)
        ):
            return True
    return False


def exists(outer: Callable[[int], int], inner: Layout) -> bool:
    """Whether i -> outer(inner(i)) is a layout whose shape refines that of the flat `inner`, by brute force."""
    parts = [[outer(index) for index in images(part)] for part in modes(inner)]
    if not all(map(sequence_is_layout, parts)):
        return False
    sums = [sum(reversed(digits)) for digits in itertools.product(*reversed(parts))]
    return sums == [outer(index) for index in images(inner)]


def accepted(make: Callable[[], Layout]) -> Layout | None:
    try:
        return make()
    except LayoutError:
        return None


# The laws -------------------------------------------------------------------------------------------------------------


def law_composition(outer: Callable[[int], int], inner: Layout, result: Layout | Swizzled) -> None:
    plain = result.layout if isinstance(result, Swizzled) else result
    assert is_compatible(inner.shape, plain.shape)
    assert images(result) == [outer(index) for index in images(inner)]


def law_complement(layout: Layout, rest: Layout, cotarget: int) -> None:
    offsets = images(rest)
    assert offsets == sorted(offsets)
    once = [a + b for a in sorted(set(images(layout))) for b in offsets]
    assert sorted(once) == list(range(cotarget))


def law_left_inverse(layout: Layout, inverse: Layout) -> None:
    assert cosize(layout) <= size(inverse)
    assert [inverse(index) for index in images(layout)] == list(range(size(layout)))


def law_right_inverse(layout: Layout, inverse: Layout) -> None:
    assert [layout(number) for number in images(inverse)] == list(range(size(inverse)))


def law_coalesce(layout: Layout, result: Layout) -> None:
    assert images(result) == images(layout)
    assert depth(result) <= 1
    pairs = list(zip(flatten(result.shape), flatten(result.stride), strict=True))
    assert result == Layout(1, 0) or all(extent > 1 for extent, _ in pairs)
    assert all(step != extent * before for (extent, before), (_, step) in itertools.pairwise(pairs))


def law_divide(layout: Layout, tile: Layout, result: Layout) -> None:
    """Mode 0 is the tile, mode 1 the rest, and together they visit each element of the layout once."""
    inside, between = modes(result)
    law_composition(layout, tile, inside)
    rest = complement(tile, size(layout))
    law_composition(layout, rest, between)
    for i, j in itertools.product(range(size(inside)), range(size(between))):
        assert result((i, j)) == layout(tile(i) + rest(j))
    if len(set(images(tile))) == size(tile):
        assert sorted(images(result)) == sorted(images(layout))


def law_product(block: Layout, repeats: Layout, result: Layout) -> None:
    """Mode 0 is the block itself, mode 1 has the shape of the repetition, and different copies share no index."""
    first, copies = modes(result)
    assert first == block
    assert is_compatible(repeats.shape, copies.shape)
    places = {repeats(j): copies(j) for j in range(size(repeats))}
    assert [copies(j) for j in range(size(repeats))] == [places[repeats(j)] for j in range(size(repeats))]
    assert [places[number] for number in sorted(places)] == sorted(places.values()), "copies are not in order"
    seen = [index + place for index in set(images(block)) for place in places.values()]
    assert len(set(seen)) == len(seen), "copies overlap"


def law_f2(layout: Layout | Swizzled, matrix: tuple[int, ...]) -> None:
    for number, image in enumerate(images(layout)):
        total = 0
        for bit, column in enumerate(matrix):
            total ^= column if number >> bit & 1 else 0
        assert total == image


def is_linear(layout: Layout | Swizzled) -> bool:
    values = images(layout)
    whole = len(values) & (len(values) - 1) == 0
    return whole and all(values[a ^ b] == values[a] ^ values[b] for a in range(len(values)) for b in range(a))


def is_vector(values: Sequence[int], width: int) -> bool:
    """Whether every aligned group of `width` numbers lies at consecutive indices from a multiple of `width` on."""
    starts = range(0, len(values), width)
    return len(values) % width == 0 and all(
        values[start] % width == 0 and list(values[start : start + width]) == [values[start] + i for i in range(width)]
        for start in starts
    )
