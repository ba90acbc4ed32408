"""Fragments: every element has one place, and chosen ones have the place that the PTX ISA draws.

`tests/proof/test_instructions.py` holds the same tables against what the emulated instructions do.
"""

from __future__ import annotations

import pytest

from gridstone.ir.errors import SpecError
from gridstone.ir.fragment import FRAGMENTS, fragment


@pytest.mark.parametrize("name", FRAGMENTS)
def test_every_element_is_held_once(name):
    found = fragment(name)
    places = {found.element(lane, value) for lane in range(32) for value in range(found.values)}
    assert places == {(row, column) for row in range(found.rows) for column in range(found.columns)}
    assert found.values * 32 == found.rows * found.columns


@pytest.mark.parametrize("name", FRAGMENTS)
def test_registers_are_whole(name):
    """The elements of one register are neighbours along k, low bits first; the sums fill a register each."""
    found = fragment(name)
    per_register = 32 // found.bits
    for lane in range(32):
        for value in range(0, found.values, per_register):
            row, column = found.element(lane, value)
            assert [found.element(lane, value + i) for i in range(per_register)] == [
                (row, column + i) for i in range(per_register)
            ]


@pytest.mark.parametrize(
    ("name", "lane", "elements"),
    [
        ("mma.m16n8k16.a", 0, [(0, 0), (0, 1), (8, 0), (8, 1), (0, 8), (0, 9), (8, 8), (8, 9)]),
        ("mma.m16n8k16.a", 5, [(1, 2), (1, 3), (9, 2), (9, 3), (1, 10), (1, 11), (9, 10), (9, 11)]),
        ("mma.m16n8k16.a", 31, [(7, 6), (7, 7), (15, 6), (15, 7), (7, 14), (7, 15), (15, 14), (15, 15)]),
        ("mma.m16n8k16.b", 5, [(1, 2), (1, 3), (1, 10), (1, 11)]),
        ("mma.m16n8k16.b", 30, [(7, 4), (7, 5), (7, 12), (7, 13)]),
        ("mma.m16n8k16.d", 5, [(1, 2), (1, 3), (9, 2), (9, 3)]),
        ("mma.m16n8k16.d", 28, [(7, 0), (7, 1), (15, 0), (15, 1)]),
    ],
)
def test_halves_and_sums_lie_where_the_isa_draws_them(name, lane, elements):
    """(row, k) of A, (column, k) of B, (row, column) of the sums."""
    assert [fragment(name).element(lane, value) for value in range(fragment(name).values)] == elements


@pytest.mark.parametrize(
    ("name", "lane", "first_of_each_register"),
    [
        ("mma.m16n8k32.a", 5, [(1, 4), (9, 4), (1, 20), (9, 20)]),
        ("mma.m16n8k32.b", 5, [(1, 4), (1, 20)]),
        ("mma.m16n8k32.b", 31, [(7, 12), (7, 28)]),
        ("mma.m16n8k256.a", 5, [(1, 32), (9, 32), (1, 160), (9, 160)]),
        ("mma.m16n8k256.b", 5, [(1, 32), (1, 160)]),
    ],
)
def test_bytes_and_bits_lie_where_the_isa_draws_them(name, lane, first_of_each_register):
    found = fragment(name)
    starts = range(0, found.values, 32 // found.bits)
    assert [found.element(lane, value) for value in starts] == first_of_each_register


def test_an_unknown_fragment_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match=r"unknown fragment 'mma.m16n8k16.c' \(did you mean mma.m16n8k16."):
        fragment("mma.m16n8k16.c")
