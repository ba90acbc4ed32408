"""gemm.cuda.wgmma, executed on a CPU: no race, no fence missing, nothing uninitialised, and the result of float64."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch

from gridstone.ir.errors import ScheduleError
from gridstone.ir.text import parse_spec
from gridstone.kernel_cache.nvrtc import find_nvrtc
from gridstone.kernel_cache.toolchain_cuda import header, options
from gridstone.lower.schedule import print_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.emulate import emulated, probe_faults
from gridstone.proof.operands import DISTRIBUTIONS, Operands, draw_operands
from gridstone.templates.emit import emit
from gridstone.templates.registry import default_recipe, recipe_named, refusals
from tests.quick import one_in
from tests.templates import cuda_kernels
from tests.templates.cuda_kernels import assert_right, built, source_of
from tests.templates.gemm_kernels import CODES, EPILOGUES, SCALES, same_bits, spec_text

RECIPE, TARGET = recipe_named("gemm.cuda.wgmma"), parse_target("cuda:sm_90a")
ROWS = (1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 65, 80)


def wgmma(spec, schedule="", rows=17):
    return cuda_kernels.Case(spec, schedule, RECIPE.name, str(TARGET), rows)


# Two warpgroups, two chunks a stage and two groups of scales; N off every tile, K off the stage.
RAGGED = wgmma(
    "gemm[x: f16(M,448), w: int4:g64(203,448)] + bias + gelu + residual",
    "wgmma(block_m=16,block_k=128,warps_n=8,tiles_n=1,stages=3,k_splits=1,ordered=true)",
)
# One chunk a stage, which is decoded behind the wait; a scale and a zero point a row; two blocks share K.
RAGGED_BF16 = wgmma(
    "gemm[x: bf16(M,253), w: uint4:channel:f32:zero(75,253)] + bias + silu -> f32(M,75)",
    "wgmma(block_m=32,block_k=64,warps_n=4,tiles_n=1,stages=3,k_splits=2,ordered=true)",
)
# Four chunks a stage, of codes of eight bits.
WIDE = wgmma(
    "gemm[x: bf16(M,512), w: uint8:g64:bf16:zero(90,512)] + bias",
    "wgmma(block_m=8,block_k=128,warps_n=4,tiles_n=2,stages=4,k_splits=2,ordered=true)",
)
UNORDERED = dataclasses.replace(RAGGED_BF16, schedule=RAGGED_BF16.schedule.replace("ordered=true", "ordered=false"))
THREE = pytest.mark.parametrize("case", [RAGGED, RAGGED_BF16, WIDE], ids=["f16", "bf16", "bytes"])


@THREE
@pytest.mark.parametrize("rows", one_in(3, ROWS))
def test_one_kernel_takes_any_number_of_rows(case, rows):
    assert_right(case, rows, seed=1)


@pytest.mark.parametrize(
    ("n", "k", "weight"),
    one_in(3, [
        (1, 16, "int4:channel"), (15, 48, "uint8:channel"), (16, 64, "int4:g64"), (17, 77, "uint4:channel"),
        (33, 96, "int8:g32"), (64, 130, "int4:channel:f32"), (65, 1, "uint8:channel"), (130, 320, "uint4:g64:zero"),
        (8, 384, "int8:g128:zero"), (257, 24, "int4:channel:bf16:zero"), (129, 576, "int4:g64:f32"), (70, 768,
        "uint8:g256"),
    ]),
)  # fmt: skip
def test_n_and_k_that_no_tile_divides(n, k, weight):
    assert_right(wgmma(f"gemm[x: f16(M,{k}), w: {weight}({n},{k})] + bias", rows=9), 9, seed=n)


def drawn_case(seed):
    """A format, types and an epilogue, drawn; the default schedule or any feasible one."""
    rng = random.Random(seed)
    x, code = rng.choice(("f16", "bf16", "f32")), rng.choice(CODES)
    group = rng.choice(("g64", "g128", "g256", "channel") + (("g32",) if code.endswith("8") else ()))
    text = spec_text(
        x, code, group, rng.choice(SCALES), rng.random() < 0.5, rng.choice(EPILOGUES),
        "bf16" if x == "f32" else "exact", rng.choice((20, 33, 70, 130, 260)), rng.randint(1, 5),
    )  # fmt: skip
    rows = rng.randint(1, 40)
    if rng.random() < 0.4:
        return wgmma(text, rows=rows)
    spec = parse_spec(text).with_storage(TARGET.storage).bind(M=rows)
    some = list(itertools.islice(RECIPE.space.feasible(spec, TARGET), rng.randint(1, 400)))
    return wgmma(text, print_schedule(some[-1]), rows=rows)


@pytest.mark.parametrize(("code", "zero", "x"), one_in(5, itertools.product(CODES, ("", ":zero"), ("f16", "bf16"))))
def test_every_decoder(code, zero, x):
    """Codes, zero points and what multiplies; scales and groups differ on the way."""
    at = CODES.index(code) + 2 * bool(zero)
    scale, group = SCALES[at % 3], ("g64", "g128", "channel")[at % 3]
    k = 256 if group == "g128" else 192
    assert_right(wgmma(f"gemm[x: {x}(M,{k}), w: {code}:{group}:{scale}{zero}(40,{k})]", rows=8), 8, seed=at)


@pytest.mark.parametrize("epilogue", one_in(4, EPILOGUES))
def test_every_epilogue(epilogue):
    assert_right(wgmma(f"gemm[x: bf16(M,64), w: int4:g64(24,64)]{epilogue.format(n=24)}", rows=10), 10, seed=3)


@pytest.mark.parametrize("seed", one_in(6, range(12)))
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
    ("offset", "stride"), one_in(2, [(0, 464), (8, 456), (1, 456), (0, 449), (5, 451)]), ids=lambda value: str(value)
)
def test_rows_of_x_may_begin_anywhere(offset, stride):
    """Multiples of 16 bytes are copied asynchronously, all others element by element."""
    spec = RAGGED.resolved.bind(M=17)
    drawn = draw_operands(spec, 4)
    memory = torch.full((17 * stride + offset,), float("nan"), dtype=torch.float16)
    x = memory[offset:].as_strided((17, 448), (stride, 1))
    x.copy_(drawn.tensors[0])
    residual = torch.full((17, 300), float("nan"), dtype=torch.float16)[:, 3:206]
    residual.copy_(drawn.tensors[-1])
    tensors = (x, *drawn.tensors[1:-1], residual)
    assert_right(RAGGED, 17, seed=5, operands=Operands(tensors, drawn.values))


def test_rows_of_y_may_lie_apart():
    """What lies between them stays as it was."""
    spec = RAGGED.resolved.bind(M=9)
    tensors = draw_operands(spec, 6).tensors
    call = emulated(source_of(RAGGED), spec, built=built(RAGGED))
    together = call(*tensors, out=torch.empty(9, 203, dtype=torch.float16))
    wide = torch.full((9, 240), float("nan"), dtype=torch.float16)
    call(*tensors, out=wide[:, 5:208])
    assert same_bits(wide[:, 5:208].contiguous(), together)
    assert wide[:, :5].isnan().all()
    assert wide[:, 208:].isnan().all()


def test_no_rows_is_no_launch():
    spec = RAGGED.resolved.bind(M=0)
    out = torch.empty(0, 203, dtype=torch.float16)
    assert emulated(source_of(RAGGED), spec, built=built(RAGGED))(*draw_operands(spec, 1).tensors, out=out) is out


@pytest.mark.parametrize("kind", one_in(3, DISTRIBUTIONS))
@THREE
def test_huge_and_tiny_values(case, kind):
    assert_right(case, 9, seed=7, kind=kind)


@THREE
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
    assert not got[11].isfinite().any()


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


@pytest.mark.parametrize("case", [RAGGED, RAGGED_BF16, WIDE, UNORDERED], ids=["f16", "bf16", "bytes", "unordered"])
def test_every_operand_is_in_its_place(case):
    assert not probe_faults(source_of(case), case.resolved.bind(M=25), built=built(case))


@pytest.mark.parametrize(("case", "rows"), one_in(2, [(RAGGED_BF16, 1), (RAGGED, 25)]), ids=["bf16", "f16"])
def test_a_kernel_as_a_sanitised_program(case, rows):
    """Also with rows of x that are stored element by element, and with rows of the weight that nobody copies."""
    assert_right(case, rows, seed=10, sanitized=True)


# ---- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "group", "chunk"), [("int4:g32", 32, 64), ("uint4:g16:zero", 16, 64), ("int8:g16", 16, 32)]
)
def test_groups_shorter_than_a_chunk_are_refused(weight, group, chunk):
    """A chunk is multiplied before a scale is applied. The recipe says so, nobody can build it, another takes over."""
    spec = parse_spec(f"gemm[x: f16(16,512), w: {weight}(256,512)]")
    reason = f"groups of {group} are shorter than the {chunk} k that a lane loads at once"
    assert RECIPE.refuses(spec, TARGET) == reason
    other = default_recipe(spec, TARGET)
    assert other is not None
    assert other.name == "gemm.cuda.mma"
    resolved = spec.with_storage(TARGET.storage)
    assert not list(RECIPE.space.feasible(resolved, TARGET))
    with pytest.raises(ScheduleError, match=r"wgmma\(.*on cuda:sm_90a: a group is whole chunks"):
        emit(RECIPE, spec, RECIPE.space.default(resolved, TARGET), TARGET)


def test_other_architectures_are_refused():
    spec = parse_spec("gemm[x: f16(16,512), w: int4:g64(256,512)]")
    assert RECIPE.refuses(spec, parse_target("cuda:sm_90")) == "cuda:sm_90 has no wgmma; it is of cuda:sm_90a"
    f32 = parse_spec("gemm[x: f32(16,512), w: int4:g64(256,512)]")
    assert any("float32 activations lose bits in the tensor cores" in reason for reason in refusals(f32, TARGET))


# ---- what the compiler makes of it ----------------------------------------------------------------------------------

SHAPES = tuple(itertools.product(
    (1, 16, 64, 256), ("f16", "bf16"),
    ("int4:g128", "uint4:g128:zero", "int8:g128", "uint8:g128:zero", "int4:g64", "int4:channel"),
))  # fmt: skip


@pytest.mark.parametrize(("m", "x", "weight"), one_in(25, SHAPES))
def test_products_run_while_the_next_chunk_is_decoded(m, x, weight):
    """Where a compiler cannot tell what a product still reads or writes, it waits for each, and says so (C7510, ..)."""
    spec = parse_spec(f"gemm[x: {x}({m},8192), w: {weight}(28672,8192)]").with_storage(TARGET.storage)
    log = log_of(emit(RECIPE, spec, RECIPE.space.default(spec, TARGET), TARGET).text)
    assert "0 bytes spill stores, 0 bytes spill loads" in log
    assert "C75" not in log, log


def log_of(text):
    chain = find_nvrtc()
    assert chain is not None
    made = chain.compile(text, {"ptx.cuh": header("ptx.cuh")}, (*options(TARGET, chain.version), "--ptxas-options=-v"))
    assert made.cubin, made.log
    return made.log


def test_products_one_after_the_other_are_said_to_be():
    """The negative control: sums that are set while they are multiplied."""
    spec = parse_spec("gemm[x: bf16(16,8192), w: int4:g128(28672,8192)]").with_storage(TARGET.storage)
    text = emit(RECIPE, spec, RECIPE.space.default(spec, TARGET), TARGET).text
    old = "for (int step = of.first;;) {"
    assert text.count(old) == 1
    assert "C75" in log_of(text.replace(old, "if (c.m > 99) part[0][0] = 1.f;\n" + old))


# ---- many schedules -------------------------------------------------------------------------------------------------

SMALL = "gemm[x: f16(M,256), w: int4:g64(16,256)] + bias"
LARGE = "gemm[x: bf16(M,1024), w: uint4:g64:zero(200,1024)] + bias"


def schedules(text, rows):
    spec = parse_spec(text).with_storage(TARGET.storage).bind(M=rows)
    return [print_schedule(s) for s in RECIPE.space.feasible(spec, TARGET)]


@pytest.mark.slow
def test_every_schedule_of_a_small_space():
    every = schedules(SMALL, 9)
    assert len(every) > 20
    for seed, schedule in enumerate(every):
        for rows in (9, 1, 20):
            assert_right(wgmma(SMALL, schedule), rows, seed)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(10))
def test_drawn_schedules_of_a_large_space(share):
    """Two hundred of them; one in ten as a sanitised program too."""
    every = schedules(LARGE, 70)
    assert len(every) >= 200
    drawn = random.Random(11).sample(every, 200)[share * 20 : share * 20 + 20]
    for seed, schedule in enumerate(drawn):
        assert_right(wgmma(LARGE, schedule), 70, seed)
    for at in (0, 10):
        assert_right(wgmma(LARGE, drawn[at]), 70, seed=share, sanitized=True)
