# pyright: strict
"""Indices, vectors and bank conflicts, against the definition of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gridstone.ir.errors import LayoutError
from gridstone.ir.layout import (
    Layout,
    Swizzle,
    Swizzled,
    bank_conflicts,
    cosize,
    flatten,
    indices,
    make_layout,
    max_vector,
    size,
)
from tests.ir.layout_laws import DEEP, SMALL, images, is_vector, layouts, many, some, swizzles


class TestIndices:
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
