"""gemm.cuda.mma, executed on a CPU: no race, nothing out of bounds or uninitialised, and the result of float64."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch

from gridstone.ir.text import parse_spec
from gridstone.lower.schedule import print_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.emulate import emulated, probe_faults
from gridstone.proof.operands import DISTRIBUTIONS, Operands, draw_operands
from gridstone.templates.registry import recipe_named
from tests.quick import one_in
from tests.templates.cuda_kernels import Case, assert_right, built, source_of
from tests.templates.gemm_kernels import CODES, EPILOGUES, GROUPS, SCALES, same_bits, spec_text

ROWS = (1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 65, 80)
RAGGED = Case(
    "gemm[x: f16(M,416), w: int4:g32(203,416)] + bias + gelu + residual",
    "mma(block_m=16,block_k=128,warps_n=2,warps_k=2,tiles_n=2,stages=3,k_splits=1,ordered=true)",
)
RAGGED_BF16 = Case(
    "gemm[x: bf16(M,231), w: uint8:channel:f32:zero(75,231)] + bias + silu -> f32(M,75)",
    "mma(block_m=32,block_k=64,warps_n=4,warps_k=1,tiles_n=1,stages=2,k_splits=2,ordered=true)",
)
UNORDERED = dataclasses.replace(RAGGED_BF16, schedule=RAGGED_BF16.schedule.replace("ordered=true", "ordered=false"))


@pytest.mark.parametrize("case", [RAGGED, RAGGED_BF16], ids=["f16", "bf16"])
@pytest.mark.parametrize("rows", one_in(2, ROWS))
def test_one_kernel_takes_any_number_of_rows(case, rows):
    assert_right(case, rows, seed=1)


@pytest.mark.parametrize(
    ("n", "k", "weight"),
    [
        (1, 16, "int4:g16"), (15, 48, "uint8:g16"), (16, 64, "int4:g16"),
        (17, 77, "uint4:channel"), (33, 96, "int8:g32"), (64, 130, "int4:channel:f32"),
        (65, 1, "uint8:channel"), (130, 320, "uint4:g64:zero"),
        (8, 384, "int8:g128:zero"),
        (257, 24, "int4:channel:bf16:zero"),
    ],
)  # fmt: skip
def test_n_and_k_that_no_tile_divides(n, k, weight):
    assert_right(Case(f"gemm[x: f16(M,{k}), w: {weight}({n},{k})] + bias", rows=9), 9, seed=n)


def drawn_case(seed):
    """A format, types and an epilogue, drawn; the default schedule or any feasible one."""
    rng = random.Random(seed)
    x = rng.choice(("f16", "bf16", "f32"))
    text = spec_text(
        x, rng.choice(CODES), rng.choice(GROUPS), rng.choice(SCALES), rng.random() < 0.5, rng.choice(EPILOGUES),
        "bf16" if x == "f32" else "exact", rng.choice((20, 33, 70, 130)), rng.randint(1, 5),
    )  # fmt: skip
    rows = rng.randint(1, 40)
    if rng.random() < 0.4:
        return Case(text, rows=rows)
    spec = parse_spec(text).with_storage("mma16").bind(M=rows)
    space = recipe_named("gemm.cuda.mma").space.feasible(spec, parse_target("cuda:sm_80"))
    some = list(itertools.islice(space, rng.randint(1, 900)))
    return Case(text, print_schedule(some[-1]), rows=rows)


@pytest.mark.parametrize(("code", "zero", "x"), one_in(3, itertools.product(CODES, ("", ":zero"), ("f16", "bf16"))))
def test_every_decoder(code, zero, x):
    """Codes, zero points and what multiplies; scales and groups differ on the way."""
    at = CODES.index(code) + 2 * bool(zero)
    scale, group = SCALES[at % 3], ("g16", "g64", "g128", "channel")[at % 4]
    k = 192 if group != "g128" else 256
    assert_right(Case(f"gemm[x: {x}(M,{k}), w: {code}:{group}:{scale}{zero}(40,{k})]", rows=8), 8, seed=at)


@pytest.mark.parametrize("epilogue", one_in(2, EPILOGUES))
def test_every_epilogue(epilogue):
    assert_right(Case(f"gemm[x: bf16(M,64), w: int4:g64(24,64)]{epilogue.format(n=24)}", rows=10), 10, seed=3)


@pytest.mark.parametrize("seed", one_in(3, range(12)))
def test_drawn_cases(seed):
    case = drawn_case(seed)
    assert_right(case, case.rows, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_drawn_cases(seed):
    case = drawn_case(seed)
    for rows in {case.rows, 1, 70}:
        assert_right(case, rows, seed)


@pytest.mark.parametrize(
    ("offset", "stride"), [(0, 432), (8, 424), (1, 424), (0, 417), (5, 419)], ids=lambda value: str(value)
)
def test_rows_of_x_may_begin_anywhere(offset, stride):
    """Multiples of 16 bytes are copied asynchronously, all others element by element."""
    spec = RAGGED.resolved.bind(M=17)
    drawn = draw_operands(spec, 4)
    memory = torch.full((17 * stride + offset,), float("nan"), dtype=torch.float16)
    x = memory[offset:].as_strided((17, 416), (stride, 1))
    x.copy_(drawn.tensors[0])
    residual = torch.full((17, 300), float("nan"), dtype=torch.float16)[:, 3:206]
    residual.copy_(drawn.tensors[-1])
    tensors = (x, *drawn.tensors[1:-1], residual)
    assert_right(RAGGED, 17, seed=5, operands=Operands(tensors, drawn.values))


def test_rows_of_y_may_lie_apart():
    """What lies between them stays as it was."""
    spec = RAGGED.resolved.bind(M=17)
    tensors = draw_operands(spec, 6).tensors
    call = emulated(source_of(RAGGED), spec, built=built(RAGGED))
    together = call(*tensors, out=torch.empty(17, 203, dtype=torch.float16))
    wide = torch.full((17, 240), float("nan"), dtype=torch.float16)
    call(*tensors, out=wide[:, 5:208])
    assert same_bits(wide[:, 5:208].contiguous(), together)
    assert wide[:, :5].isnan().all()
    assert wide[:, 208:].isnan().all()


def test_no_rows_is_no_launch():
    spec = RAGGED.resolved.bind(M=0)
    out = torch.empty(0, 203, dtype=torch.float16)
    assert emulated(source_of(RAGGED), spec, built=built(RAGGED))(*draw_operands(spec, 1).tensors, out=out) is out


@pytest.mark.parametrize("kind", one_in(2, DISTRIBUTIONS))
@pytest.mark.parametrize("case", [RAGGED, RAGGED_BF16], ids=["f16", "bf16"])
def test_huge_and_tiny_values(case, kind):
    assert_right(case, 9, seed=7, kind=kind)


@pytest.mark.parametrize("case", [RAGGED, RAGGED_BF16], ids=["f16", "bf16"])
def test_what_is_not_finite_stays_in_its_row(case):
    """A row of x with an infinity, one with NaN: no other row knows of it, and theirs are as without."""
    spec = case.resolved.bind(M=20)
    tensors = list(draw_operands(spec, 8).tensors)
    call = emulated(source_of(case), spec, built=built(case))
    out = getattr(torch, spec.output.dtype.torch)
    clean = call(*tensors, out=torch.empty(20, spec.output.static(1), dtype=out))
    tensors[0] = tensors[0].clone()
    tensors[0][3, 5], tensors[0][11, -1] = float("nan"), float("inf")
    got = call(*tensors, out=torch.empty_like(clean))
    rest = [row for row in range(20) if row not in (3, 11)]
    assert same_bits(got[rest], clean[rest])
    assert got[3].isnan().all()
    assert not got[11].isfinite().all()


def test_ordered_sums_are_the_same_bits_in_any_order_of_blocks():
    """And those that are not ordered are right, though not the same."""
    spec = RAGGED_BF16.resolved.bind(M=33)
    tensors = draw_operands(spec, 9).tensors
    outputs = [
        emulated(source_of(RAGGED_BF16), spec, seed=seed, built=built(RAGGED_BF16))(*tensors, out=torch.empty(33, 75))
        for seed in range(5)
    ]
    assert all(same_bits(outputs[0], other) for other in outputs[1:])
    for seed in range(3):
        assert_right(UNORDERED, 33, seed)


@pytest.mark.parametrize("case", [RAGGED, RAGGED_BF16, UNORDERED], ids=["f16", "bf16", "unordered"])
def test_every_operand_is_in_its_place(case):
    assert not probe_faults(source_of(case), case.resolved.bind(M=25), built=built(case))


def test_a_kernel_as_a_sanitised_program():
    for rows in (1, 25):
        assert_right(RAGGED, rows, seed=10, sanitized=True)


SMALL = "gemm[x: f16(M,128), w: int4:g32(16,128)] + bias"
LARGE = "gemm[x: bf16(M,1024), w: uint4:g64:zero(200,1024)] + bias"


def schedules(text, rows, target="cuda:sm_80"):
    spec = parse_spec(text).with_storage("mma16").bind(M=rows)
    return [print_schedule(s) for s in recipe_named("gemm.cuda.mma").space.feasible(spec, parse_target(target))]


@pytest.mark.slow
def test_every_schedule_of_a_small_space():
    every = schedules(SMALL, 9)
    assert len(every) > 20
    for seed, schedule in enumerate(every):
        for rows in (9, 1, 20):
            assert_right(Case(SMALL, schedule), rows, seed)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(10))
def test_drawn_schedules_of_a_large_space(share):
    """Two hundred of them; one in ten as a sanitised program too."""
    drawn = random.Random(11).sample(schedules(LARGE, 33), 200)[share * 20 : share * 20 + 20]
    for seed, schedule in enumerate(drawn):
        assert_right(Case(LARGE, schedule), 33, seed)
    assert_right(Case(LARGE, drawn[0]), 33, seed=share, sanitized=True)
