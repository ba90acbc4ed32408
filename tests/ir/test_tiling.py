# pyright: strict
"""The laws of division and product: on small families, and on thousands of random layouts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gridstone.ir.errors import LayoutError
from gridstone.ir.layout import (
    Layout,
    Tiler,
    blocked_product,
    complement,
    cosize,
    is_congruent,
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
from tests.ir.layout_laws import (
    accepted,
    divisors,
    family,
    images,
    inners,
    invertibles,
    law_divide,
    law_product,
    layouts,
    many,
)


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
        with pytest.raises(
            LayoutError, match=r"cannot divide 25:1 by 8:1: .* 8, .* does not divide 25 \(pad 25 to 32\)"
        ):
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
        with pytest.raises(LayoutError, match=r"starts inside the 3 indices .* \(use blocked_product"):
            form(Layout((4, 2)), (1, 3))
        with pytest.raises(LayoutError, match=r"with 1 tilers: it has 2 modes \(give each one"):
            form(Layout((4, 2)), (3,))
        with pytest.raises(LayoutError, match=r"cannot repeat \(4,2\):\(1,6\) by 3:1: .* has no complement"):
            form(Layout((4, 2), (1, 6)), 3)
        with pytest.raises(LayoutError, match=r"cannot repeat 4:2 by 3:1: cannot compose .* 2 does not divide its 3"):
            form(Layout(4, 2), 3)
