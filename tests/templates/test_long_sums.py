"""Sums over many groups: what a kernel keeps them in shows after many roundings, in an output that holds it."""

from __future__ import annotations

import pytest

from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from tests.templates import cuda_kernels, gemm_kernels, triton_kernels

ROWS, N, K = 4, 96, 16384
# 256 groups. Weights may be rounded to float16 once; sums that are, at each group, err more than twice as far.
TEXT = f"gemm[x: f16(M,{K}), w: int4:g64({N},{K})] -> f32(M,{N})"
QUICK = ("gemm.cpp.direct", "gemm.cuda.mma")
TARGETS = {"gemm.cuda.wgmma": "cuda:sm_90a"}
# Nobody may share K here: parts of it are rounded less often.
WHOLE = {
    "gemm.cuda.gemv": "gemv(block_m=2,warps_k=1,k_splits=1)", "gemm.cuda.mma": "mma(warps_k=1,k_splits=1)",
    "gemm.cuda.wgmma": "wgmma(k_splits=1)", "gemm.triton.small": "small(k_splits=1)",
}  # fmt: skip


@pytest.mark.parametrize(
    "recipe",
    [
        recipe.name if recipe.name in QUICK else pytest.param(recipe.name, marks=pytest.mark.slow)
        for recipe in gemm_kernels.RECIPES
        if recipe.op == "gemm" and recipe.template
    ],
)
def test_sums_are_kept_in_float32(recipe):
    language, schedule = recipe.split(".")[1], WHOLE.get(recipe, "")
    if language == "cpp":
        gemm_kernels.assert_right(gemm_kernels.Case(TEXT, recipe), (ROWS,), seed=3)
    elif language == "cuda":
        target = TARGETS.get(recipe, "cuda:sm_80")
        cuda_kernels.assert_right(cuda_kernels.Case(TEXT, schedule, recipe, target, ROWS), ROWS, seed=3)
    elif TritonToolchain().missing():
        pytest.skip("no Triton")
    else:
        triton_kernels.assert_right(triton_kernels.Case(TEXT, ROWS, recipe, schedule))
