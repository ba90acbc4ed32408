# pyright: strict
"""Negative controls of the laws of layouts: a law that a wrong answer satisfies is no law."""

from __future__ import annotations

import pytest

from gridstone.ir.errors import LayoutError
from gridstone.ir.layout import (
    Layout,
    Swizzle,
    Swizzled,
    coalesce,
    complement,
    composition,
    f2_matrix,
    flatten,
    left_inverse,
    logical_divide,
    logical_product,
    make_layout,
    modes,
    right_inverse,
)
from tests.ir.layout_laws import (
    law_coalesce,
    law_complement,
    law_composition,
    law_divide,
    law_f2,
    law_left_inverse,
    law_product,
    law_right_inverse,
)


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
