"""Negative controls of every checker: what each of them must refuse is put before it, and what it must let pass.

A checker that lets everything pass looks like one whose kernels are all right; only these tests tell them apart.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import gpu_check
from bench.gpu_jobs import Job, check_jobs, until
from bench.gpu_log import Log
from bench.gpu_requests import Built, Judge
from bench.gpu_run import Runner
from gridstone import proof
from gridstone.ir.errors import MismatchError
from gridstone.ir.spec import Spec
from gridstone.ir.text import print_spec
from gridstone.kernel_cache.toolchain_cuda import CudaToolchain
from gridstone.kernel_cache.toolchain_triton import TritonToolchain
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.compare import compare
from gridstone.proof.draws import HILL, KINDS, Draw
from gridstone.proof.emulate import emulated
from gridstone.proof.interpret import interpreted
from gridstone.proof.judge import check, judge
from gridstone.proof.operands import draw_operands, to_values
from gridstone.proof.program import program
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from gridstone.templates.source import Source
from gridstone.tuner.exam import prepare, sit
from tests.proof import half_sums
from tests.proof.control_kernels import (
    ALL_NEIGHBOURS,
    FAULTS,
    NEIGHBOUR,
    Call,
    added_in_half,
    any_rows,
    combinations,
    resolved,
    rounded_once,
    spoiled,
)
from tests.proof.test_planted_gemv import SPLIT, source_of
from tests.quick import one_in

ROOT = Path(__file__).parents[2]
SMALL = "gemm[x: bf16(9,128), w: int4:g32(40,128)] + bias"
DEEP = "gemm[x: {0}(8,14336), w: int4:g128(32,14336)]"
WRONG = "times its bound|elements differ in being NaN"

needs_triton = pytest.mark.skipif(TritonToolchain().missing() is not None, reason="no Triton")
needs_nvrtc = pytest.mark.skipif(CudaToolchain().missing() is not None, reason="no NVRTC")


# ---- checkers: what each says of a candidate; empty when it lets it pass --------------------------------------------


def by_compare(candidate: Call, spec: Spec) -> str:
    operands = draw_operands(spec, 1)
    out = torch.empty(spec.output.shape, dtype=getattr(torch, spec.output.dtype.torch))
    got = to_values(candidate(*operands.tensors, out=out))
    bound = spec.op.tolerance(spec, operands.values)
    return compare(got, spec.op.reference(spec, operands.values), bound, spec.output.dtype).problem


def by_judge(candidate: Call, spec: Spec) -> str:
    return judge(candidate, spec, draw_operands(spec, 1)).problem


def refusal(act, *arguments) -> str:
    try:
        act(*arguments)
    except MismatchError as error:
        return str(error)
    return ""


def by_seeds(candidate: Call, spec: Spec) -> str:
    return refusal(check, candidate, spec, (1, 2))


def by_proof_check(candidate: Call, spec: Spec) -> str:
    return proof.check(candidate, spec, out=True, calls=4, seed=1).problem


def by_exam(candidate: Call, spec: Spec) -> str:
    return refusal(sit, candidate, _prepared(spec))


@functools.lru_cache(maxsize=2)
def _prepared(spec: Spec):
    return prepare(spec, (1, 2))


def by_bench(candidate: Call, spec: Spec) -> str:
    """What the worker of `bench.gpu --check` answers, on this CPU."""
    runner = Runner("cpu", lambda kernel, spec: candidate, lambda: True)
    return refusal(runner, Judge(Built(print_spec(spec), None, None)))


CHECKERS = {
    "compare": by_compare,
    "judge": by_judge,
    "judge.check": by_seeds,
    "proof.check": by_proof_check,
    "the tuner's exam": by_exam,
    "bench.gpu --check": by_bench,
}


@pytest.mark.parametrize("checker", CHECKERS)
class TestEveryChecker:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_it_refuses(self, checker, fault):
        spec = resolved(SMALL)
        said = CHECKERS[checker](spoiled(any_rows(spec), spec, fault), spec)
        assert said
        assert any(part in said for part in WRONG.split("|"))

    def test_it_lets_the_right_answer_pass(self, checker):
        """Rounded once, and as the library gives it."""
        spec = resolved(SMALL)
        assert CHECKERS[checker](rounded_once(spec), spec) == ""
        assert CHECKERS[checker](any_rows(spec), spec) == ""

    @pytest.mark.parametrize("dtype", one_in(3, ["f16", "bf16", "f32"]))
    def test_it_refuses_a_float16_accumulator(self, checker, dtype):
        """Where sums are long: K = 14336, one term after the other."""
        spec = resolved(DEEP.format(dtype))
        assert "times its bound" in CHECKERS[checker](added_in_half(spec), spec)

    @pytest.mark.slow
    def test_it_lets_a_long_sum_pass(self, checker):
        for dtype in ("f16", "bf16", "f32"):
            spec = resolved(DEEP.format(dtype))
            assert CHECKERS[checker](rounded_once(spec), spec) == ""
            assert CHECKERS[checker](any_rows(spec), spec) == ""
            assert CHECKERS[checker](spoiled(any_rows(spec), spec, ALL_NEIGHBOURS), spec)

    @pytest.mark.slow
    def test_every_epilogue_and_dtype(self, checker):
        """The right answers and every fault but one: a scale of many may move too little for a coarse output."""
        missed: list[str] = []
        for text in combinations():
            spec = resolved(text)
            ask = CHECKERS[checker]
            missed += [f"refused: {text}" for right in (rounded_once, any_rows) if ask(right(spec), spec)]
            missed += [
                f"{fault}: {text}"
                for fault in FAULTS
                if fault != NEIGHBOUR and not ask(spoiled(any_rows(spec), spec, fault), spec)
            ]
        assert not missed, "\n".join(missed)


# ---- kernels executed on this CPU -----------------------------------------------------------------------------------

GEMV = "gemv(block_m=4,block_k=128,warps_n=1,warps_k=1,tiles_n=1,k_splits=1,ordered=true)"
# Each sum is rounded to float16 where it is made: a tensor core's, and that of the groups so far.
HALVES = {
    "ptx::mma_m16n8k16_f16(d, a, b);": "ptx::mma_m16n8k16_f16(d, a, b); for (auto& e : d) e = HALF(e);",
    "part[i][s] = 0.f;": "acc[i][s] = HALF(acc[i][s]), part[i][s] = 0.f;",
}
HALF = "ptx::cvt_f32_f16(ptx::cvt_f16_f32(\\1))"
SUM = "acc += scale * tl.dot(u, v, input_precision=PRECISION)"
LONG = "gemm[x: f16(4,14336), w: int4:g128(32,14336)]"


def cuda(text: str, schedule: str) -> tuple[Source, Spec]:
    recipe, on = recipe_named("gemm.cuda.gemv"), parse_target("cuda:sm_80")
    spec = resolved(text, on.storage)
    return emit(recipe, spec, parse_schedule(schedule, recipe.schedule, recipe.space.default(spec, on)), on), spec


def triton(text: str) -> tuple[Source, Spec]:
    recipe, on = recipe_named("gemm.triton.small"), parse_target("triton:sm_90")
    spec = resolved(text, on.storage)
    return emit(recipe, spec, recipe.space.default(spec, on), on), spec


def planted(source: Source, edits: dict[str, str]) -> Source:
    text = source.text
    for old, new in edits.items():
        assert text.count(old) == 1, f"the plant has no place: {old}"
        text = text.replace(old, re.sub(r"HALF\(([^()]*)\)", HALF, new))
    return dataclasses.replace(source, text=text)


@functools.cache
def small_cuda():
    source, spec = source_of(SPLIT)  # which is built for other tests too
    return emulated(source, spec, built=program(source.text, source.entry)), spec


@pytest.mark.parametrize("fault", [*FAULTS, ""])
def test_emulated_cuda(fault):
    kernel, spec = small_cuda()
    said = by_judge(spoiled(kernel, spec, fault) if fault else kernel, spec)
    assert bool(said) == bool(fault), said
    assert not said or any(part in said for part in WRONG.split("|"))


@pytest.mark.slow
def test_emulated_cuda_with_a_float16_accumulator():
    """Tensor cores that add in float16, as `mma...f16.f16` does, over all of K in one warp."""
    source, spec = cuda(LONG, GEMV)
    half = planted(source, HALVES)
    for kind in ("normal", HILL):
        operands = Draw(spec, 1, kind).operands()
        assert judge(emulated(source, spec), spec, operands).problem == ""
    assert "times its bound" in judge(emulated(half, spec), spec, Draw(spec, 1, HILL).operands()).problem


@needs_triton
@pytest.mark.slow
def test_interpreted_triton():
    source, spec = triton(SMALL)
    kernel = interpreted(source, spec)
    assert by_judge(kernel, spec) == ""
    for fault in FAULTS:
        said = by_judge(spoiled(kernel, spec, fault), spec)
        assert said, fault
        assert any(part in said for part in WRONG.split("|")), said


@needs_triton
@pytest.mark.slow
def test_interpreted_triton_with_a_float16_accumulator():
    source, spec = triton(LONG)
    half = planted(source, {SUM: f"{SUM}\n            acc = acc.to(tl.float16).to(tl.float32)"})
    assert judge(interpreted(source, spec), spec, Draw(spec, 1, HILL).operands()).problem == ""
    assert "times its bound" in judge(interpreted(half, spec), spec, Draw(spec, 1, HILL).operands()).problem


@needs_nvrtc
@pytest.mark.slow
def test_bench_gpu_check_tells_a_wrong_kernel_from_a_right_one(monkeypatch):
    """From the jobs through the worker's process to the tally."""
    monkeypatch.syspath_prepend(str(ROOT))
    texts = ["gemm[x: bf16(M,96), w: uint4:g32:zero(100,96)]", "gemm[x: bf16(M,96), w: uint4:g32(100,96)]"]
    jobs: list[Job] = []
    for text in texts:
        jobs += [
            job
            for job in check_jobs((parse_target("cuda:sm_80"),), 0, 0, "cuda.mma", [text])
            if job.spec.input("x").shape[0] in (5, 16)
        ]
    tally = gpu_check.check(jobs, Log(None), until(600), dry=False, place="tests.proof.control_kernels:runner")
    assert {job.spec.input("w").format.zero for job in tally.wrong} == {True}
    assert {job.spec.input("w").format.zero for job in tally.fine} == {False}
    assert len(tally.wrong) == len(tally.fine) == 2
    assert all("times its bound" in tally.log[job.key]["error"] for job in tally.wrong)


# ---- what of float16 accumulators is seen, and why not all of it ----------------------------------------------------


def test_every_kind_of_operands_shows_a_float16_accumulator_where_activations_are_f16():
    """Breaks when a distribution is added on which such a kernel looks right."""
    spec = resolved(DEEP.format("f16"))
    for kind in KINDS:
        if kind != "tiny":  # whose products are subnormal in float16: a case of its own
            assert not judge(added_in_half(spec), spec, Draw(spec, 1, kind).operands()).right, kind


@pytest.mark.slow
def test_the_page_says_what_float16_accumulators_do_to_the_bounds():
    page = (ROOT / "docs" / "tolerance.md").read_text()
    rows = half_sums.table()
    assert all(row in page for row in rows), "\n".join(rows)


@pytest.mark.parametrize("dtype", one_in(2, ["f16", "bf16"]))
def test_a_hill_shows_what_normal_values_hide(dtype):
    """The bounds are those of the same formula; only the sums go further."""
    normal, hill = (half_sums.verdicts(half_sums.QUANTISED, dtype, which) for which in (False, True))
    name = "runs of 512, added in float32"
    assert hill["float32"].right
    assert normal["float32"].right
    assert hill["one term after the other"].worst_rms > 10 * normal["one term after the other"].worst_rms
    assert not hill[name].right
    assert np.isfinite(hill[name].worst_rms)
