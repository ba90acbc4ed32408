# pyright: strict
"""The laws of the layout algebra: on every member of small families, and on thousands of random layouts.

No test holds a table of expected outputs. A law is a function `law_*` that asserts; the last section hands each of the
central laws a wrong answer and demands that it notices.
"""

from __future__ import annotations

import copy
import doctest
import itertools
import math
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gridstone.ir.layout as layout_module
from gridstone.ir.layout import (
    IntTuple,
    Layout,
    LayoutError,
    Swizzle,
    Swizzled,
    Tiler,
    bank_conflicts,
    blocked_product,
    coalesce,
    compact_stride,
    complement,
    composition,
    cosize,
    crd2idx,
    depth,
    f2_matrix,
    flatten,
    idx2crd,
    indices,
    is_compatible,
    is_congruent,
    left_inverse,
    logical_divide,
    logical_product,
    make_layout,
    max_vector,
    modes,
    product,
    raked_product,
    rank,
    right_inverse,
    select,
    size,
    tiled_divide,
    tiled_product,
    zipped_divide,
    zipped_product,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


def leaf_count(shape: IntTuple) -> int:
    return len(flatten(shape))


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


# Values and coordinates -----------------------------------------------------------------------------------------------


class TestValues:
    def test_the_examples_in_the_docstrings_hold(self) -> None:
        result = doctest.testmod(layout_module)
        assert result.attempted > 30
        assert result.failed == 0

    @many
    @given(layouts())
    def test_a_layout_prints_as_text_that_reads_back(self, layout: Layout) -> None:
        assert Layout.parse(str(layout)) == layout
        assert Layout.parse(str(layout).replace(",", " , ").replace(":", " : ") + " ") == layout

    @some
    @given(swizzles(), layouts())
    def test_a_swizzle_prints_as_text_that_reads_back(self, swizzle: Swizzle, layout: Layout) -> None:
        assert Swizzle.parse(str(swizzle)) == swizzle
        assert Swizzled.parse(str(Swizzled(swizzle, layout))) == Swizzled(swizzle, layout)

    @some
    @given(layouts())
    def test_a_layout_is_a_value(self, layout: Layout) -> None:
        twin = Layout(layout.shape, layout.stride)
        assert twin == layout
        assert hash(twin) == hash(layout)
        assert copy.deepcopy(layout) == layout
        assert pickle.loads(pickle.dumps(layout)) == layout
        with pytest.raises(AttributeError):
            layout.shape = 1  # pyright: ignore[reportAttributeAccessIssue]

    @some
    @given(shapes)
    def test_an_omitted_stride_numbers_the_elements(self, shape: IntTuple) -> None:
        assert images(Layout(shape)) == list(range(product(shape)))
        assert Layout(shape).stride == compact_stride(shape)
        assert Layout.parse(str(Layout(shape)).partition(":")[0]) == Layout(shape)

    def test_a_numpy_int_becomes_a_python_int(self) -> None:
        """int64 strides would overflow silently in bit addresses."""
        layout = Layout((int(np.int64(4)), np.int64(2)), (np.int64(2**62), np.int64(1)))  # pyright: ignore[reportArgumentType]
        assert all(type(number) is int for number in (*flatten(layout.shape), *flatten(layout.stride)))
        assert layout((3, 1)) == 3 * 2**62 + 1

    @pytest.mark.parametrize(
        ("shape", "stride", "message"),
        [
            (0, None, "extent 0 is refused: an extent is 1 or more"),
            ((4, (2, -1)), None, "extent -1 is refused"),
            (4, -1, "stride -1 is refused: a stride is 0 or more"),
            ((4, 2), (1, (2,)), r"shape \(4,2\) and stride \(1,\(2,\)\) are nested differently"),
            ((4, 2), 1, "nested differently"),
            ([4, 2], None, "extent .* is a list"),
            (True, None, "extent True is a bool"),
            ((4, 2.0), None, "extent 2.0 is a float"),
        ],
    )
    def test_a_bad_layout_is_refused(self, shape: IntTuple, stride: IntTuple | None, message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            Layout(shape, stride)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected a number or '[(]' at column 1, found the end"),
            ("4:", "expected a number or '[(]' at column 3, found the end"),
            ("(4,8", "expected ',' or '[)]' at column 5, found the end"),
            ("(4):(1)", "a tuple of one is written [(]4,[)]"),
            ("(4,8):(1,4) x", "expected the end at column 12, found 'x'"),
            ("(4 8):(1,4)", "expected"),
            ("(4,,8)", "expected a number or '[(]' at column 4, found ','"),
            ("4;1", "expected ':' and the stride at column 2, found ';'"),
            ("4:-1", "at column 3, found '-'"),
            ("(4,2):1", "nested differently"),
            ("__import__('os')", "at column 1, found '_'"),
        ],
    )
    def test_text_that_is_no_layout_is_refused_with_its_place(self, text: str, message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            Layout.parse(text)

    @pytest.mark.parametrize("text", ["", "Sw<1,2>", "Sw<1,2,3", "Sw<-1,0,1>", "Sw<1,0,1>:4"])
    def test_text_that_is_no_swizzle_is_refused(self, text: str) -> None:
        with pytest.raises(LayoutError, match="expected the form 'Sw<bits,base,shift>'"):
            Swizzle.parse(text)
        with pytest.raises(LayoutError, match="expected"):
            Swizzled.parse(f"{text} o 4:1" if text else "4:1")


class TestCoordinates:
    @many
    @given(layouts())
    def test_all_ways_to_name_an_element_agree(self, layout: Layout) -> None:
        """A number, a full coordinate, and an int in place of a nested mode are one element."""
        parts = modes(layout)
        assert [layout(number) for number in range(size(layout))] == images(layout)
        for number in range(size(layout)):
            crd = idx2crd(number, layout.shape)
            assert is_congruent(crd, layout.shape)
            assert crd2idx(crd, layout.shape) == number
            digits = zip(flatten(crd), flatten(layout.stride), strict=True)
            index = sum(digit * step for digit, step in digits)
            assert layout(number) == layout(crd) == crd2idx(crd, layout.shape, layout.stride) == index
            if isinstance(crd, tuple):
                weak = tuple(crd2idx(part, mode.shape) for part, mode in zip(crd, parts, strict=True))
                assert layout(weak) == index

    @some
    @given(layouts())
    def test_sizes_and_parts(self, layout: Layout) -> None:
        assert size(layout) == size(layout.shape) == product(layout.shape) == math.prod(map(size, modes(layout)))
        assert cosize(layout) == max(images(layout)) + 1
        assert rank(layout) == rank(layout.shape) == len(modes(layout))
        assert depth(layout) == depth(layout.shape)
        assert images(flatten(layout)) == images(layout)
        assert depth(flatten(layout)) <= 1
        if isinstance(layout.shape, tuple):
            assert make_layout(*modes(layout)) == layout

    @some
    @given(layouts())
    def test_the_leftmost_digit_runs_fastest(self, layout: Layout) -> None:
        """Coordinates in order of their numbers are sorted from the right."""
        crds = [flatten(idx2crd(number, layout.shape))[::-1] for number in range(size(layout))]
        assert crds == sorted(crds)
        assert len(set(crds)) == size(layout)

    @some
    @given(layouts(), st.data())
    def test_select_takes_modes_in_the_order_asked(self, layout: Layout, pick: st.DataObject) -> None:
        assume(rank(layout) > 0)
        which = pick.draw(st.lists(st.integers(0, rank(layout) - 1), min_size=1, max_size=3))
        parts = modes(select(layout, *which))
        assert parts == tuple(modes(layout)[number] for number in which)

    @many
    @given(layouts(), swizzles())
    def test_indices_is_every_call_at_once(self, layout: Layout, swizzle: Swizzle) -> None:
        assume(cosize(layout) <= 2**63)
        assert indices(layout).dtype == np.int64
        assert indices(layout).tolist() == images(layout)
        assert indices(Swizzled(swizzle, layout)).tolist() == images(Swizzled(swizzle, layout))

    def test_indices_takes_a_weight(self) -> None:
        """A packer calls it on millions of elements (its speed is measured in bench/)."""
        layout = Layout(((8, 16), (64, 128)), ((1, 1024), (8, 16384)))
        every = indices(layout)
        assert every.size == size(layout) == 2**20
        assert all(every[number] == layout(number) for number in range(0, 2**20, 997))

    def test_indices_refuses_what_does_not_fit(self) -> None:
        with pytest.raises(LayoutError, match="beyond 63 bits"):
            indices(Layout(2, 2**63))
        with pytest.raises(LayoutError, match="moves bits beyond 63"):
            indices(Swizzled(Swizzle(2, 0, 62), Layout(4)))
        assert indices(Layout(2, 2**63 - 1)).tolist() == [0, 2**63 - 1]

    @pytest.mark.parametrize(
        ("coord", "message"),
        [
            (24, r"coordinate 24 is outside shape \(4,\(2,3\)\) of size 24"),
            ((4, 0), "coordinate 4 is outside shape 4"),
            ((0, (2, 0)), "coordinate 2 is outside shape 2"),
            (-1, "coordinate -1 is refused"),
            ((1, 1, 1), r"coordinate \(1,1,1\) does not fit shape \(4,\(2,3\)\)"),
            (((1,), 0), r"coordinate \(1,\) does not fit shape 4: it is nested deeper"),
        ],
    )
    def test_a_bad_coordinate_is_refused(self, coord: IntTuple, message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            Layout((4, (2, 3)))(coord)

    @pytest.mark.parametrize("number", [-1, 24])
    def test_a_number_outside_the_shape_has_no_coordinate(self, number: int) -> None:
        with pytest.raises(LayoutError, match=rf"number {number} is outside shape \(4,\(2,3\)\) of size 24"):
            idx2crd(number, (4, (2, 3)))

    def test_a_mode_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(LayoutError, match="has modes 0 to 1, not 2"):
            select(Layout((4, 2)), 0, 2)

    @many
    @given(shapes, shapes)
    def test_compatible_means_that_coordinates_carry_over(self, coarse: IntTuple, fine: IntTuple) -> None:
        fits = True
        for number in range(product(coarse)):
            try:
                fits = fits and Layout(fine)(idx2crd(number, coarse)) == number
            except LayoutError:
                fits = False
        assert is_compatible(coarse, fine) == (fits and product(coarse) == product(fine))


# Coalesce, composition, complement, inverses --------------------------------------------------------------------------


class TestCoalesce:
    @pytest.mark.parametrize("members", [SMALL, DEEP], ids=["small", "deep"])
    def test_every_small_layout(self, members: Sequence[Layout]) -> None:
        for layout in members:
            law_coalesce(layout, coalesce(layout))

    @many
    @given(layouts())
    def test_any_layout(self, layout: Layout) -> None:
        law_coalesce(layout, coalesce(layout))
        assert coalesce(coalesce(layout)) == coalesce(layout)

    @some
    @given(layouts())
    def test_by_mode_it_keeps_the_rank(self, layout: Layout) -> None:
        assume(isinstance(layout.shape, tuple))
        whole = coalesce(layout, (1,) * rank(layout))
        for before, after in zip(modes(layout), modes(whole), strict=True):
            law_coalesce(before, after)
        head = coalesce(layout, (1,) * (rank(layout) - 1)) if rank(layout) else layout
        assert modes(head)[-1:] == modes(layout)[-1:]
        assert images(whole) == images(head) == images(layout)

    def test_a_target_with_too_many_modes_is_refused(self) -> None:
        with pytest.raises(LayoutError, match=r"\(4,2\):\(1,4\) has 2 modes, too few for a tuple of 3"):
            coalesce(Layout((4, 2)), (1, 1, 1))


class TestComposition:
    def test_every_small_pair_is_right_or_refused_because_there_is_no_answer(self) -> None:
        """Both ways: an accepted pair obeys the law, and for a refused one no layout does."""
        outers = [*family((1, 2, 3, 4), (0, 1, 4), ranks=(2,)), *family((2, 3), (1, 2, 12), ranks=(3,))]
        inner_family = list(family((1, 2, 3, 4), (0, 1, 2, 3, 4)))
        counts = {True: 0, False: 0}
        for outer in {coalesce(outer): outer for outer in outers}.values():
            for inner in inner_family:
                if cosize(inner) > size(outer):
                    continue
                result = accepted(lambda outer=outer, inner=inner: composition(outer, inner))
                counts[result is not None] += 1
                if result is not None:
                    law_composition(outer, inner, result)
                else:
                    assert not exists(outer, inner), f"{outer} o {inner} was refused"
        assert min(counts.values()) > 500

    @pytest.mark.parametrize("outer", ["(4,4,4):(1,8,100)", "(2,4,6):(100,1,9)", "(6,2,4):(1,50,7)"])
    def test_every_single_mode_through_three(self, outer: str) -> None:
        """Steps that are no digit of `outer`, such as 9 = 1 + 2 * 4, move in several modes at once and may carry."""
        layout = Layout.parse(outer)
        for count, jump in itertools.product(range(1, size(layout) + 1), range(size(layout))):
            inner = Layout(count, jump)
            if cosize(inner) > size(layout):
                continue
            result = accepted(lambda inner=inner: composition(layout, inner))
            if result is not None:
                law_composition(layout, inner, result)
            else:
                assert not exists(layout, inner), f"{layout} o {inner} was refused"

    @many
    @given(st.data())
    def test_any_admissible_pair(self, pick: st.DataObject) -> None:
        outer = pick.draw(layouts())
        inner = pick.draw(inners(outer))
        law_composition(outer, inner, composition(outer, inner))

    @many
    @given(layouts(), layouts())
    def test_any_pair_is_right_or_refused(self, outer: Layout, inner: Layout) -> None:
        result = accepted(lambda: composition(outer, inner))
        if result is not None:
            law_composition(outer, inner, result)

    @some
    @given(st.data())
    def test_it_is_associative(self, pick: st.DataObject) -> None:
        """Where both orders exist: a broadcast in `a` can let c compose with a o b, and not with b alone."""
        a = pick.draw(layouts())
        b = pick.draw(inners(a))
        c = pick.draw(inners(composition(a, b)))
        other_order = accepted(lambda: composition(a, composition(b, c)))
        assume(other_order is not None)
        assert other_order is not None
        assert images(composition(composition(a, b), c)) == images(other_order)

    @some
    @given(layouts())
    def test_a_compact_layout_of_its_shape_is_the_identity(self, layout: Layout) -> None:
        assert images(composition(layout, Layout(layout.shape))) == images(layout)
        assert images(composition(layout, size(layout))) == images(layout)

    @some
    @given(st.data())
    def test_a_tuple_composes_mode_by_mode(self, pick: st.DataObject) -> None:
        outer = pick.draw(layouts())
        assume(rank(outer) > 1)
        tilers = tuple(pick.draw(inners(mode)) for mode in modes(outer)[:-1])
        result = modes(composition(outer, tilers))
        for mode, inner, part in zip(modes(outer), tilers, result, strict=False):
            law_composition(mode, inner, part)
        assert result[-1] == modes(outer)[-1]

    @some
    @given(st.data(), swizzles())
    def test_a_swizzle_stays_outside(self, pick: st.DataObject, swizzle: Swizzle) -> None:
        outer = pick.draw(layouts())
        inner = pick.draw(inners(outer))
        law_composition(Swizzled(swizzle, outer), inner, composition(Swizzled(swizzle, outer), inner))
        law_composition(swizzle, outer, composition(swizzle, outer))

    @pytest.mark.parametrize(
        ("outer", "inner", "message"),
        [
            ("8:1", "4:4", r"cannot compose 8:1 with 4:4: the latter reaches number 12, and the former has 8 elements"),
            ("(6,4):(1,8)", "3:4", "steps of 4 through the mode 6:1 and out of it, but 4 does not divide 6"),
            ("(4,4):(1,8)", "6:1", "leaves the mode 4:1 every 4 elements, but 4 does not divide its 6"),
            ("(4,4):(1,8)", "(3,2):(1,3)", "together reach 5 in the mode 4:1, beyond its extent"),
        ],
    )
    def test_no_answer_is_refused_with_what_divides_what(self, outer: str, inner: str, message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            composition(Layout.parse(outer), Layout.parse(inner))

    def test_modes_that_are_not_there_are_refused(self) -> None:
        with pytest.raises(LayoutError, match="has 2 modes, too few for a tuple of 3"):
            composition(Layout((4, 2)), (2, 2, 2))
        with pytest.raises(LayoutError, match="has no modes to compose by mode"):
            composition(Swizzle(1, 0, 1), (2, 2))  # pyright: ignore[reportArgumentType, reportCallIssue]


class TestComplement:
    def test_every_small_layout_is_right_or_refused_because_there_is_no_answer(self) -> None:
        """For a one-to-one layout the offsets are forced: each one is the least index not yet covered."""
        counts = {True: 0, False: 0}
        for layout in SMALL:
            image = sorted(set(images(layout)))
            for cotarget in (*range(1, 17), 24, 36):
                rest = accepted(lambda layout=layout, cotarget=cotarget: complement(layout, cotarget))
                counts[rest is not None] += 1
                if rest is not None:
                    law_complement(layout, rest, cotarget)
                elif len(image) == size(layout):
                    free = set(range(cotarget))
                    while free and free >= {index + min(free) for index in image}:
                        free -= {index + min(free) for index in image}
                    assert free, f"the complement of {layout} in {cotarget} was refused"
        assert min(counts.values()) > 500

    @many
    @given(invertibles(), st.integers(1, 4))
    def test_any_layout_that_has_one(self, layout: Layout, more: int) -> None:
        rest = complement(layout)
        end = size(layout) * size(rest)
        assume(end * more < 20000)
        law_complement(layout, rest, end)
        law_complement(layout, complement(layout, end * more), end * more)
        law_coalesce(rest, rest)

    @pytest.mark.parametrize(
        ("layout", "cotarget", "message"),
        [
            ("(4,2):(1,6)", None, "mode 2:6 starts at 6, not a multiple of 4 .*; pad the stride to 8"),
            ("(2,2):(1,1)", None, "mode 2:1 starts at 1, not a multiple of 2"),
            ("8:1", 25, "in 25: 8, where its last mode ends, does not divide 25; pad 25 to 32"),
            ("8:1", 4, "8, where its last mode ends, does not divide 4; pad 4 to 8"),
            ("1:0", 0, "does not divide 0; pad 0 to 1"),
        ],
    )
    def test_no_answer_is_refused_with_what_divides_what(self, layout: str, cotarget: int | None, message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            complement(Layout.parse(layout), cotarget)


class TestInverses:
    @pytest.mark.parametrize("members", [SMALL, DEEP], ids=["small", "deep"])
    def test_every_small_layout(self, members: Sequence[Layout]) -> None:
        """Refused are all layouts that are not one-to-one, and none that has a complement."""
        found = 0
        for layout in members:
            law_right_inverse(layout, right_inverse(layout))
            runs = [e for e, d in zip(flatten(layout.shape), flatten(layout.stride), strict=True) if d == 1]
            assert size(right_inverse(layout)) >= max(runs, default=1)
            inverse = accepted(lambda layout=layout: left_inverse(layout))
            injective = len(set(images(layout))) == size(layout)
            if inverse is not None:
                found += 1
                law_left_inverse(layout, inverse)
                missing = min(set(range(cosize(layout) + 1)) - set(images(layout)))
                assert size(right_inverse(layout)) == missing, "the run from 0 on is longer than the right inverse"
            assert inverse is None or injective
            assert inverse is not None or not injective or accepted(lambda layout=layout: complement(layout)) is None
        assert found > 50

    @many
    @given(invertibles())
    def test_any_layout_that_has_one(self, layout: Layout) -> None:
        law_left_inverse(layout, left_inverse(layout))
        law_right_inverse(layout, right_inverse(layout))

    @many
    @given(layouts())
    def test_any_layout_has_a_right_inverse(self, layout: Layout) -> None:
        law_right_inverse(layout, right_inverse(layout))

    @many
    @given(invertibles(gap=1))
    def test_both_inverses_of_a_compact_layout_are_one(self, layout: Layout) -> None:
        assert left_inverse(layout) == right_inverse(layout)
        assert size(right_inverse(layout)) == cosize(layout) == size(layout)

    @some
    @given(invertibles(gap=1), invertibles(gap=1))
    def test_a_repack_is_one_map_after_the_other_backwards(self, source: Layout, target: Layout) -> None:
        """The use in importers: from where a file has the bits to where we want them, without a table."""
        assume(size(source) == size(target))
        repack = accepted(lambda: composition(target, left_inverse(source)))
        assume(repack is not None)
        assert repack is not None
        assert [repack(source(i)) for i in range(size(source))] == images(target)

    @pytest.mark.parametrize(
        ("layout", "message"),
        [
            ("(4,2):(1,0)", "a mode of stride 0 gives many coordinates one index"),
            ("(4,2):(1,3)", "its mode 4:1 ends at 4, and the next mode 2:3 must start there or later"),
            ("(2,2):(2,5)", "its mode 2:2 ends at 4, and the next mode 2:5 .* at a multiple of 2"),
        ],
    )
    def test_no_answer_is_refused_with_what_is_in_the_way(self, layout: str, message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            left_inverse(Layout.parse(layout))


# Division and product -------------------------------------------------------------------------------------------------


class TestDivide:
    def test_every_small_pair(self) -> None:
        found = 0
        for layout in family((2, 4, 6), (1, 2, 6), ranks=(1, 2)):
            for tile in family((1, 2, 3, 4), (1, 2, 3, 4)):
                result = accepted(lambda layout=layout, tile=tile: logical_divide(layout, tile))
                if result is not None:
                    found += 1
                    law_divide(layout, tile, result)
        assert found > 500

    @many
    @given(st.data())
    def test_any_layout_by_digits_of_itself(self, pick: st.DataObject) -> None:
        layout = pick.draw(layouts())
        tile = pick.draw(inners(layout))
        assume(accepted(lambda: complement(tile, size(layout))) is not None)
        result = logical_divide(layout, tile)
        law_divide(layout, tile, result)
        assert zipped_divide(layout, tile) == result
        assert modes(tiled_divide(layout, tile)) == (modes(result)[0], *modes(modes(result)[1]))

    @many
    @given(st.data())
    def test_a_tuple_divides_mode_by_mode(self, pick: st.DataObject) -> None:
        """The zipped and tiled forms are the same numbers, gathered: tile first, rest and undivided modes after."""
        layout = pick.draw(layouts())
        assume(rank(layout) > 1)
        fits = [
            [tile for tile in divisors(size(m)) if accepted(lambda m=m, tile=tile: logical_divide(m, tile))]
            for m in modes(layout)
        ]
        tilers = tuple(pick.draw(st.sampled_from(choice)) for choice in fits[:-1])
        apart = logical_divide(layout, tilers)
        for mode, tile, pair in zip(modes(layout), tilers, modes(apart), strict=False):
            law_divide(mode, Layout(tile), pair)
        last = modes(layout)[-1]
        pairs = [modes(pair) for pair in modes(apart)[:-1]]
        tile, rest = make_layout(*(inside for inside, _ in pairs)), make_layout(*(out for _, out in pairs), last)
        assert modes(apart)[-1] == last
        assert zipped_divide(layout, tilers) == make_layout(tile, rest)
        assert tiled_divide(layout, tilers) == make_layout(tile, *modes(rest))
        same = sorted(images(layout))
        assert sorted(images(apart)) == same
        assert sorted(images(zipped_divide(layout, tilers))) == same
        assert sorted(images(tiled_divide(layout, tilers))) == same

    def test_nested_tilers_reach_into_modes(self) -> None:
        layout = Layout(((4, 6), 10))
        zipped = zipped_divide(layout, ((2, 3), 5))
        assert is_congruent(zipped.shape, (((0, 0), 0), ((0, 0), 0)))
        assert sorted(images(zipped)) == images(layout)
        for i, j in itertools.product(range(2), range(3)):
            assert zipped((((i, j), 1), 0)) == layout(((i, j), 1))

    def test_tiles_that_do_not_fill_the_layout_are_refused(self) -> None:
        """Rounding up would read past the end."""
        with pytest.raises(LayoutError, match=r"cannot divide 25:1 by 8:1: .* 8, .* does not divide 25; pad 25 to 32"):
            logical_divide(Layout(25), 8)
        with pytest.raises(LayoutError, match=r"cannot divide \(4,4\):\(1,8\) by 2:3"):
            logical_divide(Layout((4, 4), (1, 8)), Layout(2, 3))
        with pytest.raises(LayoutError, match="has 1 modes, too few for a tuple of 2"):
            tiled_divide(Layout(8), (2, 2))


class TestProduct:
    def test_every_small_pair(self) -> None:
        found = 0
        for block in family((1, 2, 3), (0, 1, 2, 3, 4)):
            for repeats in family((1, 2, 3), (0, 1, 2, 3)):
                result = accepted(lambda block=block, repeats=repeats: logical_product(block, repeats))
                if result is not None:
                    found += 1
                    law_product(block, repeats, result)
        assert found > 500

    @many
    @given(invertibles(gap=1), layouts())
    def test_any_repetition_of_a_compact_block(self, block: Layout, repeats: Layout) -> None:
        """A compact block has no holes, so no repetition is inadmissible: copy j lies at size(block) * j."""
        assume(size(block) * size(repeats) < 3000)
        result = logical_product(block, repeats)
        law_product(block, repeats, result)
        assert images(modes(result)[1]) == [size(block) * number for number in images(repeats)]
        assert zipped_product(block, repeats) == result
        assert modes(tiled_product(block, repeats)) == (block, *modes(modes(result)[1]))

    @many
    @given(invertibles(), st.data())
    def test_copies_fill_the_holes_of_a_block_first(self, block: Layout, pick: st.DataObject) -> None:
        rest = complement(block)
        repeats = Layout(pick.draw(st.sampled_from(divisors(size(rest)))))
        assume(size(block) * size(repeats) < 3000)
        result = accepted(lambda: logical_product(block, repeats))
        assume(result is not None)
        assert result is not None
        law_product(block, repeats, result)
        assert cosize(result) <= size(block) * size(rest)

    @many
    @given(invertibles(gap=2), invertibles(gap=1))
    def test_blocked_and_raked_are_one_image(self, block: Layout, repeats: Layout) -> None:
        """Mode i pairs both modes i; the order inside the pair is all that differs."""
        assume(size(block) * size(repeats) < 3000)
        blocked = accepted(lambda: blocked_product(block, repeats))
        assume(blocked is not None)
        assert blocked is not None
        raked = raked_product(block, repeats)
        assert sorted(images(blocked)) == sorted(images(raked)) == sorted(images(logical_product(block, repeats)))
        width = max(rank(block), rank(repeats))
        assert rank(blocked) == rank(raked) == width
        for left, right in zip(modes(blocked), modes(raked), strict=True):
            assert modes(left) == modes(right)[::-1]
        insides = [modes(mode)[0] for mode in modes(blocked)]
        assert insides == [*modes(block), *[Layout(1, 0)] * (width - rank(block))]
        outsides = [size(modes(mode)[1]) for mode in modes(blocked)]
        assert outsides == [*map(size, modes(repeats)), *[1] * (width - rank(repeats))]

    @pytest.mark.parametrize("form", [logical_product, zipped_product, tiled_product])
    def test_a_tuple_repeats_mode_by_mode(self, form: Callable[[Layout, Tiler], Layout]) -> None:
        """The three forms are one set of indices, all different, and the block is where its modes were."""
        block = Layout((4, 2), (1, 100))
        result = form(block, (3, Layout(5, 100)))
        values = images(result)
        assert len(set(values)) == 4 * 2 * 3 * 5
        assert sorted(values) == sorted(images(logical_product(block, (3, Layout(5, 100)))))
        first = modes(result)[0] if form is not logical_product else make_layout(*(modes(m)[0] for m in modes(result)))
        assert first == block

    @pytest.mark.parametrize("form", [logical_product, zipped_product, tiled_product])
    def test_overlap_is_refused(self, form: Callable[[Layout, Tiler], Layout]) -> None:
        with pytest.raises(LayoutError, match=r"starts inside the 3 indices .*; use blocked_product"):
            form(Layout((4, 2)), (1, 3))
        with pytest.raises(LayoutError, match="with 1 tilers: it has 2 modes; give each one"):
            form(Layout((4, 2)), (3,))
        with pytest.raises(LayoutError, match=r"cannot repeat \(4,2\):\(1,6\) by 3:1: .* has no complement"):
            form(Layout((4, 2), (1, 6)), 3)
        with pytest.raises(LayoutError, match=r"cannot repeat 4:2 by 3:1: cannot compose .* 2 does not divide its 3"):
            form(Layout(4, 2), 3)


# Swizzles and readings ------------------------------------------------------------------------------------------------


class TestSwizzle:
    def test_every_small_swizzle_is_an_involution_that_xors_bit_by_bit(self) -> None:
        for bits, base, extra, sign in itertools.product(range(4), range(3), range(3), (1, -1)):
            shift = sign * (bits + extra)
            swizzle = Swizzle(bits, base, shift)
            everything = range(1 << (2 * bits + base + extra + 1))
            assert sorted(map(swizzle, everything)) == list(everything)
            low = base + max(0, -shift)
            for index in everything:
                assert swizzle(swizzle(index)) == index
                expected = index
                for bit in range(bits):
                    expected ^= (index >> (low + bit + shift) & 1) << (low + bit)
                assert swizzle(index) == expected

    @many
    @given(swizzles(), st.integers(0, 2**80), st.integers(0, 2**80))
    def test_it_is_linear_and_keeps_vectors(self, swizzle: Swizzle, a: int, b: int) -> None:
        assert swizzle(a ^ b) == swizzle(a) ^ swizzle(b)
        assert swizzle(swizzle(a)) == a
        assert swizzle(a) % (1 << swizzle.base) == a % (1 << swizzle.base)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ((-1, 0, 1), "neither may be negative"),
            ((1, -1, 1), "neither may be negative"),
            ((3, 0, 2), "the two fields of 3 bits overlap; the shift must be 3 or more"),
            ((3, 0, -2), "overlap"),
        ],
    )
    def test_a_bad_swizzle_is_refused(self, fields: tuple[int, int, int], message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            Swizzle(*fields)

    def test_a_negative_index_is_refused(self) -> None:
        with pytest.raises(LayoutError, match="moves indices from 0 up, not -1"):
            Swizzle(1, 0, 1)(-1)


class TestF2Matrix:
    @pytest.mark.parametrize("members", [SMALL, DEEP], ids=["small", "deep"])
    def test_it_exists_just_when_the_layout_is_linear(self, members: Sequence[Layout]) -> None:
        for layout in members:
            if is_linear(layout):
                law_f2(layout, f2_matrix(layout))
            else:
                with pytest.raises(LayoutError, match="is not linear over bits"):
                    f2_matrix(layout)

    @some
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=4), swizzles())
    def test_any_swizzled_layout(self, bits: list[tuple[int, int]], swizzle: Swizzle) -> None:
        layout = Layout(tuple(1 << width for width, _ in bits), tuple(1 << place for _, place in bits))
        tile = Swizzled(swizzle, layout)
        if is_linear(tile):
            law_f2(tile, f2_matrix(tile))
        else:
            with pytest.raises(LayoutError, match="shares a bit with another mode or digit"):
                f2_matrix(tile)

    def test_an_extent_of_three_is_named(self) -> None:
        with pytest.raises(LayoutError, match="its extent 3 is no power of two"):
            f2_matrix(Layout((4, 3)))


class TestMaxVector:
    @pytest.mark.parametrize("members", [SMALL, DEEP], ids=["small", "deep"])
    def test_every_small_layout(self, members: Sequence[Layout]) -> None:
        for layout, origin in itertools.product(members, (0, 1, 2, 4, 6)):
            values = [origin + index for index in images(layout)]
            widths = [width for width in (1, 2, 4, 8, 16, 32) if is_vector(values, width)]
            assert max_vector(layout, origin=origin) == widths[-1]

    @many
    @given(layouts(), st.integers(1, 9), st.integers(0, 40))
    def test_any_layout(self, layout: Layout, limit: int, origin: int) -> None:
        values = [origin + index for index in images(layout)]
        widths = [1 << bit for bit in range(10) if is_vector(values, 1 << bit)]
        assert max_vector(layout, origin=origin) == widths[-1]
        assert max_vector(layout, limit=limit, origin=origin) == max(width for width in widths if width <= limit)

    @many
    @given(
        swizzles(), st.lists(st.sampled_from([2, 3, 4, 8]), max_size=3), st.integers(1, 3), st.sampled_from([0, 8, 12])
    )
    def test_a_swizzle_keeps_vectors_of_its_base(
        self, swizzle: Swizzle, extents: list[int], pad: int, origin: int
    ) -> None:
        """Never too wide; and as wide as can be unless the swizzle happens to do nothing."""
        rows = Layout(tuple(extents))
        layout = make_layout(Layout(8), Layout(rows.shape, tuple(8 * pad * step for step in flatten(rows.stride))))
        values = [swizzle(origin + index) for index in images(layout)]
        width = max_vector(Swizzled(swizzle, layout), origin=origin)
        assert is_vector(values, width)
        if any(swizzle(index) != index for index in range(origin, origin + cosize(layout))):
            wider = is_vector(values, 2 * width)
            assert not wider or values == [origin + index for index in images(layout)] or width == 1 << swizzle.base

    def test_bad_numbers_are_refused(self) -> None:
        for limit, origin in ((0, 0), (4, -1)):
            with pytest.raises(LayoutError, match=f"not {limit} and {origin}"):
                max_vector(Layout(8), limit=limit, origin=origin)


def wavefronts_by_hand(addresses: Sequence[int], access_bytes: int) -> int:
    """Serve lanes group by group; in each wavefront every bank of 4 bytes hands out one of the words it still owes."""
    total = 0
    together = 128 // access_bytes if access_bytes > 4 else 32
    for first in range(0, len(addresses), together):
        owed: list[list[int]] = [[] for _ in range(32)]
        for address in addresses[first : first + together]:
            for byte in range(address, address + access_bytes):
                if byte // 4 not in owed[byte // 4 % 32]:
                    owed[byte // 4 % 32].append(byte // 4)
        while any(owed):
            owed = [words[1:] for words in owed]
            total += 1
    return total


class TestBankConflicts:
    @some
    @given(
        st.sampled_from([(32,), (8, 4), (4, 8), (2, 16), (2, 4, 4)]),
        st.lists(st.integers(0, 70), min_size=3, max_size=3),
        st.sampled_from([1, 2, 4, 8, 16]),
        st.one_of(st.none(), st.sampled_from([Swizzle(3, 4, 3), Swizzle(2, 4, 3), Swizzle(1, 4, 3), Swizzle(3, 4, 4)])),
    )
    def test_any_warp(self, shape: tuple[int, ...], strides: list[int], width: int, swizzle: Swizzle | None) -> None:
        layout = Layout(shape, tuple(width * step for step in strides[: len(shape)]))
        lanes = layout if swizzle is None else Swizzled(swizzle, layout)
        assert bank_conflicts(lanes, access_bytes=width) == wavefronts_by_hand(images(lanes), width)

    @pytest.mark.parametrize("rows", [8, 16, 32])
    def test_the_swizzle_of_a_128_byte_row_frees_a_column_of_16_byte_vectors(self, rows: int) -> None:
        """The access of ldmatrix: 8 rows at a time, 16 bytes each, from a tile whose rows are 128 bytes."""
        column = Layout(rows, 128)
        least = rows * 16 // 128
        assert bank_conflicts(column, access_bytes=16) == 8 * least
        assert bank_conflicts(Swizzled(Swizzle(3, 4, 3), column), access_bytes=16) == least

    def test_other_banks(self) -> None:
        assert bank_conflicts(Layout(32, 8), banks=64) == 1
        assert bank_conflicts(Layout(32, 8), bank_bytes=8) == 1
        assert bank_conflicts(Layout(32, 8)) == 2

    def test_bad_numbers_are_refused(self) -> None:
        with pytest.raises(LayoutError, match="lane 1 of 32:6 is at byte 6, not a multiple of its 4 bytes"):
            bank_conflicts(Layout(32, 6))
        with pytest.raises(LayoutError, match="access_bytes 3 a power of two"):
            bank_conflicts(Layout(32, 3), access_bytes=3)
        with pytest.raises(LayoutError, match="banks 0 and bank_bytes 4 must be positive"):
            bank_conflicts(Layout(32, 4), banks=0)


# Negative controls: a law that a wrong answer satisfies is no law -----------------------------------------------------


def by_hand(outer: Layout, inner: Layout, wrong: str) -> Layout:
    """A composition gone wrong in one of the ways that such code goes wrong."""
    right = composition(outer, inner)
    match wrong:
        case "outer strides dropped":
            return inner
        case "inner strides dropped":
            return Layout(right.shape, 0) if isinstance(right.shape, int) else composition(outer, Layout(inner.shape))
        case "stride off by one":
            return make_layout(*(Layout(mode.shape, flatten(mode.stride)[0] + 1) for mode in modes(flatten(right))))
        case "modes in the other order":
            return make_layout(*modes(right)[::-1])
        case "one element short":
            return Layout(*(tuple(part[1:]) for part in (flatten(right.shape), flatten(right.stride))))
        case _:
            return coalesce(right)


class TestTheLawsNotice:
    @pytest.mark.parametrize(
        "wrong",
        [
            "outer strides dropped",
            "inner strides dropped",
            "stride off by one",
            "modes in the other order",
            "one element short",
            "shape of the inner layout lost",
        ],
    )
    def test_a_wrong_composition(self, wrong: str) -> None:
        outer, inner = Layout((4, 6), (6, 1)), Layout((4, 3), (3, 1))
        inner = Layout((2, 4), (2, 4)) if wrong != "shape of the inner layout lost" else Layout((2, 2), (1, 2))
        law_composition(outer, inner, composition(outer, inner))
        with pytest.raises(AssertionError):
            law_composition(outer, inner, by_hand(outer, inner, wrong))

    @pytest.mark.parametrize("rest", ["3:1", "6:1", "(3,2):(8,1)", "(2,2):(1,8)", "(2,3):(0,8)", "(2,4):(1,8)"])
    def test_a_wrong_complement(self, rest: str) -> None:
        law_complement(Layout(4, 2), complement(Layout(4, 2), 24), 24)
        with pytest.raises(AssertionError):
            law_complement(Layout(4, 2), Layout.parse(rest), 24)

    @pytest.mark.parametrize("inverse", ["32:1", "(8,4):(1,8)", "(8,4):(4,2)", "(8,2):(4,1)", "32:0"])
    def test_a_wrong_inverse(self, inverse: str) -> None:
        layout = Layout((4, 8), (8, 1))
        law_left_inverse(layout, left_inverse(layout))
        law_right_inverse(layout, right_inverse(layout))
        with pytest.raises((AssertionError, LayoutError)):
            law_left_inverse(layout, Layout.parse(inverse))
        if inverse != "(8,2):(4,1)":  # a right inverse may cover less: this one is right, and short
            with pytest.raises((AssertionError, LayoutError)):
                law_right_inverse(layout, Layout.parse(inverse))

    @pytest.mark.parametrize("result", ["(2,2,3):(1,2,4)", "12:2", "(4,3):(1,4)", "(12,1):(1,12)"])
    def test_a_wrong_coalesce(self, result: str) -> None:
        law_coalesce(Layout((4, 3)), coalesce(Layout((4, 3))))
        with pytest.raises(AssertionError):
            law_coalesce(Layout((4, 3)), Layout.parse(result))

    @pytest.mark.parametrize("result", ["(4,2):(1,4)", "(4,2):(2,8)", "(4,2):(2,0)", "(2,4):(1,2)"])
    def test_a_wrong_division(self, result: str) -> None:
        law_divide(Layout(8), Layout(4, 2), logical_divide(Layout(8), Layout(4, 2)))
        with pytest.raises((AssertionError, LayoutError)):
            law_divide(Layout(8), Layout(4, 2), Layout.parse(result))

    @pytest.mark.parametrize("result", ["(4,3):(1,2)", "(4,3):(1,0)", "(4,2):(1,4)", "(4,3):(2,8)"])
    def test_a_wrong_product(self, result: str) -> None:
        law_product(Layout(4), Layout(3), logical_product(Layout(4), Layout(3)))
        with pytest.raises(AssertionError):
            law_product(Layout(4), Layout(3), Layout.parse(result))

    def test_a_wrong_matrix(self) -> None:
        with pytest.raises(AssertionError):
            law_f2(Swizzled(Swizzle(1, 0, 2), Layout(8)), f2_matrix(Layout(8)))
