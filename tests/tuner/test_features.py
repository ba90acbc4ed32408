"""Features: near means alike, different points look different, and what tells nothing is left out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gridstone.lower.schedule import Choice
from gridstone.tuner.feasible import Branch, FeasibleSet
from gridstone.tuner.features import Features, scales


def branch(name, *axes, keep=lambda row: True):
    rows = [row for row in itertools.product(*(range(len(axis.values)) for axis in axes)) if keep(row)]
    return Branch(name, tuple(axes), np.array(rows, dtype=np.int16).reshape(len(rows), len(axes)))


def every(points, prior=None):
    return Features(points, prior).of(range(points.size))


AXES = [
    Choice("tile", (1, 2, 4, 8)),
    Choice("tile", (1, 2, 3, 4, 6, 8, 12)),
    Choice("stride", (0, 1, 2, 5)),
    Choice("offset", (-4, -1, 0, 3)),
    Choice("fused", (False, True)),
    Choice("layout", ("row", "column")),
    Choice("order", ("mnk", "nmk", "kmn")),
    Choice("one", (16,)),
    Choice("exact", ("0.5", "0.25", "0.125")),
]


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: f"{axis.field}{len(axis.values)}")
def test_values_of_a_choice_lie_between_0_and_1_and_differ(axis):
    table = scales(axis)
    assert len(table) == len(axis.values)
    assert ((table >= 0) & (table <= 1)).all()
    assert len({tuple(row) for row in table.tolist()}) == len(axis.values)


def test_numbers_with_equal_ratios_are_equally_far():
    """Breaks when 1 and 2 are taken for neighbours that 64 and 128 are not."""
    column = scales(Choice("tile", (1, 2, 4, 64, 128)))[:, 0]
    steps = np.diff(column)
    assert steps[0] == pytest.approx(steps[1]) == pytest.approx(steps[3])
    assert steps[2] == pytest.approx(4 * steps[0])


def test_the_order_of_values_does_not_matter():
    up, down = scales(Choice("tile", (1, 3, 8))), scales(Choice("tile", (8, 3, 1)))
    assert up.tolist() == down[::-1].tolist()


def test_names_are_all_equally_far():
    table = scales(Choice("order", ("a", "b", "c", "d")))
    apart = {float(((one - other) ** 2).sum()) for one, other in itertools.combinations(table, 2)}
    assert len(apart) == 1


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ((2, 6, 8), [0, 1, 0]),
        ((0, 1, 2, 3), [0, 0, 0, 1]),
        ((1, 2, 4), None),  # all are powers of two
        ((3, 5, 7), None),  # none is
        ((4, 6), None),  # says what the other column says
        ((-6, 2, 4), None),
    ],
)
def test_whether_a_number_is_a_power_of_two_is_a_column_where_that_differs(values, odd):
    table = scales(Choice("banks", values))
    assert table.shape[1] == (1 if odd is None else 2)
    if odd is not None:
        assert table[:, 1].tolist() == odd


def test_a_step_looks_smaller_than_a_leap():
    points = FeasibleSet([branch("a", Choice("m", (1, 2, 4, 8, 16)), Choice("s", (False, True)))])
    places = every(points)

    def apart(one, other):
        return float(np.abs(places[points.find("a", one)] - places[points.find("a", other)]).sum())

    assert apart((0, 0), (1, 0)) < apart((0, 0), (2, 0)) < apart((0, 0), (4, 0))
    assert apart((0, 0), (0, 0)) == 0 < apart((0, 0), (0, 1))


def test_columns_that_are_the_same_everywhere_are_dropped():
    axes = (Choice("m", (1, 2, 4)), Choice("one", (8,)), Choice("n", (1, 2, 4)), Choice("kind", ("a", "b", "c")))
    points = FeasibleSet([branch("a", *axes, keep=lambda row: row[2] == 1 and row[3] != 2)])
    features = Features(points)
    # m, and whether the kind is a or b; n has one feasible value, and nothing is of the kind c.
    assert features.width == 3
    assert (every(points).min(axis=0) < every(points).max(axis=0)).all()
    assert Features(FeasibleSet([branch("library")])).of([0]).shape == (1, 0)


def test_recipes_share_the_columns_of_a_field():
    one = branch("a", Choice("m", (1, 2, 4)), Choice("only", (1, 2)))
    other = branch("b", Choice("m", (1, 2, 4)), Choice("depth", (0, 1)))
    points = FeasibleSet([one, other, branch("library")])
    features = Features(points)
    places = every(points)
    assert features.width == 3 + 3  # m, only, depth, and which recipe it is
    a, b, library = points.find("a", (1, 1)), points.find("b", (1, 1)), points.find("library", ())
    m = next(column for column in range(3) if places[a, column] == places[b, column] == 0.5 != places[a + 2, column])
    assert places[library, :3].tolist() == [0.5, 0.5, 0.5]  # it has none of them: in the middle
    assert [places[points.find("a", (i, 0)), m] for i in range(3)] == [0.0, 0.5, 1.0]
    assert [places[points.find("b", (i, 0)), m] for i in range(3)] == [0.0, 0.5, 1.0]
    assert places[[a, b, library], 3:].tolist() == np.eye(3).tolist()


def test_different_points_look_different():
    """Breaks when a model is taught two times for what it takes for one point."""
    points = FeasibleSet(
        [branch("a", *(axis for axis in AXES if axis.field in ("stride", "order", "exact", "fused", "one"))),
         branch("b", AXES[1], AXES[6], keep=lambda row: row[0] != row[1]), branch("library"), branch("other")]
    )  # fmt: skip
    places = every(points)
    assert ((places >= 0) & (places <= 1)).all()
    assert len(np.unique(places, axis=0)) == points.size


def test_any_choice_of_points_has_the_rows_of_the_whole():
    points = FeasibleSet([branch("a", AXES[1], AXES[6]), branch("b", AXES[2])])
    chosen = [24, 3, 3, 0, 21, 20]
    assert Features(points).of(chosen).tolist() == every(points)[chosen].tolist()
    assert Features(points).of([]).shape == (0, Features(points).width)


def test_a_prior_is_a_column_from_the_shortest_time_to_the_median():
    points = FeasibleSet([branch("a", Choice("m", (1, 2, 4, 8, 16, 32)))])
    prior = np.array([8.0, 2.0, 4.0, np.nan, 1.0, 100.0])  # median 4
    without, places = every(points), every(points, prior)
    assert places[:, :-1].tolist() == without.tolist()
    assert places[:, -1].tolist() == pytest.approx([1.0, 0.5, 1.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize("prior", [[np.nan] * 3, [2.0] * 3, [0.0, 1.0, 2.0], [-1.0, 1.0, 2.0]])
def test_a_prior_that_tells_nothing_apart_is_the_same_everywhere(prior):
    points = FeasibleSet([branch("a", Choice("m", (1, 2, 4)))])
    assert every(points, np.array(prior))[:, -1].tolist() == [1.0] * 3
