# pyright: strict
"""The laws of composition, complement and inverses: on small families, and on thousands of random layouts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gridstone.ir.errors import LayoutError
from gridstone.ir.layout import (
    Layout,
    Swizzle,
    Swizzled,
    coalesce,
    complement,
    composition,
    cosize,
    flatten,
    left_inverse,
    modes,
    rank,
    right_inverse,
    size,
)
from tests.ir.layout_laws import (
    DEEP,
    SMALL,
    accepted,
    exists,
    family,
    images,
    inners,
    invertibles,
    law_coalesce,
    law_complement,
    law_composition,
    law_left_inverse,
    law_right_inverse,
    layouts,
    many,
    some,
    swizzles,
)


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
            ("(4,2):(1,6)", None, r"mode 2:6 starts at 6, not a multiple of 4 .* \(pad the stride to 8\)"),
            ("(2,2):(1,1)", None, "mode 2:1 starts at 1, not a multiple of 2"),
            ("8:1", 25, r"in 25: 8, where its last mode ends, does not divide 25 \(pad 25 to 32\)"),
            ("8:1", 4, r"8, where its last mode ends, does not divide 4 \(pad 4 to 8\)"),
            ("1:0", 0, r"does not divide 0 \(pad 0 to 1\)"),
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
