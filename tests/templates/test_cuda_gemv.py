"""gemm.cuda.gemv, executed on a CPU: no race, nothing out of bounds or uninitialised, and the result of float64."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch

from gridstone.ir.errors import ScheduleError
from gridstone.ir.text import parse_spec
from gridstone.lower.schedule import parse_schedule, print_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.emulate import emulated, probe_faults
from gridstone.proof.operands import DISTRIBUTIONS, Operands, draw_operands
from gridstone.templates.emit import emit
from gridstone.templates.registry import default_recipe, recipe_named, refusal
from tests.quick import one_in
from tests.templates.cuda_kernels import Case, assert_right, built, source_of
from tests.templates.gemm_kernels import CODES, EPILOGUES, GROUPS, SCALES, same_bits, spec_text

GEMV, SM_80 = recipe_named("gemm.cuda.gemv"), parse_target("cuda:sm_80")
ROWS = (1, 2, 3, 4, 5, 8, 9, 17, 33, 64, 65, 80)


def case_of(spec: str, schedule: str = "", rows: int = 4) -> Case:
    return Case(spec, schedule, "gemm.cuda.gemv", rows=rows)


# Tiles beyond N, a step that is not whole, groups within a chunk; then blocks that share K and begin within a group.
F16 = case_of(
    "gemm[x: f16(M,416), w: int4:g32(203,416)] + bias + gelu + residual",
    "gemv(block_m=2,block_k=128,warps_n=2,warps_k=2,tiles_n=2,k_splits=1,ordered=true)",
)
BF16 = case_of(
    "gemm[x: bf16(M,768), w: uint8:g128:f32:zero(75,768)] + bias + silu -> f32(M,75)",
    "gemv(block_m=4,block_k=64,warps_n=1,warps_k=2,tiles_n=1,k_splits=4,ordered=true)",
)
F32 = case_of(
    "gemm[x: f32(M,272), w: uint4:g16:bf16:zero(50,272)] + bias + residual",
    "gemv(block_m=4,block_k=128,warps_n=1,warps_k=1,tiles_n=2,k_splits=2,ordered=true)",
)
CASES = {"f16": F16, "bf16": BF16, "f32": F32}
UNORDERED = dataclasses.replace(BF16, schedule=BF16.schedule.replace("ordered=true", "ordered=false"))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("rows", one_in(4, ROWS))
def test_one_kernel_takes_any_number_of_rows(case, rows):
    assert_right(case, rows, seed=1)


def test_it_is_for_four_rows():
    """More of them belong to recipes that read the weight once for all; the message says which M was asked for."""
    for rows, reason in ((1, None), (4, None), (5, "M=5; gemv is for M up to 4"), (80, "M=80; gemv is for M up to 4")):
        spec = parse_spec(f"gemm[x: bf16({rows},256), w: int4:g128(64,256)]")
        assert refusal(GEMV, spec, SM_80) == reason
        assert (default_recipe(spec, SM_80) is GEMV) == (reason is None)
    assert default_recipe(F16.resolved, SM_80) is not GEMV, "any number of rows is not few"


def test_a_row_that_fits_no_shared_memory_is_refused():
    spec = parse_spec("gemm[x: f32(4,1048576), w: int4:channel(64,1048576)]")
    told = refusal(GEMV, spec, SM_80)
    assert told is not None
    assert told.startswith("K=1048576: a sixteenth of x takes 10")
    assert told.endswith("bytes of shared memory, and cuda:sm_80 has 166912")
    with pytest.raises(ScheduleError, match="shared memory suffices"):
        emit(GEMV, spec, GEMV.space.default(spec.with_storage("mma16"), SM_80), SM_80)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("block_k=32", "a step is whole chunks, eight at most"),
        ("warps_k=8,k_splits=16", "every warp that shares K has a step"),
        ("warps_n=4,tiles_n=2", "a tile is not twice as wide as N"),
        ("k_splits=1,ordered=false", "sums are in order where that is asked for or costs nothing"),
        ("block_m=3", "block_m is one of 1, 2, 4"),
    ],
)
def test_an_infeasible_schedule_is_refused_by_name(change, told):
    spec = parse_spec("gemm[x: bf16(4,512), w: int4:g128(48,512)]").with_storage("mma16")
    schedule = parse_schedule(f"gemv({change})", GEMV.schedule, GEMV.space.default(spec, SM_80))
    with pytest.raises(ScheduleError, match=told):
        emit(GEMV, spec, schedule, SM_80)


@pytest.mark.parametrize(
    ("x", "n", "k", "weight"),
    one_in(4, [
        ("f32", 17, 77, "uint4:channel"), ("f16", 15, 48, "uint8:g16"), ("bf16", 16, 64, "int4:g16"),
        ("f16", 1, 16, "int4:g16"), ("bf16", 64, 130, "int4:channel:f32"), ("bf16", 33, 96, "int8:g32"),
        ("f16", 65, 1, "uint8:channel"), ("f32", 130, 320, "uint4:g64:zero"),
        ("bf16", 8, 384, "int8:g128:zero"), ("f16", 72, 1280, "int4:g256"),
        ("f32", 257, 24, "int8:channel:bf16:zero"),
    ]),
)  # fmt: skip
def test_n_and_k_that_no_tile_divides(x, n, k, weight):
    assert_right(case_of(f"gemm[x: {x}(M,{k}), w: {weight}({n},{k})] + bias"), 3, seed=n)


def drawn_case(seed):
    """A format, types and an epilogue, drawn; the default schedule or any feasible one."""
    rng = random.Random(seed)
    x = rng.choice(("f16", "bf16", "f32"))
    text = spec_text(
        x, rng.choice(CODES), rng.choice(GROUPS), rng.choice(SCALES), rng.random() < 0.5, rng.choice(EPILOGUES),
        "exact", rng.choice((20, 33, 70, 130)), rng.randint(1, 5),
    )  # fmt: skip
    rows = rng.randint(1, 4)
    if rng.random() < 0.4:
        return case_of(text, rows=rows)
    spec = parse_spec(text).with_storage("mma16").bind(M=rows)
    some = list(itertools.islice(GEMV.space.feasible(spec, SM_80), rng.randint(1, 900)))
    return case_of(text, print_schedule(some[-1]), rows)


@pytest.mark.parametrize(
    ("code", "zero", "x"), one_in(7, itertools.product(CODES, ("", ":zero"), ("f16", "bf16", "f32")))
)
def test_every_decoder(code, zero, x):
    """Codes, zero points and what multiplies; scales and groups differ on the way."""
    at = CODES.index(code) + 2 * bool(zero)
    scale, group = SCALES[at % 3], ("g16", "g64", "g128", "channel")[at % 4]
    k = 192 if group != "g128" else 256
    assert_right(case_of(f"gemm[x: {x}(M,{k}), w: {code}:{group}:{scale}{zero}(40,{k})]"), 4, seed=at)


@pytest.mark.parametrize("epilogue", one_in(6, EPILOGUES))
def test_every_epilogue(epilogue):
    assert_right(case_of(f"gemm[x: bf16(M,64), w: int4:g64(24,64)]{epilogue.format(n=24)}"), 3, seed=3)


@pytest.mark.parametrize("seed", one_in(6, range(12)))
def test_drawn_cases(seed):
    case = drawn_case(seed)
    assert_right(case, case.rows, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_drawn_cases(seed):
    case = drawn_case(seed)
    for rows in {case.rows, 1, 9}:
        assert_right(case, rows, seed)


@pytest.mark.parametrize("case", [F16, F32], ids=["f16", "f32"])
@pytest.mark.parametrize(("offset", "stride"), one_in(2, [(0, 16), (8, 8), (1, 8), (0, 1), (5, 3)]), ids=str)
def test_rows_of_x_may_begin_anywhere(case, offset, stride):
    """Multiples of 16 bytes are copied asynchronously, all others element by element."""
    spec = case.resolved.bind(M=5)
    drawn = draw_operands(spec, 4)
    x, residual = drawn.tensors[0], drawn.tensors[-1]
    (rows, k), n = x.shape, residual.shape[1]
    memory = torch.full((rows * (k + stride) + offset,), float("nan"), dtype=x.dtype)
    view = memory[offset:].as_strided((rows, k), (k + stride, 1)).copy_(x)
    apart = torch.full((rows, n + 97), float("nan"), dtype=x.dtype)[:, 3 : 3 + n].copy_(residual)
    assert_right(case, 5, seed=5, operands=Operands((view, *drawn.tensors[1:-1], apart), drawn.values))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_of_y_may_lie_apart(case):
    """What lies between them stays as it was."""
    spec = case.resolved.bind(M=5)
    n, out = spec.output.static(1), getattr(torch, spec.output.dtype.torch)
    tensors = draw_operands(spec, 6).tensors
    call = emulated(source_of(case), spec, built=built(case))
    together = call(*tensors, out=torch.empty(5, n, dtype=out))
    wide = torch.full((5, n + 37), float("nan"), dtype=out)
    call(*tensors, out=wide[:, 5 : 5 + n])
    assert same_bits(wide[:, 5 : 5 + n].contiguous(), together)
    assert wide[:, :5].isnan().all()
    assert wide[:, 5 + n :].isnan().all()


def test_no_rows_is_no_launch():
    spec = F16.resolved.bind(M=0)
    out = torch.empty(0, 203, dtype=torch.float16)
    assert emulated(source_of(F16), spec, built=built(F16))(*draw_operands(spec, 1).tensors, out=out) is out


@pytest.mark.parametrize("kind", one_in(3, DISTRIBUTIONS))
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_huge_and_tiny_values(case, kind):
    assert_right(case, 4, seed=7, kind=kind)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_not_finite_stays_in_its_row(case):
    """A row of x with an infinity, one with NaN: no other row of their block knows of it, and theirs are as without."""
    spec = case.resolved.bind(M=4)
    tensors = list(draw_operands(spec, 8).tensors)
    call = emulated(source_of(case), spec, built=built(case))
    out = getattr(torch, spec.output.dtype.torch)
    clean = call(*tensors, out=torch.empty(4, spec.output.static(1), dtype=out))
    tensors[0] = tensors[0].clone()
    tensors[0][0, 5], tensors[0][3, -1] = float("nan"), float("inf")
    got = call(*tensors, out=torch.empty_like(clean))
    assert same_bits(got[1:3], clean[1:3])
    assert got[0].isnan().all()
    assert not got[3].isfinite().all()


@pytest.mark.parametrize("case", [BF16, F32], ids=["bf16", "f32"])
def test_ordered_sums_are_the_same_bits_in_any_order_of_threads_and_blocks(case):
    spec = case.resolved.bind(M=6)
    tensors = draw_operands(spec, 9).tensors
    empty = torch.empty(6, spec.output.static(1), dtype=getattr(torch, spec.output.dtype.torch))
    outputs = [
        emulated(source_of(case), spec, seed=seed, built=built(case))(*tensors, out=torch.empty_like(empty))
        for seed in range(5)
    ]
    assert all(same_bits(outputs[0], other) for other in outputs[1:])


def test_sums_in_no_order_are_right():
    for seed in range(3):
        assert_right(UNORDERED, 6, seed)


@pytest.mark.parametrize("case", [F16, BF16, UNORDERED], ids=["f16", "bf16", "unordered"])
def test_every_operand_of_the_tensor_cores_is_in_its_place(case):
    """Of the first block's rows: probes count them in eights, as the tensor cores do."""
    assert not probe_faults(source_of(case), case.resolved.bind(M=2), built=built(case))


@pytest.mark.parametrize("case", one_in(3, [F32, F16, BF16]), ids=["f32", "f16", "bf16"])
def test_a_kernel_as_a_sanitised_program(case):
    for rows in (1, 5):
        assert_right(case, rows, seed=10, sanitized=True)


SMALL = "gemm[x: {x}(M,256), w: int4:g32(16,256)] + bias"
LARGE = "gemm[x: {x}(M,1024), w: uint4:g64:zero(200,1024)] + bias"


def schedules(text, rows):
    spec = parse_spec(text).with_storage("mma16").bind(M=rows)
    return [print_schedule(s) for s in GEMV.space.feasible(spec, SM_80)]


@pytest.mark.slow
@pytest.mark.parametrize("x", ["f16", "f32"])
def test_every_schedule_of_a_small_space(x):
    text = SMALL.format(x=x)
    every = schedules(text, 4)
    assert len(every) > 20
    for seed, schedule in enumerate(every):
        for rows in (4, 1, 9):
            assert_right(case_of(text, schedule), rows, seed)


@pytest.mark.slow
@pytest.mark.parametrize("x", ["bf16", "f32"])
@pytest.mark.parametrize("share", range(10))
def test_drawn_schedules_of_a_large_space(x, share):
    """Two hundred of them; one in ten as a sanitised program too."""
    text = LARGE.format(x=x)
    drawn = random.Random(11).sample(schedules(text, 4), 200)[share * 20 : share * 20 + 20]
    for seed, schedule in enumerate(drawn):
        assert_right(case_of(text, schedule), 4, seed)
    for seed in (0, 10):
        assert_right(case_of(text, drawn[seed]), 4, seed, sanitized=True)
