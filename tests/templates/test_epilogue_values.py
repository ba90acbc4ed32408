"""What comes out for known sums: x is zero, so that every output is the epilogue of a bias that was chosen.

Elsewhere an activation is seen through an output of 16 bits, and a store through a product whose weights may have been
rounded: there gelu and gelu_tanh, or a number that is rounded and one that is cut off, are too close to be told apart.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gridstone.ir.epilogue import ACTIVATION_ERROR, ACTIVATIONS
from gridstone.ir.format import Quantized
from gridstone.ir.storage import pack, storage
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.proof.emulate import emulated
from gridstone.proof.interpret import interpreted
from gridstone.proof.operands import draw_operands
from tests.templates import cuda_kernels, gemm_kernels, triton_kernels

RECIPES = tuple(r.name for r in gemm_kernels.RECIPES if r.op == "gemm" and r.template)
TARGETS = {"gemm.cuda.wgmma": "cuda:sm_90a"}
EDGES = (0.0, -0.0, np.inf, -np.inf, np.nan, 3.0e38, -3.0e38, 88.0, -88.0, 103.0, -103.0, 1e-30, -1e-30)
ROWS, K = 2, 64


def built(text, recipe, rows, target=""):
    """A kernel and its spec with so many rows."""
    if recipe.startswith("gemm.cpp"):
        case = gemm_kernels.Case(text, recipe, target=target)
        return gemm_kernels.resolved(text).bind(M=rows), gemm_kernels.kernel(case)
    if recipe.startswith("gemm.cuda"):
        case = cuda_kernels.Case(text, "", recipe, TARGETS.get(recipe, "cuda:sm_80"), rows)
        spec = case.resolved.bind(M=rows)
        return spec, emulated(cuda_kernels.source_of(case), spec)
    if TritonToolchain().missing():
        pytest.skip("no Triton")
    case = triton_kernels.Case(text, rows, recipe)
    return case.static, interpreted(triton_kernels.source_of(case), case.static)


def values(text, recipe, bias, target=""):
    """The first row of what a kernel gives for x = 0 and this bias."""
    n = len(bias)
    spec, call = built(text.format(n=n, k=K), recipe, ROWS, target)
    x, w, _ = draw_operands(spec, 1).tensors
    out = torch.full((ROWS, n), float("nan"), dtype=getattr(torch, spec.output.dtype.torch))
    call(torch.zeros_like(x), w, torch.from_numpy(bias), out=out)
    assert torch.equal(out[0].view(torch.uint8), out[1].view(torch.uint8))
    return out[0]


def quick(cases, chosen):
    return [case if case in chosen else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("recipe", "name"),
    quick(itertools.product(RECIPES, ACTIVATIONS), (("gemm.cuda.mma", "gelu"), ("gemm.triton.small", "relu"))),
)
def test_activations_keep_their_contract(recipe, name):
    """Within 2^-21 max(1, |x|), and NaN and infinities where the definition has them."""
    grid = np.concatenate([np.linspace(-12, 12, 371), np.array(EDGES)]).astype(np.float32)
    got = values(f"gemm[x: bf16(M,{{k}}), w: int4:g64({{n}},{{k}})] + bias:f32 + {name} -> f32(M,{{n}})", recipe, grid)
    with np.errstate(all="ignore"):
        want, size = ACTIVATIONS[name][0](grid.astype(np.float64)), np.maximum(1.0, np.abs(grid.astype(np.float64)))
    mine = got.numpy().astype(np.float64)
    odd = ~np.isfinite(want)
    np.testing.assert_array_equal(mine[odd], want[odd])
    assert (np.abs(mine[~odd] - want[~odd]) <= ACTIVATION_ERROR * size[~odd]).all()


def ties_and_drawn(dtype):
    """float32 numbers: halfway between two of 16 bits, just beside, anywhere, and at the ends of the range."""
    rng = np.random.default_rng(2)
    drawn = (rng.standard_normal(200) * 2.0 ** rng.integers(-12, 12, 200)).astype(np.float32)
    exact = torch.from_numpy(drawn).to(dtype).float().numpy().view(np.uint32)
    half = np.uint32(1 << (15 if dtype is torch.bfloat16 else 12))
    near = [(exact + half + np.uint32(step)).astype(np.uint32).view(np.float32) for step in (0, 1, 0xFFFFFFFF)]
    largest = torch.finfo(dtype).max
    ends = [largest, -largest, largest * 1.0009 if dtype is torch.float16 else 3.4e38, np.inf, -np.inf, 0.0, -0.0]
    return np.concatenate([drawn, *near, np.array(ends, np.float32)])


STORES = [(recipe, "", dtype) for recipe in RECIPES for dtype in ("bf16", "f16")] + [
    ("gemm.cpp.direct", target, dtype) for target in gemm_kernels.HERE for dtype in ("bf16", "f16")
]


@pytest.mark.parametrize(
    ("recipe", "target", "dtype"),
    quick(STORES, (("gemm.cuda.gemv", "", "bf16"), ("gemm.cpp.direct", "cpp:generic", "f16"))),
)
def test_a_store_rounds_to_nearest_even(recipe, target, dtype):
    """Bit for bit what torch stores: halves to the even neighbour, overflow to infinity."""
    kind = torch.bfloat16 if dtype == "bf16" else torch.float16
    bias = ties_and_drawn(kind)
    got = values(f"gemm[x: {dtype}(M,{{k}}), w: int4:g64({{n}},{{k}})] + bias:f32", recipe, bias, target)
    want = torch.from_numpy(bias).to(kind)
    wrong = (got != want).nonzero().ravel()
    assert not len(wrong), [(float(bias[i]), float(got[i]), float(want[i])) for i in wrong[:4]]


# ---- operands that are rounded before they are multiplied ------------------------------------------------------------

ROUNDED = [
    *((recipe, "bf16", 8) for recipe in RECIPES if recipe != "gemm.cuda.gemv"),
    ("gemm.triton.small", "tf32", 11), ("gemm.triton.large", "tf32", 11),
]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "numerics", "bits"), quick(ROUNDED, (("gemm.cpp.direct", "bf16", 8), ("gemm.triton.small", "tf32", 11)))
)
def test_x_is_rounded_to_nearest(recipe, numerics, bits):
    """Products by one: each output is an element of x, and at most half a step of its class away from it."""
    n, k = 16, 64
    spec, call = built(f"gemm[x: f32(M,{k}), w: uint8:channel:f32({n},{k})]; {numerics}", recipe, k)
    ones = Quantized(np.ones((n, k), np.uint8), np.ones((n, 1)), None)
    w = spec.input("w")
    packed = torch.from_numpy(pack(storage(w.storage, w.format, n, k), ones))
    drawn = np.random.default_rng(4).uniform(1, 2, k).astype(np.float32) * np.float32(2) ** np.arange(-32, 32)
    x = torch.diag(torch.from_numpy(drawn.astype(np.float32)))
    out = torch.full((k, n), float("nan"))
    call(x, packed, out=out)
    got, want = out.numpy().astype(np.float64), drawn.astype(np.float64)[:, None]
    assert (np.abs(got - want) <= 2.0**-bits * np.abs(want)).all(), np.abs(got / want - 1).max() * 2.0**bits
