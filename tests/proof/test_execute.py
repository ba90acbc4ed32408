"""Every check of the machine that executes CUDA: what it must report, with the line, and what it must let pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from gridstone.ir.errors import BuildError, LaunchError
from gridstone.proof.execute import Buffer, Shape, execute
from gridstone.proof.program import _compiler, program
from tests.proof.cuda_kernels import built, launch, one_text


@dataclass(frozen=True)
class Case:
    """A body, how it is launched, and the fault that it must show: its kind, and pieces of the lines it names.

    No kind: nothing may be reported. `in` holds 0, 1, ..; `out` is poisoned scratch; `sum` and `flag` are zero.
    """

    body: str
    kind: str = ""
    line: str = ""
    other: str = ""
    text: str = ""
    grid: int = 1
    block: int = 64


FILL = "s[t] = t; __syncthreads();"
RACES = {
    "write_write": Case("if (t % 32 == 0) s[0] = t;", "race", "s[0] = t", "s[0] = t", "with nothing to order"),
    "write_once": Case("if (t == 32) s[0] = t;"),
    "read_write": Case(
        f"{FILL}\n s[t] = 1;\n out[t] = s[(t + 32) % 64];", "race", "out[t] = s", "s[t] = 1", "with nothing to order"
    ),
    "barrier_between": Case(
        f"{FILL} out[t] = s[63 - t]; __syncthreads(); s[t] = 1; __syncthreads(); out[t] = s[63 - t];"
    ),
    "lanes_of_a_warp": Case(f"{FILL}\n s[t] = 1;\n out[t] = s[t ^ 1];", "race", "out[t] = s[t ^ 1]", "s[t] = 1"),
    "lanes_with_syncwarp": Case(f"{FILL} s[t] = 1; __syncwarp(); out[t] = s[t ^ 1];"),
    "syncwarp_is_not_for_the_block": Case(
        f"{FILL}\n s[t] = 1; __syncwarp();\n out[t] = s[63 - t];", "race", "s[63 - t]", "s[t] = 1"
    ),
    "shuffle_orders_nothing": Case(
        f"{FILL}\n s[t] = __shfl_xor_sync(~0u, t, 1);\n out[t] = s[t ^ 1];", "race", "s[t ^ 1]", "__shfl_xor_sync"
    ),
    "barrier_for_too_few": Case(
        f"{FILL}\n s[t] = 1;\n ptx::bar_sync(1 + t / 32, 32);\n out[t] = s[63 - t];", "race", "s[63 - t]", "s[t] = 1"
    ),
    "barrier_for_enough": Case(f"{FILL} s[t] = 1; ptx::bar_sync(1, 64); out[t] = s[63 - t];"),
    "double_buffering": Case(
        "for (int i = 0; i < 5; ++i) { s[i % 2 * 64 + t] = i; __syncthreads(); out[t] = s[i % 2 * 64 + 63 - t]; }"
    ),
    "single_buffering": Case(
        "for (int i = 0; i < 5; ++i) {\n s[t] = i;\n __syncthreads();\n out[t] = s[63 - t]; }", "race", "= s", "s["
    ),
    "producer_consumer": Case(
        """
  for (int i = 0; i < 4; ++i) {  // barrier 1: filled, barrier 2: free
    if (t < 32) { if (i) ptx::bar_sync(2, 64); s[t] = i; ptx::bar_arrive(1, 64); }
    else { ptx::bar_sync(1, 64); out[t] = s[t - 32]; if (i < 3) ptx::bar_arrive(2, 64); }
  }"""
    ),
    "producer_goes_on_too_early": Case(
        """
  if (t < 32) {
    s[t] = 1; ptx::bar_arrive(1, 64);
    s[t] = 2;
  } else {
    ptx::bar_sync(1, 64);
    out[t] = s[t - 32];
  }""",
        "race",
        "s[t",
        "s[t",
    ),
    "atomics_among_themselves": Case("atomicAdd(sum, 1);", grid=3),
    "atomic_beside_a_read": Case("atomicAdd(sum, 1);\n out[t] = *sum;", "race", "", ""),
    "shared_atomics": Case("if (t == 0) s[0] = 0; __syncthreads(); atomicAdd(s, 1); __syncthreads(); out[t] = s[0];"),
}
PUBLISH = "if (blockIdx.x == 0) { if (t == 0) { sum[0] = 7;"
ELSE = " } } else if (t == 0) "  # in the other block
RAISE, SEEN = "*(volatile unsigned*)flag = 1;", "while (!*(volatile unsigned*)flag);"
RELEASE, ACQUIRE = "ptx::st_release(flag, 1);", "while (!ptx::ld_acquire(flag));"
BLOCKS = {
    "release_acquire": Case(PUBLISH + RELEASE + ELSE + "{" + ACQUIRE + "out[0] = sum[0]; }", grid=2),
    "no_release": Case(
        PUBLISH + RAISE + ELSE + "{" + ACQUIRE + "\n out[0] = sum[0]; }",
        "race",
        "out[0] = sum[0]",
        "sum[0] = 7",
        "of block 0",
        grid=2,
    ),
    "no_acquire": Case(
        PUBLISH + RELEASE + ELSE + "{" + SEEN + "\n out[0] = sum[0]; }",
        "race",
        "out[0] = sum[0]",
        "sum[0] = 7",
        grid=2,
    ),
    "fences": Case(
        f"{PUBLISH} __threadfence(); {RAISE} {ELSE} {{ {SEEN} __threadfence(); out[0] = sum[0]; }}",
        grid=2,
    ),
    "fences_of_a_block": Case(
        f"{PUBLISH} __threadfence_block(); {RAISE} {ELSE} {{ {SEEN} __threadfence_block();\n out[0] = sum[0]; }}",
        "race",
        "out[0] = sum[0]",
        "sum[0] = 7",
        grid=2,
    ),
    "ticket": Case(
        """
  __shared__ unsigned before;
  if (t == 0) sum[1 + blockIdx.x] = 1;
  __syncthreads();
  if (t == 0) before = ptx::atom_inc_acq_rel(flag);
  __syncthreads();
  if (before == gridDim.x - 1) out[t] = sum[1] + sum[2] + sum[3];""",
        grid=3,
    ),
    "relaxed_ticket": Case(
        """
  if (t == 0) {
    sum[1 + blockIdx.x] = 1;
    if (atomicAdd(flag, 1u) == gridDim.x - 1)
      out[0] = sum[1] + sum[2] + sum[3];
  }""",
        "race",
        "sum[1] + sum[2]",
        "sum[1 + blockIdx.x] = 1",
        grid=3,
    ),
    "thread_fence_reduction": Case(
        """
  __shared__ bool last;
  volatile int* parts = sum + 1;
  if (t == 0) {
    parts[blockIdx.x] = 1;
    __threadfence();
    last = atomicInc(flag, gridDim.x) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && t == 0) out[0] = parts[0] + parts[1] + parts[2];""",
        grid=3,
    ),
    "thread_fence_reduction_of_plain_values": Case(
        """
  if (t == 0) {
    sum[1 + blockIdx.x] = 1;
    __threadfence();
    if (atomicInc(flag, gridDim.x) == gridDim.x - 1) {
      __threadfence();
      out[0] = sum[1] + sum[2] + sum[3];
    }
  }""",
        grid=3,
    ),
    "lock": Case(
        """
  if (t == 0) {
    while (atomicCAS(flag, 0u, 1u) != 0) {}
    __threadfence();
    sum[0] += 1;
    __threadfence();
    atomicExch(flag, 0u);
  }""",
        grid=5,
    ),
    "lock_without_fences": Case(
        "if (t == 0) { while (atomicCAS(flag, 0u, 1u) != 0) {}\n sum[0] += 1;\n atomicExch(flag, 0u); }",
        "race",
        "sum[0] += 1",
        "sum[0] += 1",
        grid=5,
    ),
    "chain_of_blocks": Case(
        "if (t) return; while (ptx::ld_acquire(flag) != blockIdx.x) {} ptx::st_release(flag, blockIdx.x + 1);",
        grid=24,
    ),
}
BOUNDS = {
    "global_high": Case("out[t] = in[t + 1];", "bounds", "in[t + 1]", text="reads byte 256 of in, which has 256"),
    "global_low": Case("out[t] = in[t - 1];", "bounds", "in[t - 1]", text="reads byte -4 of in, which has 256"),
    "global_write": Case("out[t + 64] = 1;", "bounds", "out[t + 64]", text="of out, which has 256"),
    "far_away": Case("out[t] = in[1 << 20];", "bounds", "in[1 << 20]", text="outside every tensor"),
    "write_to_an_input": Case("((int*)in)[t] = 0;", "bounds", "((int*)in)[t]", text="writes to the input in"),
    "dynamic_shared": Case(
        "s[t + 193] = 0;", "bounds", "s[t + 193]", text="byte 1024 of dynamic shared memory, which has 1024"
    ),
    "static_shared_by_index": Case(
        "__shared__ int wall[8]; wall[t / 8] = 0;\n out[t] = wall[t / 7];",
        "bounds",
        "wall[t / 7]",
        text="takes element 8",
    ),
    "static_shared_by_pointer": Case(
        "__shared__ int left[64], right[64];\n int* l = left + t; int* r = right + t; *l = *r = 0; l[1] = 0;",
        "bounds",
        "l[1] = 0",
        text="byte 256 of",
    ),
    "local_array": Case(
        "int mine[4] = {t, t, t, t};\n out[t] = mine[t % 5];", "bounds", "mine[t % 5]", text="takes element 4"
    ),
    "misaligned_vector": Case("out[t] = ((const int4*)(in + 1))->x;", "alignment", "in + 1", text="4 modulo 16"),
    "aligned_vector": Case("out[t] = ((const int4*)(in + 4))->x;"),
    "misaligned_copy": Case("ptx::cp_async_16(s, in + 1, 16);", "alignment", "in + 1", text="multiple of it"),
    "misaligned_in_shared": Case("ptx::cp_async_16(s + 1, in, 16);", "alignment", "s + 1", text="multiple of 16"),
    "shared_expected": Case("ptx::cp_async_16(out, in, 16);", "bounds", "(out, in", text="for one of shared memory"),
    "no_coherent_cache": Case(
        "sum[t] = 1; __syncthreads();\n out[t] = __ldg(sum + 63 - t);", "race", "__ldg", "sum[t] = 1"
    ),
    "coherent_cache": Case("out[t] = __ldg(in + t);"),
}
VALUES = {
    "shared_unwritten": Case("out[t] = s[t];", "uninitialised", "out[t] = s[t]", text="that nobody has written"),
    "scratch_unwritten": Case("out[t] = out[t] + 1;", "uninitialised", "out[t] = out[t] + 1", text="global memory"),
    "stored_and_never_set": Case(
        "int v; if (t > 99) v = 1;\n out[t] = v;", "uninitialised", "out[t] = v", text="stores in out"
    ),
    "through_shared": Case(
        "int v; if (t > 99) v = 1;\n s[t] = v; __syncthreads();\n out[t] = s[63 - t];",
        "uninitialised",
        "= s[63 - t]",
        "s[t] = v",
    ),
    "accumulator": Case(
        "float d[4]; uint32_t a[4] = {}, b[2] = {};\n ptx::mma_m16n8k16_f16(d, a, b); out[t] = (int)d[0];",
        "uninitialised",
        "mma_m16n8k16_f16",
        text="an accumulator of mma_m16n8k16_f16",
    ),
    "operand": Case(
        "float d[4] = {}; uint32_t a[4], b[2] = {};\n ptx::mma_m16n8k16_bf16(d, a, b); out[t] = (int)d[0];",
        "uninitialised",
        "mma_m16n8k16_bf16",
        text="an element of A",
    ),
    "all_set": Case(
        "float d[4] = {}; uint32_t a[4] = {}, b[2] = {}; ptx::mma_m16n8k16_f16(d, a, b); out[t] = (int)d[0];"
    ),
    "lane_outside_the_mask": Case(
        "int v = 0; if (t % 32 < 16) v = __shfl_sync(0xFFFFu, t, 20);\n out[t] = v;", "uninitialised", "out[t] = v"
    ),
}
ASK = "ptx::cp_async_16(s + 4 * t, in + 4 * (t % 16), 16);"
COPIES = {
    "wait_missing": Case(
        f"{ASK}\n ptx::cp_async_commit();\n out[t] = s[4 * t];", "cp.async", "= s[4 * t]", "cp_async_16"
    ),
    "commit_missing": Case(
        f"{ASK}\n ptx::cp_async_wait<0>();\n out[t] = s[4 * t];", "cp.async", "= s[4 * t]", "cp_async_16"
    ),
    "never_waited_for": Case(
        f"{ASK}\n ptx::cp_async_commit(); out[t] = 0;", "cp.async", "cp_async_16", text="ended with"
    ),
    "written_over": Case(
        f"{ASK}\n s[4 * t] = 1;\n ptx::cp_async_commit(); ptx::cp_async_wait<0>();",
        "cp.async",
        "s[4 * t] = 1",
        "cp_async_16",
    ),
    "seen_by_others_without_a_barrier": Case(
        "s[t] = s[t + 64] = t; __syncthreads();\n"
        f" if (t < 32) {{ {ASK} ptx::cp_async_commit(); ptx::cp_async_wait<0>(); out[t] = s[4 * (31 - t)]; }}",
        "race",
        "s[4 * (31 - t)]",
        "cp_async_16",
    ),
    "waited_for": Case(
        f"if (t < 32) {{ {ASK} ptx::cp_async_commit(); ptx::cp_async_wait<0>(); }}\n"
        "__syncthreads(); out[t] = s[127 - t];"
    ),
    "too_many_bytes": Case("ptx::cp_async_16(s, in, 17);", "cp.async", "s, in, 17", text="17 of 16 bytes"),
}
WARPS = {
    "barrier_in_a_branch": Case(
        "if (t < 16)\n __syncthreads();\n out[t] = 0;", "divergence", "__syncthreads", text="only 16 of the 32"
    ),
    "barriers_in_both_branches": Case(
        "if (t < 32)\n __syncthreads();\n else\n __syncthreads( );",
        "divergence",
        "__syncthreads",
        "__syncthreads",
        "others wait at another",
    ),
    "whole_warps_may_end": Case("if (t >= 32) return; __syncthreads(); out[t] = 0;"),
    "named_barrier_for_half_a_warp": Case(
        "if (t % 32 < 16)\n ptx::bar_sync(1, 32);", "divergence", "bar_sync(1, 32)", text="only 16 of the 32"
    ),
    "mask_without_the_caller": Case(
        "out[t] = __ballot_sync(1u, 1);", "divergence", "__ballot_sync(1u", text="leaves itself out"
    ),
    "overlapping_masks": Case(
        "if (t % 32 < 16)\n __syncwarp(0xFFFFu);\n else\n __syncwarp(~0u);",
        "divergence",
        "__syncwarp",
        "__syncwarp",
        "another mask",
    ),
    "disjoint_masks": Case("out[t] = __reduce_add_sync(t % 32 < 16 ? 0xFFFFu : 0xFFFF0000u, (unsigned)t);"),
    "different_instructions": Case(
        "if (t % 32 < 16)\n out[t] = __shfl_sync(~0u, t, 0);\n else\n out[t] = __ballot_sync(~0u, 1);",
        "divergence",
        "_sync(~0u",
        "_sync(~0u",
    ),
    "one_mma_in_two_places": Case(
        """
  float d[4] = {}; uint32_t a[4] = {}, b[2] = {};
  if (t % 2)
    ptx::mma_m16n8k16_f16(d, a, b);
  else
    ptx::mma_m16n8k16_f16(d, a, b);
  out[t] = (int)d[0];""",
        "divergence",
        "mma_m16n8k16_f16",
        "mma_m16n8k16_f16",
        "in another place",
    ),
    "mma_after_lanes_ended": Case(
        "float d[4] = {}; uint32_t a[4] = {}, b[2] = {}; if (t % 32 == 31) return;\n ptx::mma_m16n8k16_f16(d, a, b);",
        "divergence",
        "mma_m16n8k16_f16",
        text="end",
    ),
    "shuffle_after_lanes_ended": Case("if (t % 32 == 31) return; out[t] = __shfl_xor_sync(~0u, t, 32);"),
    "width_of_a_shuffle": Case("out[t] = __shfl_sync(~0u, t, 0, 12);", "trap", "t, 0, 12", text="a power of two"),
    "trap": Case("if (t == 5)\n __trap();", "trap", "__trap()", text="thread (5,0,0) of block (0,0,0)"),
}
STUCK = {
    "barrier_that_others_pass_by": Case(
        "if (t < 32)\n ptx::bar_sync(1, 64);", "deadlock", "bar_sync(1, 64)", text="32 threads (first 0)"
    ),
    "two_barriers": Case(
        "if (t < 32)\n ptx::bar_sync(1, 64);\n else\n ptx::bar_sync(2, 64);",
        "deadlock",
        "bar_sync",
        text="a named barrier",
    ),
    "flag_that_nobody_sets": Case(
        "while (!ptx::ld_acquire(flag))\n __nanosleep(1);",
        "deadlock",
        "",
        text="a value that another thread must write",
        grid=2,
    ),
    "lane_that_never_comes": Case(
        "if (t % 32) __syncwarp();\n else\n ptx::bar_sync(1, 64);",
        "deadlock",
        "",
        text="31 threads (first 1)",
        block=32,
    ),
    "counts_that_differ": Case(
        "ptx::bar_sync(1, t < 32 ? 64 : 32);", "barrier", "bar_sync", text="where another expects"
    ),
    "barrier_zero": Case("ptx::bar_sync(0, 64);", "barrier", "bar_sync(0, 64)", text="1 to 15"),
}
CASES = RACES | BLOCKS | BOUNDS | VALUES | COPIES | WARPS | STUCK

TEXT = one_text(
    "const int* in, int* out, int* sum, unsigned* flag, int t",
    "in, out, sum, flag, t",
    {f"case_{name}": case.body for name, case in CASES.items()},
    "extern __shared__ __align__(16) int s[];",
).replace("unsigned* flag, int t, int64_t which) {", "unsigned* flag, int64_t which) {\n  const int t = threadIdx.x;")


def faults_of(name: str, seed: int):
    case = CASES[name]
    values = np.arange(64, dtype=np.int32)
    out = np.full(64, 0x7F7F7F7F, np.int32)
    total, flag = np.zeros(64, np.int32), np.zeros(1, np.uint32)
    arguments = (
        Buffer("in", values), Buffer("out", out, True, False), Buffer("sum", total, True), Buffer("flag", flag, True),
    )  # fmt: skip
    number = list(CASES).index(name)
    return launch(built(TEXT, "kernel"), *arguments, number, grid=case.grid, block=case.block, shared=1024, seed=seed)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind])
def test_a_fault_is_reported_with_its_line(name):
    case = CASES[name]
    for seed in (1, 2, 3):
        faults = faults_of(name, seed)
        found = [
            f
            for f in faults
            if f.kind == case.kind and case.line in f.line and case.other in f.other and case.text in f.text
        ]
        assert found, f"seed {seed}: " + "\n".join(map(str, faults))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.kind])
def test_a_correct_pattern_passes(name):
    for seed in range(6):
        assert not faults_of(name, seed), f"seed {seed}: " + "\n".join(map(str, faults_of(name, seed)))


def test_seeds_change_the_order_and_not_what_does_not_depend_on_it():
    """Who takes which ticket is the schedule's; the sum over all is not."""
    text = """
#include "ptx.cuh"
extern "C" __global__ void kernel(unsigned* ticket, unsigned* order, int* sum) {
  order[atomicAdd(ticket, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(sum, (int)threadIdx.x);
}
"""
    orders, sums = set(), set()
    for seed in range(4):
        ticket, order, total = np.zeros(1, np.uint32), np.zeros(96, np.uint32), np.zeros(1, np.int32)
        buffers = (Buffer("ticket", ticket, True), Buffer("order", order, True, False), Buffer("sum", total, True))
        assert not launch(built(text, "kernel"), *buffers, grid=3, seed=seed)
        assert sorted(order) == list(range(96))
        orders.add(order.tobytes())
        sums.add(int(total[0]))
    assert len(orders) == 4
    assert sums == {3 * 496}


def test_extents_and_places_are_those_of_the_launch():
    text = """
#include "ptx.cuh"
extern "C" __global__ void kernel(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = threadIdx.y << 16 | blockIdx.z << 8 | thread;
}
"""
    out = np.zeros(2 * 3 * 4 * 30, np.uint32)
    assert not launch(built(text, "kernel"), Buffer("out", out, True, False), grid=(2, 3, 4), block=(5, 2, 3))
    place = np.arange(out.size)
    thread, block = place % 30, place // 30
    assert (out == (thread // 5 % 2 << 16 | block // 6 << 8 | thread)).all()


def test_a_report_shows_the_line_and_its_callers():
    text = """
#include "ptx.cuh"
__device__ __forceinline__ void store(int* out, int at) {
  out[at] = 1;
}
extern "C" __global__ void kernel(int* out) {
  store(out, threadIdx.x);
}
"""
    (fault,) = launch(built(text, "kernel"), Buffer("out", np.zeros(8, np.int32), True, False), block=9)
    assert str(fault) == (
        "bounds: thread (8,0,0) of block (0,0,0) writes byte 32 of out, which has 32\n"
        "    at kernel.cu:4: out[at] = 1; <- kernel.cu:7: store(out, threadIdx.x);"
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape((1, 1, 1), (1025, 1, 1)), r"no GPU launches blocks of \(1025, 1, 1\) in a grid of \(1, 1, 1\)"),
        (Shape((1, 65536, 1), (32, 1, 1)), r"in a grid of \(1, 65536, 1\)"),
        (Shape((0, 1, 1), (32, 1, 1)), r"in a grid of \(0, 1, 1\)"),
        (Shape((1, 1, 1), (32, 1, 1), 232449), "232449 bytes of shared memory; a block has 232448 at most"),
    ],
)
def test_a_launch_that_no_gpu_takes_is_refused(shape, message):
    with pytest.raises(LaunchError, match=message):
        execute(built(TEXT, "kernel"), shape, ())


def test_views_are_passed_as_memory():
    with pytest.raises(LaunchError, match="x is not contiguous"):
        launch(built(TEXT, "kernel"), Buffer("x", np.zeros((4, 4))[:, 1:]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extern "C" __global__ void kernel(int* out) { out[0] = nothing; }', "nothing"),
        ("extern __shared__ int a[]; extern __shared__ int b[];", "dynamic shared memory has 2 names: a, b"),
    ],
)
def test_what_cannot_be_compiled_is_refused(text, message):
    with pytest.raises(BuildError, match=message):
        program(text, "kernel")


def test_another_compiler_is_refused(monkeypatch):
    monkeypatch.setattr("gridstone.proof.program._tool", lambda *command: "Debian clang version 14.0.6\n")
    _compiler.cache_clear()
    try:
        with pytest.raises(BuildError, match=r"Debian clang version 14.0.6.*set GRIDSTONE_CXX to g\+\+ 12 or later"):
            program("", "kernel")
    finally:
        _compiler.cache_clear()


def test_a_program_is_built_once(monkeypatch):
    """Also by other processes: it is in the kernel cache, under its text and the machine's."""
    first = program(TEXT, "kernel")
    monkeypatch.setattr("gridstone.proof.program._compile", lambda arguments: pytest.fail("compiled again"))
    assert program(TEXT, "kernel") == first


class TestSanitized:
    """The same kernels as a program under AddressSanitizer and UBSan, which see what the hooks do not."""

    TEXT = """
#include "ptx.cuh"
extern "C" __global__ void kernel(const int* in, int* out, int64_t which) {
  __shared__ int s[32];
  int mine[4] = {1, 2, 3, 4};
  int* at = mine;
  if (which == 1) at += threadIdx.x;
  s[threadIdx.x] = in[threadIdx.x] + at[which == 1 ? 1 : 0];
  __syncthreads();
  int v = s[31 - threadIdx.x];
  if (which == 2) v <<= threadIdx.x + 8;
  if (which == 3) __syncwarp(1u << (threadIdx.x + 1) % 32);
  out[threadIdx.x] = v;
}
"""

    def run(self, which, offset=0):
        values, out = np.arange(40, dtype=np.int32)[offset : offset + 32], np.zeros(32, np.int32)
        kernel = built(self.TEXT, "kernel", sanitized=True)
        return launch(kernel, Buffer("in", values), Buffer("out", out, True, False), which), out

    def test_a_right_kernel_passes_and_its_output_comes_back(self):
        faults, out = self.run(0, offset=3)
        assert not faults
        assert out.tolist() == [35 - i for i in range(32)]

    def test_a_local_array_is_guarded(self):
        (fault,), _ = self.run(1)
        assert fault.kind == "sanitizer"
        assert "AddressSanitizer: stack-" in fault.text
        assert "at[which == 1 ? 1 : 0]" in fault.line

    def test_undefined_behaviour_is_reported(self):
        (fault,), _ = self.run(2)
        assert "shift exponent" in fault.text
        assert "v <<= threadIdx.x + 8" in fault.line

    def test_the_machine_reports_as_ever(self):
        (fault,), _ = self.run(3)
        assert (fault.kind, "leaves itself out" in fault.text) == ("divergence", True)
        assert "__syncwarp" in fault.line
