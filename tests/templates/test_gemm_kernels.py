"""The built C++ kernels against float64: shapes, formats, schedules, targets, threads, special values."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from gridstone.ir.dtype import dtype
from gridstone.kernel_cache.host import host_target
from gridstone.proof.compare import compare
from gridstone.proof.judge import judge
from gridstone.proof.operands import Operands, draw_operands, to_tensor, to_values
from gridstone.templates.registry import recipe_named
from tests.templates.gemm_kernels import (
    CODES,
    CPP_NAMES,
    EPILOGUES,
    FLOATS,
    GROUPS,
    HERE,
    SCALES,
    Case,
    assert_every_row_count_right,
    assert_right,
    covering_schedules,
    decoder_cases,
    kernel,
    resolved,
    same_bits,
)

RAGGED = "gemm[x: bf16(M,352), w: int4:g32(203,352)] + bias + gelu"
RAGGED_F32 = "gemm[x: f32(M,231), w: uint8:channel:f32:zero(75,231)] + bias + silu + residual"
SPLIT = "gemm[x: bf16(M,2112), w: int4:g64:zero(203,2112)] + bias"
ROWS = (1, 2, 3, 4, 5, 7, 12, 13, 25, 47, 64, 97, 113)

every_recipe = pytest.mark.parametrize("recipe", CPP_NAMES)


@every_recipe
@pytest.mark.parametrize("text", [RAGGED, RAGGED_F32], ids=["bf16", "f32"])
def test_one_kernel_takes_any_number_of_rows(recipe, text):
    """Breaks when a row tile, its remainder or a chunk boundary is wrong."""
    assert_right(Case(text, recipe), ROWS, seed=100)


@every_recipe
@pytest.mark.parametrize("text", [RAGGED, RAGGED_F32], ids=["bf16", "f32"])
def test_every_row_count_to_257(recipe, text):
    """The same for all of 1 .. 257, cut from one product: a call's rows are a view at an offset."""
    assert_every_row_count_right(Case(text, recipe), 257, seed=5)


@pytest.mark.slow
@every_recipe
@pytest.mark.parametrize("target", HERE)
def test_every_row_count_to_257_on_every_target(recipe, target):
    for text in (RAGGED, RAGGED_F32, "gemm[x: f16(M,96), w: uint4:g32:zero(100,96)] + residual"):
        assert_every_row_count_right(Case(text, recipe, target=target), 257, seed=6)
        assert_right(Case(text, recipe, target=target), range(1, 257, 11), seed=7)


@pytest.mark.parametrize(
    ("recipe", "n"),
    [
        *(("gemm.cpp.direct", n) for n in (1, 15, 17, 63, 64, 65, 129)),  # what stores is shared: corners elsewhere
        *((recipe, n) for recipe in ("gemm.cpp.gemv", "gemm.cpp.blocked") for n in (17, 64)),
    ],
)
def test_n_that_no_vector_or_block_divides(recipe, n):
    """Breaks when the last columns are stored beside the row, read from beyond the bias, or left out."""
    assert_right(Case(f"gemm[x: bf16(M,48), w: int4:g16({n},48)] + bias + residual", recipe), (1, 3, 29), seed=n)


@pytest.mark.parametrize(
    ("recipe", "k"),
    [
        *(("gemm.cpp.gemv", k) for k in (1, 2, 31, 33, 255, 257, 289)),
        *((recipe, k) for recipe in ("gemm.cpp.direct", "gemm.cpp.blocked") for k in (33, 257)),
    ],
)
def test_k_that_no_word_or_slab_divides(recipe, k):
    """Per-channel scales take any K: breaks when the padding behind K is multiplied with what lies behind x's row."""
    case = Case(f"gemm[x: bf16(M,{k}), w: int8:channel(66,{k})]", recipe)
    assert_right(case, (1, 3, 9), seed=k)
    spec = resolved(case.spec).bind(M=3)
    operands = draw_operands(spec, k)
    wide = torch.full((3, k + 40), float("nan"), dtype=torch.bfloat16)
    wide[:, :k] = operands.tensors[0]
    got = kernel(case)(wide[:, :k], *operands.tensors[1:])
    assert same_bits(got, kernel(case)(*operands.tensors))
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("case", list(decoder_cases(seed=11, rounds=1)), ids=str)
def test_decoders_and_drawn_formats(case):
    """Every recipe x width x zero points x product, with formats, epilogues, dtypes and shapes drawn for each."""
    assert_right(case, (1, 3, 18, 50), seed=21)


def test_the_drawn_formats_leave_nothing_out():
    """Breaks when the drawing above stops covering a value."""
    texts = [case.spec for case in decoder_cases(seed=11, rounds=1)]
    for part in (
        *(f" {c}:" for c in CODES),
        *(f":{g}:" for g in GROUPS),
        *(f":{s}" for s in SCALES),
        *(f"x: {d}(" for d in FLOATS),
    ):
        assert any(part in text for text in texts), part
    assert {e.split("{")[0] for e in EPILOGUES if e and e.split("{")[0] not in " ".join(texts)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("case", list(decoder_cases(seed=12, rounds=10)), ids=str)
def test_many_drawn_formats(case):
    assert_right(case, (1, 2, 4, 5, 30, 61, 130), seed=22)


@pytest.mark.parametrize("kind", ["uniform", "huge", "tiny", "powers"])
@every_recipe
def test_other_distributions(recipe, kind):
    """Operands of other magnitudes than the ones that schedules are tuned on."""
    assert_right(Case(RAGGED, recipe), (1, 4, 30), seed=9, kind=kind)
    assert_right(Case(RAGGED_F32, recipe), (1, 4, 30), seed=9, kind=kind)


def _covering(recipe: str) -> list[Case]:
    text = "gemm[x: f32(M,2112), w: int4:g64:zero(203,2112)] + bias; bf16"
    space = covering_schedules(recipe_named(recipe), resolved(text), host_target())
    return [Case(text, recipe, schedule) for schedule in space]


@pytest.mark.parametrize("case", [case for recipe in CPP_NAMES for case in _covering(recipe)], ids=str)
def test_every_value_of_every_field(case):
    """Each value of each choice occurs in a built kernel: tiles, sums, prefetches, splits, chunks, panels, folding."""
    assert_right(case, (1, 2, 3, 4, 33, 101), seed=31)


@pytest.mark.slow
@every_recipe
@pytest.mark.parametrize("text", [RAGGED, RAGGED_F32, SPLIT], ids=["bf16", "f32", "split"])
def test_many_schedules(recipe, text):
    spec, found = resolved(text), recipe_named(recipe)
    space = list(found.space.feasible(spec, host_target()))
    rng = np.random.default_rng(17)
    for at in rng.choice(len(space), min(12, len(space)), replace=False):
        from gridstone.lower.schedule import print_schedule

        assert_right(Case(text, recipe, print_schedule(space[at])), (1, 4, 15, 200), seed=int(at))


@every_recipe
@pytest.mark.parametrize("target", HERE)
def test_every_target_that_runs_here(recipe, target):
    """The narrower vocabularies are what other people's machines run."""
    texts = (RAGGED, "gemm[x: f16(M,96), w: uint4:g32:zero(100,96)] + bias + gelu_tanh")
    for text in texts if recipe == "gemm.cpp.direct" else texts[:1]:
        assert_right(Case(text, recipe, target=target), (1, 3, 26), seed=41)


@pytest.mark.parametrize("zero", ["", ":zero"], ids=["", "zero"])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("target", [name for name in HERE if name in ("cpp:avx2", "cpp:generic")])
def test_every_decoder_of_the_narrower_targets(target, code, zero):
    """Breaks when a narrower vocabulary decodes one code by the constants of another."""
    case = Case(f"gemm[x: f32(M,80), w: {code}:g16{zero}(70,80)]", "gemm.cpp.direct", target=target)
    assert_right(case, (1, 6, 19), seed=44)


@pytest.mark.slow
@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize(
    "text", ["gemm[x: f16(M,96), w: {code}:g32:{scale}{zero}(100,96)] + bias + silu -> {out}(M,100)"]
)
def test_formats_on_every_target(target, text):
    for code in CODES:
        for zero in ("", ":zero"):
            for scale in SCALES:
                for out in ("f16", "f32"):
                    case = Case(
                        text.format(code=code, zero=zero, scale=scale, out=out), "gemm.cpp.direct", target=target
                    )
                    assert_right(case, (1, 14), seed=43)


@pytest.mark.parametrize(("recipe", "splits"), [*((recipe, 1) for recipe in CPP_NAMES), ("gemm.cpp.gemv", 4)])
def test_bits_do_not_depend_on_the_thread_count(recipe, splits, threads):
    """The order of every sum is fixed: 1, 2 and 3 threads give the same bits, and the right ones."""
    case = Case(SPLIT, recipe, f"gemv(k_splits={splits})" if splits > 1 else "")
    spec = resolved(SPLIT)
    for m in (1, 4, 9, 61):
        operands = draw_operands(spec.bind(M=m), 51 + m)
        got = []
        for count in (1, 2, 3):
            threads(count)
            assert judge(kernel(case), spec.bind(M=m), operands).right
            got.append(kernel(case)(*operands.tensors))
        assert same_bits(got[0], got[1])
        assert same_bits(got[0], got[2])


@every_recipe
def test_two_python_threads_at_once(recipe):
    """ctypes releases the lock: scratch or results that two calls shared would mix."""
    case = Case(SPLIT, recipe, "gemv(k_splits=4)" if recipe == "gemm.cpp.gemv" else "")
    spec, call = resolved(SPLIT), kernel(case)
    drawn = [[draw_operands(spec.bind(M=m), 61 + 7 * who + m) for m in (1, 3, 4, 19)] for who in range(2)]
    want = [[call(*operands.tensors) for operands in each] for each in drawn]
    for each, results in zip(drawn, want, strict=True):
        for operands, result in zip(each, results, strict=True):
            bound = spec.bind(M=result.shape[0])
            tolerance = bound.op.tolerance(bound, operands.values)
            reference = bound.op.reference(bound, operands.values)
            assert compare(to_values(result), reference, tolerance, bound.output.dtype).right
    barrier, wrong = threading.Barrier(2), []

    def run(who: int) -> None:
        barrier.wait()
        for _ in range(40):
            for operands, result in zip(drawn[who], want[who], strict=True):
                if not same_bits(call(*operands.tensors), result):
                    wrong.append((who, result.shape))

    both = [threading.Thread(target=run, args=(who,)) for who in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert wrong == []


@every_recipe
@pytest.mark.parametrize("text", [RAGGED, RAGGED_F32], ids=["bf16", "f32"])
def test_strided_operands(recipe, text):
    """Views give the bits that their copies give: row steps, offsets, transposes, repeated rows."""
    call, spec = kernel(Case(text, recipe)), resolved(text)
    for m in (1, 6, 27):
        x, w, *rest = draw_operands(spec.bind(M=m), 71 + m).tensors
        want = call(x, w, *rest)
        wide = torch.randn(2 * m, x.shape[1] + 5).to(x.dtype)
        wide[::2, 3 : 3 + x.shape[1]] = x
        offset = torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape)  # not even 4-byte aligned in bf16
        for view in (wide[::2, 3 : 3 + x.shape[1]], x.t().contiguous().t(), offset):
            assert same_bits(view, x)
            assert same_bits(call(view, w, *rest), want), view.stride()
        spread = [torch.stack([r, r + 1], dim=-1)[..., 0] for r in rest]
        assert all(not r.is_contiguous() for r in spread if r.numel() > 1)
        assert same_bits(call(x, w, *spread), want)
        once = x[:1].expand(m, -1)
        assert same_bits(call(once, w, *rest), call(once.contiguous(), w, *rest))


@every_recipe
def test_no_rows(recipe):
    for text in (RAGGED, RAGGED_F32):
        spec = resolved(text)
        got = kernel(Case(text, recipe))(*draw_operands(spec.bind(M=0), 1).tensors)
        assert got.shape == (0, spec.output.static(1))
        assert got.dtype == getattr(torch, spec.output.dtype.torch)


@pytest.mark.parametrize(
    ("recipe", "x_dtype", "activation"),
    [
        *(("gemm.cpp.direct", "f32", act) for act in ("", " + relu", " + silu", " + gelu", " + gelu_tanh")),
        *(("gemm.cpp.direct", x_dtype, " + gelu") for x_dtype in ("bf16", "f16")),
        *((recipe, x_dtype, "") for recipe in CPP_NAMES if recipe != "gemm.cpp.direct" for x_dtype in ("f32", "bf16")),
    ],
)
def test_nan_and_infinity_stand_where_the_reference_has_them(recipe, x_dtype, activation):
    """Breaks when an activation swallows NaN, or padding turns an infinity beside it into one."""
    case = Case(f"gemm[x: {x_dtype}(M,80), w: int4:g16(70,80)]{activation}", recipe)
    spec = resolved(case.spec).bind(M=12)
    drawn = draw_operands(spec, 81)
    x = drawn.values["x"].copy()
    x[1, 7], x[2, 0], x[3, 79] = np.nan, np.inf, -np.inf
    x[4, 3], x[4, 60] = np.inf, -np.inf
    x[6, :] = np.nan
    tensors = (to_tensor(dtype(x_dtype), x), *drawn.tensors[1:])
    verdict = judge(kernel(case), spec, Operands(tensors, {**drawn.values, "x": x}))
    assert verdict.right, verdict.problem
    got = kernel(case)(*tensors)
    assert torch.isnan(got[1]).all()
    assert torch.isfinite(got[0]).all()
    assert torch.isfinite(got[7:]).all()


@pytest.mark.parametrize("x_dtype", ["bf16", "f16"])
def test_results_beyond_the_range_of_the_output_become_infinities(x_dtype):
    case = Case(f"gemm[x: {x_dtype}(M,256), w: uint8:channel:f32(70,256)] + scale(1e+30)", "gemm.cpp.direct")
    spec = resolved(case.spec).bind(M=5)
    operands = draw_operands(spec, 83)
    verdict = judge(kernel(case), spec, operands)
    assert verdict.right, verdict.problem
    if x_dtype == "f16":
        assert torch.isinf(kernel(case)(*operands.tensors)).any()


@pytest.mark.parametrize("factor", ["-2", "1e-07", "1e+20", "0.5"])
def test_constant_factors(factor):
    """Breaks when a number is not spelled as a float32 in C++."""
    assert_right(Case(f"gemm[x: bf16(M,64), w: int4:g32(40,64)] + scale({factor})"), (1, 5), seed=91)


@pytest.mark.parametrize(
    "steps", ["relu + bias", "residual + silu", "bias + scale(2) + gelu + residual", "silu + scale(-1) + relu"]
)
def test_epilogues_in_other_orders(steps):
    """The order of a spec is the order of evaluation."""
    assert_right(Case(f"gemm[x: f32(M,64), w: int4:g32(40,64)] + {steps}"), (1, 5, 23), seed=93)
