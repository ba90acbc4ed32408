"""Faults planted in the text of gemm.cuda.mma: each is reported at its line, or, if it only miscalculates, by judge."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from gridstone.ir.text import parse_spec
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.emulate import emulated, probe_faults
from gridstone.proof.judge import judge
from gridstone.proof.operands import Operands, draw_operands
from gridstone.proof.program import program
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from tests.quick import one_in

TARGET = parse_target("cuda:sm_80")
ROWS = 17
# Ragged in M, N and K; scales and zero points of groups within a warp's k; two blocks and two warps share K.
SPLIT = "gemm[x: f16(M,496), w: uint8:g16:f16:zero(72,496)] + bias"
SPLIT_SCHEDULE = "mma(block_m=16,block_k=64,warps_n=2,warps_k=2,tiles_n=1,stages=3,k_splits=2,ordered=true)"
# One scale a row; K is a multiple of nothing.
WHOLE = "gemm[x: bf16(M,236), w: int4:channel(70,236)]"
WHOLE_SCHEDULE = "mma(block_m=16,block_k=64,warps_n=2,warps_k=1,tiles_n=2,stages=2,k_splits=1,ordered=true)"


@dataclasses.dataclass(frozen=True)
class Plant:
    """An edit of the text.

    Args:
        old, new: What is replaced, once, and by what.
        kinds: Of the fault that must be reported; empty when only judge sees it.
        line: Part of the line that the report names.
        views: Whether x is a view whose rows begin at multiples of 16 bytes.
    """

    old: str
    new: str
    kinds: tuple[str, ...] = ()
    line: str = ""
    views: bool = False


SYNC = "__syncthreads();"
SPLIT_PLANTS = {
    # Barriers, each of them.
    "no barrier before the ticket": Plant(f"{SYNC}\n    if (t == 0) before", "if (t == 0) before", ("race",), "parts["),
    "no barrier behind the ticket": Plant(
        f"(tickets + tile);\n    {SYNC}", "(tickets + tile);", ("race", "uninitialised"), "before"
    ),
    "no barrier behind a stage": Plant(
        f"{SYNC}  // the stage has come", "// the stage has come", ("race", "cp.async"), "stage"
    ),
    "no barrier before the sums": Plant(f"{SYNC}  // the pipeline's", "// the pipeline's", ("race",), "sums[(warp_k"),
    "no barrier behind the sums": Plant(f"{SYNC}\n  reduce_and", "reduce_and", ("race", "uninitialised"), "sums["),
    # Copies.
    "no wait in the loop": Plant("ptx::cp_async_wait<STAGES - 2>();", "", ("cp.async",), "stage"),
    "a wait for one stage too few": Plant(
        "ptx::cp_async_wait<STAGES - 2>();", "ptx::cp_async_wait<STAGES - 1>();", ("cp.async",), "stage"
    ),
    "no commit in the loop": Plant(
        "  ptx::cp_async_commit();\n    const uint8_t* stage", "  const uint8_t* stage", ("cp.async",), "stage"
    ),
    "a stage fetched too early": Plant(
        "const int next = step + STAGES - 1;", "const int next = step + STAGES;", ("cp.async", "race"), "stage"
    ),
    # Tails.
    "one row of x too many": Plant(
        "m0 + row < c.m && k < K", "m0 + row <= c.m && k < K", ("bounds",), "cp_async_16(to, from"
    ),
    "one row of y too many": Plant("m0 + i / BLOCK_N >= c.m", "m0 + i / BLOCK_N > c.m", ("bounds",), "finish(c"),
    "one column of y too many": Plant("|| n >= N", "|| n > N", ("bounds", "race"), "finish(c"),
    "one column of y too few": Plant("|| n >= N", "|| n >= N - 1"),
    # Shared memory.
    "x over the end of the codes": Plant("k % 8 * 2;", "k % 8 * 2 - 128;", ("race", "cp.async"), "cp_async_16"),
    "no room for the last codes": Plant("BITS / 8, S_AT", "BITS / 8 - 128, S_AT"),
    "scales over the end of x": Plant(
        "S_AT = X_AT + BLOCK_M * BLOCK_K * 2",
        "S_AT = X_AT + BLOCK_M * BLOCK_K * 2 - 16",
        ("race", "cp.async"),
        "cp_async_16",
    ),
    "stages that overlap": Plant(
        "STAGE_BYTES = Z_AT + Z_BYTES", "STAGE_BYTES = Z_AT + Z_BYTES - 16", ("race", "cp.async"), "cp_async_16"
    ),
    "stages beyond the memory": Plant(
        "STAGE_BYTES = Z_AT + Z_BYTES", "STAGE_BYTES = Z_AT + Z_BYTES + 16", ("bounds",), "cp_async_16"
    ),
    "a row of x that straddles": Plant("k % 8 * 2;", "k % 8 * 2 + 8;", ("alignment",), "cp_async_16(to, from"),
    # Registers.
    "sums that start anywhere": Plant(
        "part[TILES_N][TILES_M][4] = {};", "part[TILES_N][TILES_M][4];", ("uninitialised",), "mma_m16n8k16_f16"
    ),
    "sums of all of K that start anywhere": Plant("acc[TILES_N][TILES_M][4] = {};", "acc[TILES_N][TILES_M][4];"),
    "zero points that are not set": Plant("if (ZERO && in_warp", "if (!ZERO && in_warp"),
    # Order among blocks.
    "split-K added twice": Plant(
        "for (int s = 0; s < SPLITS; ++s) v +=",
        "for (int s = 0; s < 2 * SPLITS; ++s) v +=",
        ("bounds", "uninitialised", "race"),
        "parts[s",
    ),
    "split-K counted twice": Plant(
        "+= parts[s * BLOCK_M * BLOCK_N + i];", "+= 2.f * parts[s * BLOCK_M * BLOCK_N + i];"
    ),
    "a ticket that is not reset": Plant("if (t == 0) tickets[tile] = 0;", "", ("scratch",)),
    "whoever comes first finishes": Plant(
        "if (before != SPLITS - 1) return;", "if (before != 0) return;", ("race", "uninitialised"), "parts["
    ),
    "nobody finishes": Plant("if (before != SPLITS - 1) return;", "if (before != SPLITS) return;", ("scratch",)),
    # Arithmetic.
    "a dropped scale": Plant("(e < 2 ? upper : lower) * part", "part"),
    "a scale of the wrong row": Plant("widen(scales[8])", "widen(scales[0])"),
    "a scale of another group": Plant("? k / GROUP_K : 0", "? k / GROUP_K % 2 : 0"),
    "a dropped zero point": Plant("Decoder::zero(stage[Z_AT + row + i * 16 + h * 8])", "Decoder::zero(0)"),
    "zero points of the wrong half": Plant(
        "Decoder::zero(stage[Z_AT + row + i * 16 + h * 8])", "Decoder::zero(stage[Z_AT + row + i * 16])"
    ),
    "sums of one warp only": Plant("for (int s = 1; s < WARPS_K; ++s) v +=", "for (int s = 2; s < WARPS_K; ++s) v +="),
    "a group's sums kept": Plant("part[i][j][e] = 0.f;", ""),
    "a dropped bias": Plant("a = a + bias;", ""),
    "rows and columns changed over": Plant("+ row) * BLOCK_N + n] = acc", "+ row) * BLOCK_N + (n ^ 1)] = acc"),
}
WHOLE_PLANTS = {
    "an element of K too many": Plant("min(K - k, 8) : 0", "min(K - k + 1, 8) : 0", ("bounds",), "from[e]"),
    "an element of K too many, copied": Plant(
        "min(K - k, 8) : 0", "min(K - k + 1, 8) : 0", ("bounds",), "cp_async_16(to, from", views=True
    ),
    "an element of K too few": Plant("min(K - k, 8) : 0", "min(K - k - 1, 8) : 0"),
    "an element of K too few, copied": Plant("min(K - k, 8) : 0", "min(K - k - 1, 8) : 0", views=True),
    "no zeros behind K": Plant(
        "e < left ? Operand<A>::bits(widen(from[e])) : (uint16_t)0",
        "Operand<A>::bits(widen(from[e]))",
        ("bounds",),
        "from[e]",
    ),
    "pieces of rows that are not aligned": Plant("% 16 == 0;", "% 8 == 0;", ("alignment",), "cp_async_16(to, from"),
    "a dropped scale": Plant("if (!GROUPED) v *=", "if (GROUPED) v *="),
    "the bias of another code": Plant("BITS = 4, BIAS = 8", "BITS = 4, BIAS = 7"),
    "no wait at all": Plant("ptx::cp_async_wait<STAGES - 2>();", "", ("cp.async",), "stage"),
    "a single stage": Plant(
        "STAGES = 2, SPLITS", "STAGES = 1, SPLITS", ("deadlock", "cp.async", "race", "uninitialised"), ""
    ),
}
FRAGMENTS = {
    "x, the next row": ("+ lane / 16 * 8 + lane % 8,", "+ lane / 16 * 8 + (lane + 1) % 8,", "brings"),
    "x, the other half of k": (
        "k + lane / 8 % 2 * 8));\n          b[j][0]",
        "k + (lane / 8 + 1) % 2 * 8));\n          b[j][0]",
        "B[",
    ),
    "x, matrices in another order": (
        "b[j][1] = two[1], b[j + 1][0] = two[2]",
        "b[j][1] = two[2], b[j + 1][0] = two[1]",
        "B[",
    ),
    "x, permuted on one side only": (
        "X_AT + x_place(row, k - k0)",
        "X_AT + (row * (BLOCK_K / 8) + (k - k0) / 8) * 16",
        "B[",
    ),
    "w, registers in another order": (
        "Decoder::tile(a, &q[i][tile * Decoder::WORDS], zero[i]);",
        "Decoder::tile(a, &q[i][tile * Decoder::WORDS], zero[i]); const uint32_t o = a[1]; a[1] = a[2], a[2] = o;",
        "A[",
    ),
    "w, the next lane": ("(at * 32 + lane) * 16", "(at * 32 + (lane + 1) % 32) * 16", "A["),
    "w, another tile": ("&q[i][tile * Decoder::WORDS]", "&q[i][0]", ""),
    "w, codes of another byte": ("0x4342u : 0x4140u", "0x4341u : 0x4240u", "A["),
}


def source_of(text, schedule):
    recipe, spec = recipe_named("gemm.cuda.mma"), parse_spec(text).with_storage(TARGET.storage)
    default = recipe.space.default(spec.bind(M=ROWS), TARGET)
    return emit(recipe, spec, parse_schedule(schedule, recipe.schedule, default), TARGET), spec.bind(M=ROWS)


def planted(text, schedule, plant):
    """The source with the fault; what is replaced was there, and the fault is no other's."""
    source, spec = source_of(text, schedule)
    assert source.text.count(plant.old) == 1, f"{source.text.count(plant.old)} times: {plant.old}"
    return dataclasses.replace(source, text=source.text.replace(plant.old, plant.new)), spec


def run(source, spec, *, seed, views=False):
    """Faults and verdict of one call."""
    drawn = draw_operands(spec, seed)
    if views:
        x = drawn.tensors[0]
        wide = torch.zeros(x.shape[0], 240, dtype=x.dtype)
        wide[:, : x.shape[1]] = x
        view = wide[:, : x.shape[1]]
        assert view.stride(0) * 2 % 16 == view.data_ptr() % 16 == 0
        drawn = Operands((view, *drawn.tensors[1:]), drawn.values)
    found = []
    built = built_once(source.text, source.entry)
    verdict = judge(emulated(source, spec, seed=seed, report=found.extend, built=built), spec, drawn)
    return found, verdict


built_once = functools.lru_cache(maxsize=4)(program)


def assert_seen(source, spec, plant):
    for seed in (1, 2):
        faults, verdict = run(source, spec, seed=seed, views=plant.views)
        if not plant.kinds:
            assert not verdict.right
            continue
        seen = [f for f in faults if f.kind in plant.kinds and (plant.line in f.line or plant.line in f.other)]
        assert seen, f"seed {seed}: {verdict.problem}\n" + "\n".join(map(str, faults))


@pytest.mark.parametrize(
    ("text", "schedule", "views"),
    [(SPLIT, SPLIT_SCHEDULE, False), (WHOLE, WHOLE_SCHEDULE, False), (WHOLE, WHOLE_SCHEDULE, True)],
)
def test_without_a_plant_nothing_is_reported(text, schedule, views):
    source, spec = source_of(text, schedule)
    for seed in range(4):
        faults, verdict = run(source, spec, seed=seed, views=views)
        assert not faults, "\n".join(map(str, faults))
        assert verdict.right, verdict.problem
    assert not probe_faults(source, spec, built=built_once(source.text, source.entry))


@pytest.mark.parametrize("name", one_in(3, SPLIT_PLANTS))
def test_a_plant_among_blocks_that_share_k_is_seen(name):
    assert_seen(*planted(SPLIT, SPLIT_SCHEDULE, SPLIT_PLANTS[name]), SPLIT_PLANTS[name])


@pytest.mark.parametrize("name", one_in(3, WHOLE_PLANTS))
def test_a_plant_at_the_tails_is_seen(name):
    assert_seen(*planted(WHOLE, WHOLE_SCHEDULE, WHOLE_PLANTS[name]), WHOLE_PLANTS[name])


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_wrong_fragment_is_named_where_it_is_multiplied(name):
    """By the probes; and its result is wrong, whatever the probes say."""
    old, new, text = FRAGMENTS[name]
    source, spec = planted(SPLIT, SPLIT_SCHEDULE, Plant(old, new))
    assert not run(source, spec, seed=1)[1].right
    if not text:  # whole tiles are taken for each other: the same place in another fragment
        return
    found = [f for f in probe_faults(source, spec, built=built_once(source.text, source.entry)) if f.kind == "fragment"]
    assert found
    assert all(text in fault.text and "Operand<A>::mma(GROUPED" in fault.line for fault in found)
