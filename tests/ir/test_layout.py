# pyright: strict
"""Layouts as values and as functions of coordinates; the laws of the algebra are in the files beside this one.

No test holds a table of expected outputs: see `layout_laws.py`.
"""

from __future__ import annotations

import copy
import doctest
import math
import pickle
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gridstone.ir import access, int_tuple, swizzle, tiling
from gridstone.ir import composition as composition_page
from gridstone.ir import layout as layout_page
from gridstone.ir import modes as modes_page
from gridstone.ir.errors import LayoutError
from gridstone.ir.layout import (
    IntTuple,
    Layout,
    coalesce,
    compact_stride,
    cosize,
    crd2idx,
    depth,
    flatten,
    idx2crd,
    is_compatible,
    is_congruent,
    make_layout,
    modes,
    product,
    rank,
    select,
    size,
)
from tests.ir.layout_laws import DEEP, SMALL, images, law_coalesce, layouts, many, shapes, some

PAGES = [access, composition_page, int_tuple, layout_page, modes_page, swizzle, tiling]


class TestValues:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
    def test_the_examples_in_the_docstrings_hold(self, page: ModuleType) -> None:
        result = doctest.testmod(page)
        assert result.attempted > 1
        assert result.failed == 0

    @many
    @given(layouts())
    def test_a_layout_prints_as_text_that_reads_back(self, layout: Layout) -> None:
        assert Layout.parse(str(layout)) == layout
        assert Layout.parse(str(layout).replace(",", " , ").replace(":", " : ") + " ") == layout

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
            ("(" * 99, "expected tuples at most 64 deep at column 65"),
            ("4 :" + "9" * 601, "expected a number of at most 600 digits at column 3"),
        ],
    )
    def test_text_that_is_no_layout_is_refused_with_its_place(self, text: str, message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            Layout.parse(text)


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
