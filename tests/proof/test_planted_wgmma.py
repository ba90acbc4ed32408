"""Faults planted in the text of gemm.cuda.wgmma: each is reported at its line, or if it only miscalculates by judge."""

from __future__ import annotations

import dataclasses

import pytest

from gridstone.ir.text import parse_spec
from gridstone.lower.schedule import parse_schedule
from gridstone.lower.target import parse_target
from gridstone.proof.emulate import probe_faults
from gridstone.templates.emit import emit
from gridstone.templates.registry import recipe_named
from tests.proof.test_planted_gpu import Plant, assert_seen, built_once, run
from tests.quick import one_in

TARGET = parse_target("cuda:sm_90a")
ROWS = 17
# Ragged in M and N; two chunks a stage, and scales and zero points of a group for each of them; two warpgroups; blocks
# that share K and whose last stage is half a one.
SPLIT = "gemm[x: f16(M,832), w: uint4:g64:f16:zero(72,832)] + bias"
SPLIT_SCHEDULE = "wgmma(block_m=16,block_k=128,warps_n=8,tiles_n=1,stages=3,k_splits=2,ordered=true)"
# One scale a row; K is a multiple of nothing; a warpgroup has two tiles.
WHOLE = "gemm[x: bf16(M,236), w: int8:channel(140,236)]"
WHOLE_SCHEDULE = "wgmma(block_m=16,block_k=64,warps_n=4,tiles_n=2,stages=3,k_splits=1,ordered=true)"

SYNC = "__syncthreads();"
WAITS = "  ptx::cp_async_wait<AHEAD - 1>();\n  ptx::mbarrier_wait(&full[slot], (step - of.first) / STAGES % 2);\n"
FENCE = "  ptx::fence_proxy_async();  // wgmma reads x through another proxy than cp.async wrote it\n"
SPLIT_PLANTS = {
    # Barriers of the block, each of them.
    "no barrier behind the mbarriers": Plant(
        f"ptx::fence_proxy_async();\n  {SYNC}\n  for", "ptx::fence_proxy_async();\n  for", ("race", "barrier"),
        "mbarrier"
    ),
    "no barrier behind a stage": Plant(
        f"{SYNC}           // the stage has come", "// the stage has come", ("race", "cp.async", "proxy"), "multiply"
    ),
    "no barrier before the sums": Plant(f"{SYNC}  // the pipeline's", "// the pipeline's", ("race",), "sums[row"),
    "no barrier behind the sums": Plant(f"{SYNC}\n  reduce_and", "reduce_and", ("race", "uninitialised"), "sums["),
    "no barrier before the ticket": Plant(f"{SYNC}\n    if (t == 0) before", "if (t == 0) before", ("race",), "parts["),
    "no barrier behind the ticket": Plant(
        f"(tickets + tile);\n    {SYNC}", "(tickets + tile);", ("race", "uninitialised"), "before"
    ),
    # mbarriers and bulk copies.
    "no wait for the weights": Plant(
        "ptx::mbarrier_wait(&full[slot], (step - of.first) / STAGES % 2);", "", ("cp.async", "race"), "stage + (at * 32"
    ),
    "the other parity": Plant("/ STAGES % 2);", "/ STAGES % 2 ^ 1);", ("cp.async", "deadlock"), ""),
    "a parity that never changes": Plant("/ STAGES % 2);", "/ STAGES % 2 * 0);", ("cp.async", "race"),
    "stage + (at * 32"),
    "the mbarrier of another stage": Plant(
        "mbarrier_wait(&full[slot]", "mbarrier_wait(&full[(slot + 1) % STAGES]", ("cp.async", "race", "deadlock"), ""
    ),
    "zero points that are not announced": Plant(
        "groups * (scales + zeros))", "groups * scales)", ("barrier",), "mbarrier_wait"
    ),
    "more bytes than come": Plant("chunks * run + groups", "chunks * run + 16 + groups", ("deadlock",),
    "mbarrier_wait"),
    "zero points beyond the last": Plant(
        "ZEROS_AT + at, zeros", "ZEROS_AT + at + 64, zeros", ("bounds",), "cp_async_bulk"
    ),
    "weights of the next chunk": Plant("(k0 / CHUNK_K + i) * (PADDED_N", "(k0 / CHUNK_K + i + 1) * (PADDED_N"),
    "an mbarrier for two": Plant("mbarrier_init(&full[s], 1)", "mbarrier_init(&full[s], 2)", ("deadlock",),
    "mbarrier_wait"),
    "mbarriers that are not made": Plant("s < STAGES; ++s) ptx::mbarrier_init",
    "s < STAGES - 1; ++s) ptx::mbarrier_init",
                                         ("barrier",), "mbarrier"),
    "a copy of eight bytes too few": Plant("zeros = ZERO ? rows : 0", "zeros = ZERO ? rows - 8 : 0", ("alignment",),
    "cp_async_bulk"),
    # Asynchronous copies of x.
    "no wait for x": Plant("ptx::cp_async_wait<AHEAD - 1>();", "", ("cp.async",), "multiply"),
    "a wait for one stage too few": Plant("cp_async_wait<AHEAD - 1>", "cp_async_wait<AHEAD>", ("cp.async",),
    "multiply"),
    "no commit": Plant("  ptx::cp_async_commit();\n}", "}", ("cp.async",), "multiply"),
    "a stage asked for too early": Plant(
        "ask(c, shared, full, of, step + AHEAD);", "ask(c, shared, full, of, step + AHEAD + 1);", ("cp.async",
        "race", "deadlock", "barrier"), ""
    ),
    "one stage more under way": Plant(
        "AHEAD = STAGES - 2;", "AHEAD = STAGES - 1;", ("cp.async", "race"), "cp_async"
    ),
    # Proxies.
    "no fence behind x": Plant("ptx::fence_proxy_async();  // wgmma reads", "// wgmma reads", ("proxy",), "multiply"),
    "no fence behind zeros": Plant(
        f"ptx::fence_proxy_async();\n  {SYNC}\n  for", f"{SYNC}\n  for", ("proxy",), "cp_async_bulk"
    ),
    "a fence before x has come": Plant(WAITS + FENCE, FENCE + WAITS, ("proxy",), "multiply"),
    # Products.
    "no wgmma.fence": Plant("ptx::wgmma_fence();", "", ("wgmma",), "multiply"),
    "no commit of products": Plant("  ptx::wgmma_commit();\n", "", ("wgmma",), "part"),
    "no wait before a group's sums": Plant(
        "ptx::wgmma_wait<0>();\n#pragma unroll\n  for (int i = 0; i < TILES_N; ++i) {\n    ptx::wgmma_hold(part[i]);",
        "for (int i = 0; i < TILES_N; ++i) {\n    ptx::wgmma_hold(part[i]);", ("wgmma",), "part[i][e]"
    ),
    "a group's products under way": Plant(
        "ptx::wgmma_wait<0>();\n#pragma unroll\n  for (int i = 0; i < TILES_N; ++i) {\n    ptx::wgmma_hold(part[i]);",
        "ptx::wgmma_wait<1>();\n  for (int i = 0; i < TILES_N; ++i) {\n    ptx::wgmma_hold(part[i]);", ("wgmma",),
        "part[i][e]"
    ),
    "one half for all operands": Plant(
        "decode(a[chunk % 2], zero", "decode(a[0], zero", ("wgmma",), "Decoder::tile"
    ),
    # Tails.
    "one row of x too many": Plant("m0 + row < c.m && k < K", "m0 + row <= c.m && k < K", ("bounds",),
    "cp_async_16(to, from"),
    "one row of y too many": Plant("m0 + i / BLOCK_N >= c.m", "m0 + i / BLOCK_N > c.m", ("bounds",), "finish(c"),
    "one column of y too many": Plant("|| n >= N", "|| n > N", ("bounds", "race"), "finish(c"),
    "one column of y too few": Plant("|| n >= N", "|| n >= N - 1"),
    "rows beyond the weight that nobody clears": Plant(
        "if (of.n0 + BLOCK_N > PADDED_N)", "if (of.n0 + BLOCK_N > 2 * PADDED_N)", ("uninitialised",), "stage"
    ),
    "a chunk left out": Plant("* CHUNK_K >= PADDED_K", "* CHUNK_K >= PADDED_K - 2 * CHUNK_K"),
    # Shared memory.
    "x over the end of the codes": Plant(
        "k % 64 * 2; }", "k % 64 * 2 - 128; }", ("alignment", "uninitialised", "cp.async", "proxy"), "multiply"
    ),
    "scales over the end of x": Plant(
        "S_AT = X_AT + BLOCK_M * BLOCK_K * 2", "S_AT = X_AT + BLOCK_M * BLOCK_K * 2 - 16", ("race", "cp.async"),
        "cp_async"
    ),
    "zero points over the scales": Plant("Z_AT = S_AT + S_BYTES", "Z_AT = S_AT + S_BYTES - 128", ("race",
    "cp.async"), "cp_async_bulk"),
    "stages that overlap": Plant("1023) / 1024 * 1024;", "1023) / 1024 * 1024 - 1024;", ("race", "cp.async"),
    "cp_async"),
    "stages beyond the memory": Plant("1023) / 1024 * 1024;", "1023) / 1024 * 1024 + 1024;", ("bounds",), ""),
    # Registers.
    "sums that start anywhere": Plant("Sums acc = {};", "Sums acc;"),
    "a group's sums kept": Plant("!GROUPED || (k + tile * 16) % FLUSH_K != 0", "1", ("uninitialised",), "multiply"),
    "sums of two groups together": Plant("!GROUPED || (k + tile * 16) % FLUSH_K != 0",
    "!GROUPED || k + tile * 16 != 0"),
    "zero points that are not set": Plant("if (ZERO && k %", "if (!ZERO && k %"),
    # Order among blocks.
    "split-K added twice": Plant(
        "for (int s = 0; s < SPLITS; ++s) v +=", "for (int s = 0; s < 2 * SPLITS; ++s) v +=", ("bounds",
        "uninitialised", "race"), "parts[s"
    ),
    "split-K counted twice": Plant("+= parts[s * BLOCK_M * BLOCK_N + i];",
    "+= 2.f * parts[s * BLOCK_M * BLOCK_N + i];"),
    "a step that both blocks take": Plant("STEPS * split / SPLITS,", "STEPS * split / SPLITS - split,"),
    "a ticket that is not reset": Plant("if (t == 0) tickets[tile] = 0;", "", ("scratch",)),
    "whoever comes first finishes": Plant(
        "if (before != SPLITS - 1) return;", "if (before != 0) return;", ("race", "uninitialised"), "parts["
    ),
    # Arithmetic.
    "a dropped scale": Plant("scale[i][e / 2 % 2] * part", "part"),
    "a scale of the wrong row": Plant("scale[i][e / 2 % 2] * part", "scale[i][0] * part"),
    "a scale of another group": Plant("(stage + S_AT))[group_at(k)", "(stage + S_AT))[group_at(0)"),
    "a dropped zero point": Plant("Decoder::zero(stage[Z_AT + group_at(k) + own_row() + i * 64 + h * 8])",
    "Decoder::zero(0)"),
    "zero points of the wrong half": Plant("stage[Z_AT + group_at(k) + own_row() + i * 64 + h * 8]",
    "stage[Z_AT + group_at(k) + own_row() + i * 64]"),
    "zero points of another group": Plant("stage[Z_AT + group_at(k)", "stage[Z_AT + group_at(0)"),
    "the last group forgotten": Plant("  if (GROUPED) flush(acc, part, scale);\n  ptx::wgmma_wait<0>();",
    "  ptx::wgmma_wait<0>();"),
    "a dropped bias": Plant("a = a + bias;", ""),
    "rows and columns changed over": Plant("sums[row * BLOCK_N + n]", "sums[row * BLOCK_N + (n ^ 1)]"),
}  # fmt: skip
WHOLE_PLANTS = {
    "an element of K too many": Plant("min(K - k, 8) : 0", "min(K - k + 1, 8) : 0", ("bounds",), "from[e]"),
    "an element of K too many, copied": Plant(
        "min(K - k, 8) : 0", "min(K - k + 1, 8) : 0", ("bounds",), "cp_async_16(to, from", views=True
    ),
    "an element of K too few": Plant("min(K - k, 8) : 0", "min(K - k - 1, 8) : 0"),
    "an element of K too few, copied": Plant("min(K - k, 8) : 0", "min(K - k - 1, 8) : 0", views=True),
    "no zeros behind K": Plant(
        "e < left ? Operand<A>::bits(widen(from[e])) : (uint16_t)0", "Operand<A>::bits(widen(from[e]))", ("bounds",),
        "from[e]"
    ),
    "pieces of rows that are not aligned": Plant("% 16 == 0}", "% 8 == 0}", ("alignment",), "cp_async_16(to, from"),
    "no fence behind stores of x": Plant("ptx::fence_proxy_async();  // wgmma reads", "// wgmma reads", ("proxy",),
    "multiply"),
    "a dropped scale": Plant("if (!GROUPED) v *=", "if (GROUPED) v *="),
    "the bias of another code": Plant("BITS = 8, BIAS = 128", "BITS = 8, BIAS = 127"),
    "operands that are still multiplied": Plant("  ptx::wgmma_wait<1>();", "", ("wgmma",), "Decoder::tile"),
    "sums before the last product": Plant(
        "  ptx::wgmma_wait<0>();\n#pragma unroll\n  for (int i = 0; i < TILES_N; ++i) ptx::wgmma_hold(acc[i]);",
        "", ("wgmma",), "acc[i][e]"
    ),
    "sums that start anywhere": Plant("Sums acc = {};", "Sums acc;", ("uninitialised",), "multiply"),
    "one stage less": Plant("STAGES = 3, SPLITS", "STAGES = 2, SPLITS", ("deadlock", "cp.async", "race",
    "uninitialised"), ""),
}  # fmt: skip
FRAGMENTS = {
    "x, the next row": ("row * ROW_BYTES + (k", "(row + 1) % BLOCK_M * ROW_BYTES + (k", "brings"),
    "x, not permuted": ("(k % 64 / 8 ^ row % 8) * 16", "k % 64 / 8 * 16", "B["),
    "x, permuted by other rows": ("(k % 64 / 8 ^ row % 8) * 16", "(k % 64 / 8 ^ row / 2 % 8) * 16", "B["),
    "x, permuted over 64 bytes": ("(k % 64 / 8 ^ row % 8) * 16", "(k % 64 / 8 ^ row % 4) * 16", ""),
    "x, half a k further": ("k % 64 * 2; }", "(k % 64 ^ 8) * 2; }", "B["),
    "x, another tile": ("k % 64 * 2; }", "k % 64 * 0; }", ""),
    "w, registers in another order": (
        "ptx::wgmma_hold(a[tile][i]);", "const uint32_t o = a[tile][i][1]; a[tile][i][1] = a[tile][i][2], "
                                        "a[tile][i][2] = o;", "A[",
    ),
    "w, the next lane": ("(at * 32 + lane) * 16", "(at * 32 + (lane + 1) % 32) * 16", "A["),
    "w, another warp's rows": ("* 4 + warp % 4;\n    const uint4", "* 4 + (warp + 1) % 4;\n    const uint4", ""),
    "w, another tile": ("q + tile * Decoder::WORDS", "q", ""),
    "w, codes of another register": ("high(near), 0x2C002C00u", "high(far), 0x2C002C00u", "A["),
}  # fmt: skip
WRONG_TILE = {  # of the whole descriptor: what the machine, or a GPU, reads then is no tile
    "a tile that begins in the second row": ("wgmma_tile(stage + X_AT)", "wgmma_tile(stage + X_AT + 128)"),
    "a tile that begins at no piece": ("wgmma_tile(stage + X_AT)", "wgmma_tile(stage + X_AT + 8)"),
}


def source_of(text, schedule):
    recipe, spec = recipe_named("gemm.cuda.wgmma"), parse_spec(text).with_storage(TARGET.storage)
    default = recipe.space.default(spec.bind(M=ROWS), TARGET)
    return emit(recipe, spec, parse_schedule(schedule, recipe.schedule, default), TARGET), spec.bind(M=ROWS)


def planted(text, schedule, plant):
    """The source with the fault; what is replaced was there, and the fault is no other's."""
    source, spec = source_of(text, schedule)
    assert source.text.count(plant.old) == 1, f"{source.text.count(plant.old)} times: {plant.old}"
    return dataclasses.replace(source, text=source.text.replace(plant.old, plant.new)), spec


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


@pytest.mark.parametrize("name", one_in(18, SPLIT_PLANTS))
def test_a_plant_among_blocks_that_share_k_is_seen(name):
    assert_seen(*planted(SPLIT, SPLIT_SCHEDULE, SPLIT_PLANTS[name]), SPLIT_PLANTS[name])


@pytest.mark.parametrize("name", one_in(12, WHOLE_PLANTS))
def test_a_plant_at_the_tails_is_seen(name):
    assert_seen(*planted(WHOLE, WHOLE_SCHEDULE, WHOLE_PLANTS[name]), WHOLE_PLANTS[name])


@pytest.mark.parametrize("name", one_in(9, FRAGMENTS))
def test_a_wrong_fragment_is_named_where_it_is_multiplied(name):
    """By the probes; and its result is wrong, whatever the probes say."""
    old, new, text = FRAGMENTS[name]
    source, spec = planted(SPLIT, SPLIT_SCHEDULE, Plant(old, new))
    assert not run(source, spec, seed=1)[1].right
    if not text:  # whole tiles, or rows of whole warps, are taken for each other: the same place in another fragment
        return
    found = [f for f in probe_faults(source, spec, built=built_once(source.text, source.entry)) if f.kind == "fragment"]
    assert found
    assert all(text in fault.text and "multiply<BLOCK_M>(sums" in fault.line for fault in found)


@pytest.mark.parametrize("name", one_in(2, WRONG_TILE))
def test_a_descriptor_of_no_tile_is_reported(name):
    source, spec = planted(SPLIT, SPLIT_SCHEDULE, Plant(*WRONG_TILE[name]))
    assert any(f.kind == "alignment" and "wgmma" in f.line for f in run(source, spec, seed=1)[0])
