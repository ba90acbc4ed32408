"""Operands of the emitted Triton kernels: views of residual and output, values that are not finite, activations."""

from __future__ import annotations

import pytest
import torch

from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.proof.interpret import interpreted
from gridstone.proof.operands import draw_operands
from tests.templates.triton_kernels import LARGE, SMALL, Case, assert_right, outputs, source_of

pytestmark = pytest.mark.skipif(TritonToolchain().missing() is not None, reason="no Triton")

ADDED = "gemm[x: f16(M,96), w: int4:g32(33,96)] + bias + residual"


def test_rows_of_residual_and_y_may_lie_apart():
    """Each in memory of its own width; what lies between the rows of y stays as it was."""
    case = Case(ADDED, 7, SMALL, "small(k_splits=1)")
    source, tensors = source_of(case), draw_operands(case.static, 3).tensors
    call = interpreted(source, case.static)
    want = call(*tensors, out=torch.empty(7, 33, dtype=torch.float16))
    residual = torch.full((7, 50), float("nan"), dtype=torch.float16)[:, 2:35].copy_(tensors[-1])
    wide = torch.full((7, 41), float("nan"), dtype=torch.float16)
    call(*tensors[:-1], residual, out=wide[:, 5:38])
    assert torch.equal(wide[:, 5:38], want)
    assert wide[:, :5].isnan().all()
    assert wide[:, 38:].isnan().all()


def test_blocks_that_are_no_multiple_of_a_group():
    """Programs walk GROUP_M blocks of rows side by side; the last group has fewer."""
    text = "gemm[x: f16(M,64), w: int4:g64(130,64)]"
    assert_right(Case(text, 170, LARGE, "large(block_m=32,block_n=64,block_k=64,group_m=4)"))


@pytest.mark.parametrize(("recipe", "schedule"), [(SMALL, "small(block_k=128)"), (LARGE, "large(block_k=128)")])
def test_a_step_that_is_not_whole(recipe, schedule):
    """K is two steps and a half."""
    assert_right(Case("gemm[x: f16(M,320), w: int4:g32(70,320)]", 20, recipe, schedule))


def test_factors_are_what_they_are():
    assert_right(Case("gemm[x: f32(M,64), w: int8:g64:f32(24,64)] + scale(0.37)", 9, schedule="small(k_splits=1)"))


def test_what_is_not_finite_stays_in_its_row():
    """NaN and infinities pass through relu, and through the zeros behind K, into their own row only."""
    case = Case("gemm[x: f32(M,77), w: int8:channel:f32(33,77)] + relu", 6, schedule="small(k_splits=1)")
    source, tensors = source_of(case), list(draw_operands(case.static, 8).tensors)
    call = interpreted(source, case.static)
    clean = call(*tensors, out=torch.empty(6, 33))
    tensors[0] = tensors[0].clone()
    tensors[0][1, 5], tensors[0][4, -1] = float("nan"), float("inf")
    got = call(*tensors, out=torch.empty(6, 33))
    rest = [0, 2, 3, 5]
    assert torch.equal(got[rest], clean[rest])
    assert got[1].isnan().all()
    assert (got[4].isinf() | (got[4] == 0)).all()
    assert got[4].isinf().any()


def test_ordered_sums_are_the_same_bits_in_any_order_of_programs():
    """In float32, which an output of 16 bits would hide."""
    text = "gemm[x: f16(M,576), w: int4:g64:zero(40,576)] -> f32(M,40)"
    for ordered in (True, False):
        plain = f"small(block_m=8,block_n=32,block_k=64,k_splits=4,ordered={str(ordered).lower()})"
        first, *others = outputs(Case(text, 9, SMALL, plain), (2, 3, 4))
        assert all(torch.equal(first, other) for other in others) == ordered
