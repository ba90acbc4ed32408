# pyright: strict
"""Swizzles are linear permutations of bits, and a layout that is linear over bits is its matrix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridstone.ir.errors import LayoutError
from gridstone.ir.layout import Layout, Swizzle, Swizzled, f2_matrix
from tests.ir.layout_laws import DEEP, SMALL, is_linear, law_f2, layouts, many, some, swizzles


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
            ((3, 0, 2), r"the two fields of 3 bits overlap \(shift by 3 or more\)"),
            ((3, 0, -2), "overlap"),
            ((1, 0, 10**9), "its fields reach beyond bit 4096"),
        ],
    )
    def test_a_bad_swizzle_is_refused(self, fields: tuple[int, int, int], message: str) -> None:
        with pytest.raises(LayoutError, match=message):
            Swizzle(*fields)

    def test_a_negative_index_is_refused(self) -> None:
        with pytest.raises(LayoutError, match="moves indices from 0 up, not -1"):
            Swizzle(1, 0, 1)(-1)

    @some
    @given(swizzles(), layouts())
    def test_a_swizzle_prints_as_text_that_reads_back(self, swizzle: Swizzle, layout: Layout) -> None:
        assert Swizzle.parse(str(swizzle)) == swizzle
        assert Swizzled.parse(str(Swizzled(swizzle, layout))) == Swizzled(swizzle, layout)

    @pytest.mark.parametrize("text", ["", "Sw<1,2>", "Sw<1,2,3", "Sw<-1,0,1>", "Sw<1,0,1>:4", "Sw<1,9999999999,1>"])
    def test_text_that_is_no_swizzle_is_refused(self, text: str) -> None:
        with pytest.raises(LayoutError, match="expected the form 'Sw<bits,base,shift>'"):
            Swizzle.parse(text)
        with pytest.raises(LayoutError, match="expected"):
            Swizzled.parse(f"{text} o 4:1" if text else "4:1")


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
