"""compare and poison: what a wrong output looks like, and that each is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gridstone.ir.dtype import bf16, f16, f32, round_to
from gridstone.ir.spec import Tolerance
from gridstone.ir.text import parse_spec
from gridstone.proof.compare import compare
from gridstone.proof.operands import DISTRIBUTIONS, draw_operands, to_tensor, to_values
from gridstone.proof.poison import GUARD, poisoned

SPEC = parse_spec("gemm[x: bf16(9,128), w: int4:g32(40,128)] + bias").with_storage("lane16")


def case(spec=SPEC, seed=1):
    """A reference, its tolerance, and an output that is as right as the dtype allows."""
    operands = draw_operands(spec, seed)
    want = spec.op.reference(spec, operands.values)
    return want, spec.op.tolerance(spec, operands.values), round_to(spec.output.dtype, want)


def verdict_of(spoil, spec=SPEC, seed=1):
    want, tolerance, got = case(spec, seed)
    return compare(spoil(got.copy()), want, tolerance, spec.output.dtype)


def spoiled(at, value):
    def spoil(got):
        got[at] = value
        return got

    return spoil


@pytest.mark.parametrize("seed", range(5))
def test_the_rounded_reference_is_right(seed):
    verdict = verdict_of(lambda got: got, seed=seed)
    assert verdict.right
    assert 0 < verdict.worst_element <= 1
    assert 0 < verdict.worst_rms <= 1


@pytest.mark.parametrize(
    "spoil",
    [
        np.zeros_like,
        lambda got: np.roll(got, 1, axis=0),
        lambda got: np.roll(got, 1, axis=1),
        lambda got: got.T.reshape(got.shape),
        lambda got: got * 1.1,
        lambda got: -got,
        lambda got: got + 0.5,
        lambda got: np.where(np.arange(got.shape[1]) < 32, got, 0.0),
        lambda got: np.where(np.arange(got.shape[0])[:, None] < 8, got, 0.0),
        spoiled((3, 4), 99.0),
    ],
    ids=["zeros", "shifted rows", "shifted columns", "transposed", "dropped scale", "sign", "offset", "last columns",
         "last row", "one element"],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_wrong_outputs_are_seen(spoil, seed):
    verdict = verdict_of(spoil, seed=seed)
    assert not verdict.right
    assert "times its bound" in verdict.problem
    assert max(verdict.worst_element, verdict.worst_rms) > 1


def test_a_dropped_epilogue_is_seen():
    operands = draw_operands(SPEC, 2)
    want, tolerance, got = case(SPEC, 2)
    assert not compare(got - operands.values["bias"], want, tolerance, bf16).right


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_special_value_is_seen_with_its_place(value):
    verdict = verdict_of(spoiled((5, 7), value))
    assert "first at (5, 7)" in verdict.problem
    assert str(value) in verdict.problem
    assert verdict.worst_element == np.inf


def test_a_small_systematic_error_is_seen_in_the_norm():
    """Every element may be within its bound while all together are not: a missing term does not average out."""
    want, tolerance, _ = case()
    inside = want + 0.9 * tolerance.element
    verdict = compare(inside, want, tolerance, bf16)
    assert "root mean square" in verdict.problem
    assert verdict.worst_element <= 1 < verdict.worst_rms


def test_nan_where_the_reference_has_one_is_right_and_a_number_there_is_not():
    want, tolerance, got = case()
    want[2, 3] = got[2, 3] = np.nan
    assert compare(got, want, tolerance, bf16).right
    got[2, 3] = 1.0
    assert "differ in being NaN, first at (2, 3): 1 instead of nan" in compare(got, want, tolerance, bf16).problem


@pytest.mark.parametrize("shape", [(9, 41), (10, 40), (360,), (40, 9)])
def test_another_shape_is_seen(shape):
    want, tolerance, _ = case()
    verdict = compare(np.zeros(shape), want, tolerance, bf16)
    assert verdict.problem == f"shape {shape} instead of (9, 40)"


def test_nothing_is_right_when_there_is_nothing():
    empty = np.zeros((0, 40))
    assert compare(empty, empty, Tolerance(empty, 0.0), bf16).right


@pytest.mark.parametrize("dtype", [f16, bf16, f32], ids=str)
def test_overflow(dtype):
    """Beyond the range an infinity is right, a number is not; at its edge either is; of the wrong sign neither."""
    step = dtype.largest * dtype.unit_roundoff
    want = np.array([[dtype.largest * 2, dtype.largest, -dtype.largest * 2, 1.0]])
    tolerance = Tolerance(np.full((1, 4), step), step)
    right = np.array([[np.inf, dtype.largest, -np.inf, 1.0]])
    assert compare(right, want, tolerance, dtype).right
    assert compare(np.array([[np.inf, np.inf, -np.inf, 1.0]]), want, tolerance, dtype).right
    for wrong in ([[dtype.largest, dtype.largest, -np.inf, 1.0]], [[np.inf, -np.inf, -np.inf, 1.0]],
                  [[np.inf, dtype.largest, np.inf, 1.0]], [[np.inf, dtype.largest, -np.inf, np.inf]]):  # fmt: skip
        assert not compare(np.array(wrong), want, tolerance, dtype).right


def test_an_infinity_of_the_other_sign_is_right_only_where_the_bound_reaches_it():
    """Sums of huge terms that nearly cancel, with operands of 8 bits: their error alone may leave either end."""
    want = np.array([[16514.0, 73408.0]])
    wide, narrow = (Tolerance(np.full((1, 2), bound), bound) for bound in (140000.0, 60000.0))
    assert compare(np.array([[-np.inf, -np.inf]]), want, wide, f16).right
    assert compare(np.array([[np.inf, np.inf]]), want, narrow, f16).right
    assert not compare(np.array([[-np.inf, np.inf]]), want, narrow, f16).right
    assert not compare(np.array([[16514.0, -np.inf]]), want, narrow, f16).right
    assert compare(np.array([[16514.0, 20000.0]]), want, narrow, f16).right
    assert not compare(np.array([[16514.0, 10000.0]]), want, narrow, f16).right


def test_an_infinite_reference_wants_that_infinity():
    want = np.array([[np.inf, -np.inf, 0.0]])
    tolerance = Tolerance(np.full((1, 3), np.nan), 0.0)
    tolerance.element[0, 2] = 1e-3
    assert compare(want.copy(), want, tolerance, f32).right
    assert not compare(-want, want, tolerance, f32).right
    assert not compare(np.array([[f32.largest, -np.inf, 0.0]]), want, tolerance, f32).right


def test_an_error_where_none_is_allowed_is_seen():
    """Breaks when a bound of zero, or one that is NaN, excuses everything."""
    want = np.zeros((1, 3))
    assert not compare(np.array([[0.0, 1e-30, 0.0]]), want, Tolerance(np.zeros((1, 3)), 1.0), f32).right
    assert not compare(np.array([[0.0, 1.0, 0.0]]), want, Tolerance(np.full((1, 3), np.nan), 1.0), f32).right
    assert not compare(np.array([[0.0, 1.0, 0.0]]), want, Tolerance(np.ones((1, 3)), float("nan")), f32).right


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_poison(dtype):
    """Breaks when a write beside the output, on either side, goes unseen."""
    clean = poisoned((3, 5), dtype)
    assert clean.output.shape == (3, 5)
    assert torch.isnan(clean.whole).all()
    assert clean.damage() == ""
    clean.output.fill_(1.0)
    assert clean.damage() == ""
    assert int((~torch.isnan(clean.whole)).sum()) == 15
    for at, message in ((0, "1 elements before and 0 after"), (GUARD - 1, "1 elements before and 0 after"),
                        (GUARD + 15, "0 elements before and 1 after"), (-1, "0 elements before and 1 after")):  # fmt: skip  # noqa: E501
        hurt = poisoned((3, 5), dtype)
        hurt.output.fill_(1.0)
        hurt.whole[at] = 0.0
        assert message in hurt.damage()


@pytest.mark.parametrize("shape", [(0, 7), (1, 1)])
def test_poison_of_small_outputs(shape):
    assert poisoned(shape, torch.float32).damage() == ""


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize("x", ["f32", "bf16", "f16"])
def test_operands_are_what_their_values_say(kind, x):
    """A tensor holds exactly the values that the reference is computed from; another seed gives others."""
    spec = parse_spec(f"gemm[x: {x}(9,128), w: uint4:g32:zero(40,128)] + bias:f32 + residual").with_storage("lane16")
    first, again, other = draw_operands(spec, 3, kind), draw_operands(spec, 3, kind), draw_operands(spec, 4, kind)
    for name, tensor in zip(first.values, first.tensors, strict=True):
        if name != "w":
            assert np.array_equal(to_values(tensor), first.values[name])
            assert torch.equal(
                to_tensor(bf16 if tensor.dtype == torch.bfloat16 else f32, first.values[name]).to(tensor.dtype), tensor
            )
        assert np.isfinite(first.values[name]).all()
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, again.tensors, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.tensors, other.tensors, strict=True))
