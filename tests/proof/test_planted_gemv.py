"""Faults planted in the text of gemm.cuda.gemv: each is reported at its line, or by judge if it only miscalculates."""

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
ROWS = 5


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A text to plant faults in."""

    spec: str
    schedule: str


# Ragged in M and N; groups within a step; two blocks and two warps share K, and each of them takes two steps.
SPLIT = Kernel(
    "gemm[x: f16(M,496), w: uint8:g16:f16:zero(72,496)] + bias",
    "gemv(block_m=2,block_k=64,warps_n=2,warps_k=2,tiles_n=1,k_splits=2,ordered=true)",
)
# One scale a row; the last step is half a step, and the last block has three tiles too many.
WHOLE = Kernel(
    "gemm[x: bf16(M,300), w: int4:channel(70,300)]",
    "gemv(block_m=4,block_k=128,warps_n=2,warps_k=1,tiles_n=2,k_splits=1,ordered=true)",
)
# Outside the tensor cores.
EXACT = Kernel(
    "gemm[x: f32(M,272), w: uint4:g16:bf16:zero(40,272)]",
    "gemv(block_m=4,block_k=128,warps_n=1,warps_k=2,tiles_n=1,k_splits=1,ordered=true)",
)
EXACT_8 = dataclasses.replace(EXACT, spec=EXACT.spec.replace("uint4", "uint8"))


@dataclasses.dataclass(frozen=True)
class Plant:
    """An edit of the text.

    Args:
        old, new: What is replaced, once, and by what.
        kinds: Of the fault that must be reported; empty when only judge sees it.
        line: Part of the line that the report names.
        views: Whether rows of x begin at multiples of 16 bytes, in a wider memory.
    """

    old: str
    new: str
    kinds: tuple[str, ...] = ()
    line: str = ""
    views: bool = False


SYNC = "__syncthreads();"
WAIT = "ptx::cp_async_wait<0>();"
SPLIT_PLANTS = {
    # Barriers, each of them.
    "no barrier behind the copies": Plant(f"{WAIT}\n  {SYNC}", WAIT, ("race", "cp.async"), "pair.take"),
    "no barrier before the sums": Plant(f"{SYNC}  // x is no longer", "// x is no longer", ("race",), "sums[(warp_k"),
    "no barrier behind the sums": Plant(f"{SYNC}\n  reduce_and", "reduce_and", ("race", "uninitialised"), "sums["),
    "no barrier before the ticket": Plant(f"{SYNC}\n    if (t == 0) before", "if (t == 0) before", ("race",), "parts["),
    "no barrier behind the ticket": Plant(
        f"(tickets + tile);\n    {SYNC}", "(tickets + tile);", ("race", "uninitialised"), "before"
    ),
    # Copies.
    "no wait": Plant(WAIT, "", ("cp.async",), "pair.take"),
    "a wait that lets one group be": Plant(WAIT, "ptx::cp_async_wait<1>();", ("cp.async",), "pair.take"),
    "no commit": Plant("ptx::cp_async_commit();", "", ("cp.async",), "pair.take"),
    # Tails.
    "one row of x too many": Plant("m0 + row < c.m", "m0 + row <= c.m", ("bounds",), "cp_async_16(place"),
    "one row of y too many": Plant("m0 + i / BLOCK_N >= c.m", "m0 + i / BLOCK_N > c.m", ("bounds",), "finish(c"),
    "one column of y too many": Plant("|| n >= N", "|| n > N", ("bounds", "race"), "finish(c"),
    "one column of y too few": Plant("|| n >= N", "|| n >= N - 1"),
    "one token of a block too many": Plant("if (token < BLOCK_M)", "if (token <= BLOCK_M)", ("race",), "sums[(warp_k"),
    "one step too many": Plant(
        "step < last; step +=", "step <= last; step +=", ("bounds", "uninitialised"), "pair.take"
    ),
    "one step too few": Plant("step < last; step +=", "step < last - 1; step +="),
    # Shared memory.
    "rows of x that overlap": Plant("sizeof(X) + 16, NOTHING", "sizeof(X) - 16, NOTHING", ("race", "cp.async"), "cp_"),
    "a row of x that straddles": Plant("sizeof(X) + 16, NOTHING", "sizeof(X) + 8, NOTHING", ("alignment",), "cp_async"),
    "zeros over the end of x": Plant(
        "BLOCK_M * X_STRIDE;", "BLOCK_M * X_STRIDE - 32;", ("race", "cp.async"), "NOTHING"
    ),
    "scales over the zeros": Plant("+ NOTHING_BYTES;", "+ NOTHING_BYTES - 16;", ("race", "cp.async"), "cp_async_16"),
    "zero points beyond the memory": Plant("(int)sizeof(S) : 0);", "(int)sizeof(S) + 16 : 16);", ("bounds",), "cp_"),
    "zeros that nobody writes": Plant("= 0;\n  if (GROUPED)", ";\n  if (GROUPED)", ("uninitialised",), "pair.take"),
    # Registers.
    "sums that start anywhere": Plant("part[TILES_N][SUMS] = {};", "part[TILES_N][SUMS];", ("uninitialised",), "mma"),
    "sums of all of K that start anywhere": Plant("acc[TILES_N][SUMS] = {};", "acc[TILES_N][SUMS];"),
    "codes that were never asked for": Plant(
        "if (first + warp_k < last && (", "if (u == 0 && first + warp_k < last && ("
    ),
    "codes that are not asked for again": Plant("if (step + WARPS_K < last", "if (u && step + WARPS_K < last"),
    "codes of the step before": Plant("codes[i] += WARPS_K * LOADS", "codes[i] += 0 * WARPS_K * LOADS"),
    "zero points that are not set": Plant("if (ZERO && k % FLUSH_K", "if (!ZERO && k % FLUSH_K"),
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
    "a dropped scale": Plant("acc[i][s] += widen(", "acc[i][s] += part[i][s] + 0.f * widen("),
    "a scale of the wrong half": Plant("at + i * 16 + s / (SUMS / 2) * 8]", "at + i * 16]"),
    "a scale of the next row": Plant("at + i * 16 + s / (SUMS", "at + 1 + i * 16 + s / (SUMS"),
    "numbers of another group": Plant("? k / GROUP_K * BLOCK_N : 0", "? k / GROUP_K % 2 * BLOCK_N : 0"),
    "groups of the first block": Plant("first * BLOCK_K / GROUP_K, n0, (int)sizeof(S)", "0, n0, (int)sizeof(S)"),
    "a dropped zero point": Plant("Decoder::zero(shared[Z_AT + at + i * 16 + h * 8])", "Decoder::zero(0)"),
    "zero points of the wrong half": Plant("shared[Z_AT + at + i * 16 + h * 8]", "shared[Z_AT + at + i * 16]"),
    "sums of one warp only": Plant("for (int s = 1; s < WARPS_K; ++s) v +=", "for (int s = 2; s < WARPS_K; ++s) v +="),
    "a group's sums kept": Plant("part[i][s] = 0.f;", ""),
    "a dropped bias": Plant("a = a + bias;", ""),
    "tokens changed over": Plant("return lane % 4 * 2 + r;", "return lane % 4 * 2 + (r ^ 1);"),
    "rows of the weight changed over": Plant(
        "* 8 + lane / 4;\n      const float v", "* 8 + (lane / 4 ^ 1);\n      const float v"
    ),
}
WHOLE_PLANTS = {
    "an element of K too many": Plant("min(K - k, PIECE) : 0", "min(K - k + 1, PIECE) : 0", ("bounds",), "from[e]"),
    "an element of K too many, copied": Plant(
        "min(K - k, PIECE) : 0", "min(K - k + 1, PIECE) : 0", ("bounds",), "cp_async_16(place", views=True
    ),
    "an element of K too few": Plant("min(K - k, PIECE) : 0", "min(K - k - 1, PIECE) : 0"),
    "an element of K too few, copied": Plant("min(K - k, PIECE) : 0", "min(K - k - 1, PIECE) : 0", views=True),
    "no zeros behind K": Plant("e < left ? from[e] : X()", "from[e]", ("bounds",), "from[e]"),
    "pieces of rows that are not aligned": Plant(
        "sizeof(X)) % 16 == 0;", "sizeof(X)) % 8 == 0;", ("alignment",), "cp_"
    ),
    "a chunk of K too many": Plant(
        "(step + WARPS_K) * LOADS + u < CHUNKS", "(step + WARPS_K) * LOADS + u <= CHUNKS", ("bounds",), "ld_global_once"
    ),
    "a chunk of K too few": Plant("* LOADS + u >= CHUNKS) break", "* LOADS + u >= CHUNKS - 1) break"),
    "a tile of N too many": Plant("PADDED_N / 16 - 1)", "PADDED_N / 16)", ("bounds",), "ld_global_once"),
    "a tile of N too few": Plant("PADDED_N / 16 - 1)", "PADDED_N / 16 - 2)"),
    "a dropped scale": Plant("if (!GROUPED) v *=", "if (GROUPED) v *="),
    "the bias of another code": Plant("BITS = 4, BIAS = 8", "BITS = 4, BIAS = 7"),
}
EXACT_PLANTS = {
    "a sum of the wrong lanes": Plant("v, 1);", "v, 4);"),
    "a sum of two lanes twice": Plant("v, 2);", "v, 1);"),
    "a sum without a lane": Plant("(0xFFFFFFFFu, v, 1)", "(0x7FFFFFFFu, v, 1)", ("divergence",), "__shfl_xor_sync"),
    "only two lanes summed": Plant("v + __shfl_xor_sync(0xFFFFFFFFu, v, 2)", "v"),
    "codes of the other half": Plant("e % 2 ? q[0] >> 16 : q[0]", "e % 2 ? q[0] : q[0] >> 16"),
    "codes in another order": Plant("0xFu << e / 2 * 4", "0xFu << (e / 2 ^ 1) * 4"),
    "a zero point at another bit": Plant("| z << 4 * i)", "| z)"),
    "a zero point of the wrong half": Plant("z[e / 2 % 2].at", "z[0].at"),
    "x of another pair": Plant("tile % 2 * 2 + i / 2", "tile % 2 * 2 + i % 2"),
    "x of another tile": Plant("tile % 2 * 2 + i / 2", "i / 2"),
    "x of the next lane": Plant("return lane % 4 * 8;", "return (lane + 1) % 4 * 8;"),
    "x that straddles": Plant("return lane % 4 * 8;", "return lane % 4 * 8 + 4;", ("alignment",), "float2"),
    "x of another row": Plant("i / 4 * X_STRIDE + i % 4", "(i / 4 ^ 1) * X_STRIDE + i % 4"),
    "x changed over": Plant("u[2 * i] * pair.x", "u[2 * i] * pair.y"),
    "sums of the wrong row": Plant("d[i % 2 * BLOCK_M + r] += u[2 * i] *", "d[i / 2 * BLOCK_M + r] += u[2 * i] *"),
    "no barrier behind the copies": Plant(f"{WAIT}\n  {SYNC}", WAIT, ("race", "cp.async"), "float2"),
}
EXACT_8_PLANTS = {
    "codes in another order": Plant("0x7650u + e % 4", "0x7650u + (e % 4 ^ 1)"),
    "codes of the first word": Plant("q[e / 4]", "q[0]"),
    "a zero point of the wrong half": Plant("- z[e / 2 % 2];\n", "- z[0];\n"),
}
FRAGMENTS = {
    "x, the next row": ("BLOCK_M ? lane % 8 * X_STRIDE", "BLOCK_M ? (lane % 8 ^ 1) * X_STRIDE", "brings"),
    "x, the other half of k": ("X_STRIDE + lane / 8 * 16", "X_STRIDE + (lane / 8 ^ 1) * 16", "B["),
    "x, registers in another order": (
        "{b[tile % 2 * 2], b[tile % 2 * 2 + 1]}",
        "{b[tile % 2 * 2 + 1], b[tile % 2 * 2]}",
        "B[",
    ),
    "w, registers in another order": (
        "Operand<T>::mma(d, a, x);",
        "const uint32_t o = a[1]; a[1] = a[2], a[2] = o; Operand<T>::mma(d, a, x);",
        "A[",
    ),
    "w, the next lane": ("* 512 + lane * 16;", "* 512 + (lane + 1) % 32 * 16;", "A["),
    "w, another tile": ("words + tile * Decoder::WORDS", "words", ""),
    "w, codes of another byte": ("0x4342u : 0x4140u", "0x4341u : 0x4240u", "A["),
}
PLANTS = {
    "split": (SPLIT, SPLIT_PLANTS),
    "whole": (WHOLE, WHOLE_PLANTS),
    "exact": (EXACT, EXACT_PLANTS),
    "exact8": (EXACT_8, EXACT_8_PLANTS),
}
EACH = tuple((group, name) for group, (_, plants) in PLANTS.items() for name in plants)

built_once = functools.lru_cache(maxsize=4)(program)


def source_of(kernel, rows=ROWS):
    recipe, spec = recipe_named("gemm.cuda.gemv"), parse_spec(kernel.spec).with_storage(TARGET.storage)
    default = recipe.space.default(spec.bind(M=rows), TARGET)
    return emit(recipe, spec, parse_schedule(kernel.schedule, recipe.schedule, default), TARGET), spec.bind(M=rows)


def planted(kernel, plant, rows=ROWS):
    """The source with the fault; what is replaced was there, and once."""
    source, spec = source_of(kernel, rows)
    assert source.text.count(plant.old) == 1, f"{source.text.count(plant.old)} times: {plant.old}"
    return dataclasses.replace(source, text=source.text.replace(plant.old, plant.new)), spec


def run(source, spec, *, seed, views=False):
    """Faults and verdict of one call."""
    drawn = draw_operands(spec, seed)
    if views:
        x = drawn.tensors[0]
        wide = torch.zeros(x.shape[0], -(-x.shape[1] // 8) * 8, dtype=x.dtype)
        view = wide[:, : x.shape[1]].copy_(x)
        assert view.stride(0) * 2 % 16 == view.data_ptr() % 16 == 0
        drawn = Operands((view, *drawn.tensors[1:]), drawn.values)
    found = []
    built = built_once(source.text, source.entry)
    verdict = judge(emulated(source, spec, seed=seed, report=found.extend, built=built), spec, drawn)
    return found, verdict


@pytest.mark.parametrize(
    ("kernel", "views"), [(SPLIT, False), (WHOLE, False), (WHOLE, True), (EXACT, False), (EXACT_8, False)]
)
def test_without_a_plant_nothing_is_reported(kernel, views):
    source, spec = source_of(kernel)
    for seed in range(2):
        faults, verdict = run(source, spec, seed=seed, views=views)
        assert not faults, "\n".join(map(str, faults))
        assert verdict.right, verdict.problem


def test_without_a_plant_every_operand_is_in_its_place():
    source, spec = source_of(SPLIT, rows=2)
    assert not probe_faults(source, spec, built=built_once(source.text, source.entry))


@pytest.mark.parametrize(("group", "name"), one_in(12, EACH))
def test_a_plant_is_seen(group, name):
    kernel, plants = PLANTS[group]
    plant = plants[name]
    source, spec = planted(kernel, plant)
    for seed in (1, 2):
        faults, verdict = run(source, spec, seed=seed, views=plant.views)
        if not plant.kinds:
            assert not verdict.right
            continue
        seen = [f for f in faults if f.kind in plant.kinds and (plant.line in f.line or plant.line in f.other)]
        assert seen, f"seed {seed}: {verdict.problem}\n" + "\n".join(map(str, faults))


@pytest.mark.parametrize("name", one_in(4, FRAGMENTS))
def test_a_wrong_fragment_is_named_where_it_is_multiplied(name):
    """By the probes; and its result is wrong, whatever the probes say."""
    old, new, text = FRAGMENTS[name]
    source, spec = planted(SPLIT, Plant(old, new), rows=2)
    assert not run(source, spec, seed=1)[1].right
    if not text:  # whole tiles are taken for each other: the same place in another fragment
        return
    found = [f for f in probe_faults(source, spec, built=built_once(source.text, source.entry)) if f.kind == "fragment"]
    assert found
    assert all(text in fault.text and "Operand<T>::mma" in fault.line for fault in found)
