"""Hopper's instructions against what the PTX ISA says of them: mbarriers, bulk copies, proxies, wgmma.

As in test_instructions.py positions are typed out here, after the figures of the PTX ISA; neither the emulator nor the
layout tables of `ir/fragment.py` nor a template is asked. `FAULTS` are programs that the ISA calls wrong.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import gridstone.templates
from gridstone.proof.execute import Buffer
from gridstone.proof.program import HOME
from tests.proof.cuda_kernels import built, launch, one_text

HEADER = (Path(gridstone.templates.__file__).parent / "lib/cuda/ptx.cuh").read_text()
TOKENS = (8, 16, 32, 64, 128)
TYPES = {"f16": torch.float16, "bf16": torch.bfloat16}

# ---- wgmma: where elements lie --------------------------------------------------------------------------------------

# in: A, 128 lanes of 4 words; sums, 128 lanes of N / 2 words; N rows of 128 bytes as they lie in shared memory; then
# the step of 32 bytes within a row, and whether to add to the sums.
WGMMA_BODY = """
  const int t = threadIdx.x;
  float d[N / 2];
  uint32_t a[4];
  for (int i = 0; i < 4; ++i) a[i] = in[4 * t + i];
  for (int i = 0; i < N / 2; ++i) d[i] = __uint_as_float(in[512 + N / 2 * t + i]);
  for (int i = t; i < 32 * N; i += 128) s[i] = in[512 + 64 * N + i];
  ptx::fence_proxy_async();
  __syncthreads();
  ptx::wgmma_fence();
  ptx::wgmma_m64k16_TYPE<N>(d, a, ptx::wgmma_tile(s + 8 * in[512 + 96 * N]), (int)in[513 + 96 * N]);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  for (int i = 0; i < N / 2; ++i) out[N / 2 * t + i] = __float_as_uint(d[i]);"""
KINDS = tuple(itertools.product(TYPES, TOKENS))
WGMMA_TEXT = one_text(
    "const uint32_t* in, uint32_t* out",
    "in, out",
    {f"{kind}_{n}": WGMMA_BODY.replace("TYPE", kind).replace("N", str(n)) for kind, n in KINDS},
    "extern __shared__ __align__(1024) uint32_t s[];",
)


def wgmma(kind, n, a, rows, *, sums=None, step=0, accumulate=0):
    """Multiply registers (128, 4) by the bytes of shared memory (n, 128); return the sums (128, n / 2)."""
    sums = np.full((128, n // 2), np.nan, np.float32) if sums is None else sums
    words = [a.astype(np.uint32).ravel(), sums.view(np.uint32).ravel(), rows.reshape(-1).view(np.uint32)]
    given = np.concatenate([*words, np.asarray([step, accumulate], np.uint32)])
    out = np.zeros(64 * n, np.uint32)
    buffers = Buffer("in", given), Buffer("out", out, True, False)
    faults = launch(built(WGMMA_TEXT, "kernel"), *buffers, KINDS.index((kind, n)), block=128, shared=128 * n)
    assert not faults, "\n".join(map(str, faults))
    return out.view(np.float32).reshape(128, n // 2)


ONE = {"f16": 0x3C00, "bf16": 0x3F80}
# A of m64k16 in registers: (thread of the warpgroup, register, half of it) of A[row][k].
A_PLACES = [
    ((0, 0, 0), (0, 0)), ((0, 0, 1), (0, 1)), ((0, 1, 0), (8, 0)), ((0, 2, 0), (0, 8)), ((0, 3, 1), (8, 9)),
    ((5, 1, 0), (9, 2)), ((31, 3, 1), (15, 15)), ((32, 0, 0), (16, 0)), ((38, 2, 1), (17, 13)),
    ((64, 1, 1), (40, 1)), ((93, 0, 1), (39, 3)), ((96, 0, 0), (48, 0)), ((127, 3, 1), (63, 15)),
]  # fmt: skip
# Bytes of B[k][token] in a tile of 64 k, permuted over 128 bytes: piece k / 8 of token r lies at piece k / 8 ^ r % 8.
B_PLACES = [
    ((0, 0), 0), ((9, 0), 18), ((0, 1), 144), ((8, 1), 128), ((11, 5), 710), ((63, 7), 910), ((17, 2), 258),
    ((31, 6), 862), ((32, 3), 496), ((47, 4), 542), ((48, 7), 912),
]  # fmt: skip
LATER_TOKENS = [
    ((40, 13), 1664),
    ((0, 8), 1024),
    ((55, 15), 1950),
    ((1, 26), 3362),
    ((16, 61), 7920),
    ((63, 127), 16270),
]
# Sums: (thread, register) of D[row][token].
D_PLACES = [
    ((0, 0), (0, 0)), ((0, 1), (0, 1)), ((0, 2), (8, 0)), ((3, 1), (0, 7)), ((5, 3), (9, 3)), ((38, 0), (17, 4)),
    ((127, 3), (63, 7)), ((99, 2), (56, 6)),
]  # fmt: skip
LATER_SUMS = [((0, 4), (0, 8)), ((70, 7), (41, 13)), ((1, 12), (0, 26)), ((34, 30), (24, 60)), ((127, 63), (63, 127))]


def row_of_a(thread, register):
    return 16 * (thread // 32) + thread % 32 // 4 + 8 * (register % 2)


def k_of_a(thread, register, half):
    return 2 * (thread % 4) + half + 8 * (register // 2)


def row_of_d(thread, register):
    return 16 * (thread // 32) + thread % 32 // 4 + 8 * (register // 2 % 2)


def token_of_d(thread, register):
    return 8 * (register // 4) + 2 * (thread % 4) + register % 2


def byte_of_b(k, token):
    return token // 8 * 1024 + token % 8 * 128 + (k // 8 ^ token % 8) * 16 + k % 8 * 2


def test_the_formulas_are_the_figures():
    """The formulas above are for all elements what the typed places are for some."""
    for (thread, register, half), (row, k) in A_PLACES:
        assert (row_of_a(thread, register), k_of_a(thread, register, half)) == (row, k)
    for (k, token), byte in B_PLACES + LATER_TOKENS:
        assert byte_of_b(k, token) == byte
    for (thread, register), (row, token) in D_PLACES + LATER_SUMS:
        assert (row_of_d(thread, register), token_of_d(thread, register)) == (row, token)


@pytest.mark.parametrize("kind", TYPES)
def test_places_of_a(kind):
    """A single one in A; every element of B's row k is 1 + token: row k of B comes out in A's row."""
    for (thread, register, half), (row, k) in A_PLACES:
        a = np.zeros((128, 4), np.uint32)
        a[thread, register] = ONE[kind] << 16 * half
        d = product_of_rows(kind, a, lambda kk, token, k=k: (1.0 + token) * (kk == k))
        found = {row_of_d(*np.unravel_index(i, d.shape)) for i in np.flatnonzero(d)}
        assert found == {row}
        assert sorted(d[d != 0]) == list(range(1, 9))


def product_of_rows(kind, a, value):
    """Multiply by eight tokens whose element k is value(k, token)."""
    rows = np.zeros((8, 64), np.uint16)
    for k, token in itertools.product(range(16), range(8)):
        rows.reshape(-1)[byte_of_b(k, token) // 2] = code_of(kind, value(k, token))
    return wgmma(kind, 8, a, rows)


def code_of(kind, value):
    return int(torch.tensor(value, dtype=TYPES[kind]).view(torch.int16)) & 0xFFFF


@pytest.mark.parametrize(("kind", "n"), KINDS)
def test_places_of_b_and_of_the_sums(kind, n):
    """A[0][k] is 1 + k in every row; a single one at a byte of B comes out as 1 + k % 16 in its token's column."""
    a = np.zeros((128, 4), np.uint32)
    for thread, register, half in itertools.product(range(128), range(4), range(2)):
        a[thread, register] |= code_of(kind, 1.0 + k_of_a(thread, register, half)) << 16 * half
    for (k, token), byte in B_PLACES + LATER_TOKENS:
        if token >= n:
            continue
        rows = np.zeros((n, 64), np.uint16)
        rows.reshape(-1)[byte // 2] = ONE[kind]
        d = wgmma(kind, n, a, rows, step=k // 16)
        found = {token_of_d(*np.unravel_index(i, d.shape)) for i in np.flatnonzero(d)}
        assert found == {token}, (k, token)
        assert (d[d != 0] == 1 + k % 16).all()
        assert np.count_nonzero(d) == 64
        assert not wgmma(kind, n, a, rows, step=(k // 16 + 1) % 4).any(), "other k of the row are another product's"


@pytest.mark.parametrize(("kind", "n"), KINDS)
def test_all_elements(kind, n):
    """Small integers, whose sums are exact; the four steps of a row one after the other, as a kernel takes them."""
    rng = np.random.default_rng(n)
    a, b = rng.integers(-8, 9, (64, 64)), rng.integers(-8, 9, (64, n))
    codes = {value: code_of(kind, float(value)) for value in range(-8, 9)}
    rows = np.zeros(n * 64, np.uint16)
    for k, token in itertools.product(range(64), range(n)):
        rows[byte_of_b(k, token) // 2] = codes[int(b[k, token])]
    sums = rng.integers(-9, 10, (128, n // 2)).astype(np.float32)
    want = a @ b
    expected = sums + np.asarray(
        [[want[row_of_d(t, r), token_of_d(t, r)] for r in range(n // 2)] for t in range(128)], np.float32
    )
    for step in range(4):
        words = np.zeros((128, 4), np.uint32)
        for t, r, half in itertools.product(range(128), range(4), range(2)):
            words[t, r] |= codes[int(a[row_of_a(t, r), 16 * step + k_of_a(t, r, half)])] << 16 * half
        sums = wgmma(kind, n, words, rows, sums=sums, step=step, accumulate=1)
    assert (sums == expected).all()


def test_without_accumulation_what_was_there_does_not_matter():
    """Also not when it is NaN, or was never set; and with it, it does."""
    a, rows = np.full((128, 4), 0x3C003C00, np.uint32), np.full((8, 64), 0x3C00, np.uint16)
    assert (wgmma("f16", 8, a, rows) == 16).all()
    assert (wgmma("f16", 8, a, rows, sums=np.full((128, 4), 5, np.float32), accumulate=7) == 21).all()
    assert np.isnan(wgmma("f16", 8, a, rows, accumulate=1)).all()


# ---- descriptors ----------------------------------------------------------------------------------------------------

# PTX ISA 9.7.15.5.1.2, matrix descriptor: bits 0..13 address / 16, 16..29 leading offset / 16 (unused where rows are
# permuted), 32..45 stride / 16, 49..51 base offset, 62..63 permutation: 1 for 128 bytes.
DESCRIPTORS = {
    0: 0x4000_0040_0001_0000,
    1024: 0x4000_0040_0001_0040,
    5216: 0x4000_0040_0001_0146,
    230400: 0x4000_0040_0001_3840,
}
REAL_TILE = re.search(r"PTX uint64_t wgmma_tile\(const void\* start\) \{\s*return (.*?);\s*\}", HEADER, re.DOTALL)
TILE_TEXT = """
#include "ptx.cuh"
extern __shared__ __align__(1024) char s[];
extern "C" __global__ void kernel(const int* at, uint64_t* out, uint64_t* real) {
  const char* start = s + at[threadIdx.x];
  out[threadIdx.x] = ptx::wgmma_tile(start);
  using ptx::shared_address;
  real[threadIdx.x] = EXPRESSION;
}
""".replace("EXPRESSION", REAL_TILE[1] if REAL_TILE else "0")


def test_a_descriptor_is_its_fields():
    """Of the stand-in, and of the expression in the header that a GPU's compiler is given."""
    out, real = np.zeros(len(DESCRIPTORS), np.uint64), np.zeros(len(DESCRIPTORS), np.uint64)
    at = np.asarray(list(DESCRIPTORS), np.int32)
    buffers = Buffer("at", at), Buffer("out", out, True, False), Buffer("real", real, True, False)
    assert not launch(built(TILE_TEXT, "kernel"), *buffers, block=len(DESCRIPTORS), shared=232448)
    assert [hex(v) for v in out] == [hex(v) for v in DESCRIPTORS.values()]
    assert (real == out).all()


@pytest.mark.parametrize(("kind", "n"), KINDS)
def test_the_header_names_registers_in_their_order(kind, n):
    """The text that a GPU's compiler is given: sums, A, descriptor, predicate, signs plus, B not transposed."""
    body = HEADER[HEADER.index(f"PTX void wgmma_m64k16_{kind}(") :]
    text = body[body.index(f"TOKENS == {n})") :]
    text = text[: text.index(";\n")]
    asm = "".join(re.findall(r'"([^"]*)"', text[: text.index('"+f"')]))
    half = n // 2
    registers = ", ".join(f"%{i}" for i in range(half))
    assert asm == (
        f"{{.reg .pred p; setp.ne.b32 p, %{half + 5}, 0; "
        f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{kind}.{kind} {{{registers}}}, "
        f"{{%{half}, %{half + 1}, %{half + 2}, %{half + 3}}}, %{half + 4}, p, 1, 1, 0;}}"
    )
    operands = re.findall(r'"(\+f|r|l)"\(([^()]*)\)', text)
    assert operands == [
        *(("+f", f"d[{i}]") for i in range(half)), *(("r", f"a[{i}]") for i in range(4)),
        ("l", "b"), ("r", "accumulate"),
    ]  # fmt: skip


# ---- mbarriers and bulk copies --------------------------------------------------------------------------------------

START = """
  __shared__ uint64_t bar[2];
  const int t = threadIdx.x;
  if (t == 0) ptx::mbarrier_init(&bar[0], FIRST), ptx::mbarrier_init(&bar[1], 1);
  ptx::fence_proxy_async();
  __syncthreads();"""
ARRIVE = "ptx::mbarrier_arrive_expect(&bar[0], 0);"
ASK = "ptx::cp_async_bulk(s, in, 64, &bar[0]);"
ASK_OTHER = "ptx::cp_async_bulk(s + 16, in + 16, 32, &bar[0]);"


@dataclass(frozen=True)
class Case:
    """A body behind `START`, and the fault that it must show: one of these kinds, and pieces of the lines it names.

    No kind: nothing may be reported. `in` holds 0, 1, ..; `out` is poisoned scratch of 128 words; `arrivals` are those
    of bar[0].
    """

    body: str
    kind: str = ""
    line: str = ""
    other: str = ""
    text: str = ""
    arrivals: int = 1
    out: dict[int, int] | None = None


PHASES = {
    # 9.7.13.15.12: a phase ends when all arrivals and all bytes have come; the next one has the other parity.
    "all_arrive": Case(f"s[t] = 5 * t; {ARRIVE} ptx::mbarrier_wait(&bar[0], 0); out[t] = s[127 - t];", arrivals=128,
                       out={0: 635, 127: 0}),
    "the_phase_before_has_ended": Case("ptx::mbarrier_wait(&bar[0], 1); out[t] = 1;", out={0: 1, 127: 1}),
    "phases_follow_each_other": Case(
        f"""for (int i = 0; i < 5; ++i) {{
          s[t] = i; {ARRIVE} ptx::mbarrier_wait(&bar[0], i % 2);
          out[t] = s[127 - t]; __syncthreads(); }}""", arrivals=128, out={3: 4}),
    "a_phase_s_count_comes_back": Case(
        f"if (t < 2) {{ {ARRIVE} }} ptx::mbarrier_wait(&bar[0], 0); __syncthreads();\n"
        f"if (t < 2) {{ {ARRIVE} }} ptx::mbarrier_wait(&bar[0], 1); out[t] = 1;", arrivals=2, out={5: 1}),
    "bytes_are_counted": Case(
        f"if (t == 0) {{ ptx::mbarrier_arrive_expect(&bar[0], 96); {ASK} {ASK_OTHER} }}"
        "ptx::mbarrier_wait(&bar[0], 0); if (t < 24) out[t] = s[t];", out={0: 0, 15: 15, 16: 16, 23: 23}),
    "bytes_come_in_two_parts": Case(
        f"if (t < 2) ptx::mbarrier_arrive_expect(&bar[0], t ? 16 : 80); if (t == 2) {{ {ASK} {ASK_OTHER} }}"
        "ptx::mbarrier_wait(&bar[0], 0); out[t] = s[t % 24];", arrivals=2, out={22: 22, 25: 1}),
    "copies_before_their_bytes_are_announced": Case(
        f"if (t == 0) {{ {ASK} ptx::mbarrier_arrive_expect(&bar[0], 64); }}"
        "ptx::mbarrier_wait(&bar[0], 0); out[t] = s[t % 16];", out={15: 15}),
    "a_copy_of_nothing": Case(
        "if (t == 0) { ptx::mbarrier_arrive_expect(&bar[0], 0); ptx::cp_async_bulk(s, in, 0, &bar[0]); }"
        "ptx::mbarrier_wait(&bar[0], 0); out[t] = 3;", out={9: 3}),
    "only_what_was_asked_for": Case(
        "s[t] = 900 + t; ptx::fence_proxy_async(); __syncthreads();"
        "if (t == 0) { ptx::mbarrier_arrive_expect(&bar[0], 16); ptx::cp_async_bulk(s + 4, in + 8, 16, &bar[0]); }"
        "ptx::mbarrier_wait(&bar[0], 0); out[t] = s[t];", out={3: 903, 4: 8, 7: 11, 8: 908}),
    "stages": Case(
        """for (int i = 0; i < 6; ++i) {  // two stages, one of them under way while the other is read
          if (i == 0 && t == 0) ptx::mbarrier_arrive_expect(&bar[0], 64), ptx::cp_async_bulk(s, in, 64, &bar[0]);
          ptx::mbarrier_wait(&bar[i % 2], i / 2 % 2);
          __syncthreads();
          if (t == 0 && i < 5) {
            ptx::mbarrier_arrive_expect(&bar[(i + 1) % 2], 64);
            ptx::cp_async_bulk(s + 16 * ((i + 1) % 2), in + 16 * (i + 1), 64, &bar[(i + 1) % 2]);
          }
          out[t] = s[16 * (i % 2) + t % 16]; }""", out={0: 80, 31: 95}),
}  # fmt: skip
MULTIPLY = "ptx::wgmma_m64k16_f16<8>(d, a, ptx::wgmma_tile(s), 1);"
DECLARE = "float d[4] = {}; uint32_t a[4] = {1, 1, 1, 1};"
FILLED = "for (int i = t; i < 256; i += 128) s[i] = 0; ptx::fence_proxy_async(); __syncthreads();"
ISSUE = "wgmma_m64k16_f16"
READY = f"{DECLARE} {FILLED} ptx::wgmma_fence();"
BEGUN = f"{MULTIPLY} ptx::wgmma_commit();"
END = "ptx::wgmma_wait<0>(); out[t] = (int)d[0];"
DONE = "ptx::wgmma_commit(); ptx::wgmma_wait<0>(); out[t] = (int)d[0];"


def of_tile(start):
    return f"ptx::wgmma_m64k16_f16<8>(d, a, ptx::wgmma_tile({start}), 1); {DONE}"


PRODUCTS = {
    "one": Case(f"{READY} {MULTIPLY} {DONE}"),
    "several_into_the_same_sums": Case(f"{READY} {MULTIPLY} {MULTIPLY} {MULTIPLY} {DONE}"),
    "sums_that_the_first_of_them_sets": Case(
        f"float d[4]; uint32_t a[4] = {{}}; {FILLED} ptx::wgmma_fence();"
        f"ptx::wgmma_m64k16_f16<8>(d, a, ptx::wgmma_tile(s), 0); {MULTIPLY} {DONE}"),
    "groups_are_waited_for_in_order": Case(
        f"float d[4] = {{}}, e[4] = {{}}; uint32_t a[4] = {{}}; {FILLED} ptx::wgmma_fence();"
        "ptx::wgmma_m64k16_f16<8>(d, a, ptx::wgmma_tile(s), 1); ptx::wgmma_commit();"
        "ptx::wgmma_m64k16_f16<8>(e, a, ptx::wgmma_tile(s), 1); ptx::wgmma_commit();"
        "ptx::wgmma_wait<1>(); out[t] = (int)d[0]; ptx::wgmma_wait<0>(); out[t] += (int)e[0];"),
    "operands_change_hands": Case(  # two halves of A: one is written while the other is multiplied
        f"""float d[4] = {{}}; uint32_t a[2][4]; {FILLED}
        for (int i = 0; i < 6; ++i) {{
          for (int e = 0; e < 4; ++e) a[i % 2][e] = 0x3C003C00u;
          ptx::wgmma_hold(a[i % 2]);
          ptx::wgmma_fence();
          ptx::wgmma_m64k16_f16<8>(d, a[i % 2], ptx::wgmma_tile(s), 1);
          ptx::wgmma_commit(); ptx::wgmma_wait<1>(); }}
        ptx::wgmma_wait<0>(); ptx::wgmma_hold(d); out[t] = (int)d[0];"""),
    "copied_by_cp_async": Case(
        f"{DECLARE} if (t < 64) ptx::cp_async_16(s + 4 * t, in + 4 * (t % 16), 16); ptx::cp_async_commit(); "
        "ptx::cp_async_wait<0>();"
        f"ptx::fence_proxy_async(); __syncthreads(); ptx::wgmma_fence(); {MULTIPLY} {DONE}"),
    "fenced_by_those_who_multiply": Case(
        f"{DECLARE} for (int i = t; i < 256; i += 128) s[i] = 0; __syncthreads(); ptx::fence_proxy_async(); "
        f"ptx::wgmma_fence(); {MULTIPLY} {DONE}"),
    "copied_in_bulk": Case(  # through the same proxy: no fence
        f"""{DECLARE} if (t == 0) {{
          ptx::mbarrier_arrive_expect(&bar[0], 1024);
          for (int i = 0; i < 4; ++i) ptx::cp_async_bulk(s + 64 * i, in, 256, &bar[0]); }}
        ptx::mbarrier_wait(&bar[0], 0); ptx::wgmma_fence(); {MULTIPLY} {DONE}"""),
    "written_again_behind_the_wait": Case(
        f"{DECLARE} {FILLED} for (int i = 0; i < 3; ++i) {{ ptx::wgmma_fence(); {BEGUN} ptx::wgmma_wait<0>();"
        "__syncthreads(); s[t] = i; s[t + 128] = i; ptx::fence_proxy_async(); __syncthreads(); } out[t] = (int)d[0];"),
}  # fmt: skip
FAULTS = {
    # mbarriers
    "read_before_the_phase": Case(
        f"if (t == 0) {{ ptx::mbarrier_arrive_expect(&bar[0], 64); {ASK} }} __syncthreads();\n out[t] = s[t % 16];",
        "cp.async", "out[t] = s", "cp_async_bulk", "before a bulk copy has been waited for"),
    "wait_for_the_wrong_parity": Case(
        f"if (t == 0) {{ ptx::mbarrier_arrive_expect(&bar[0], 64); {ASK} }}\n"
        "ptx::mbarrier_wait(&bar[0], 1);\n out[t] = s[t % 16];", "cp.async", "out[t] = s", "cp_async_bulk"),
    "the_one_that_asked_does_not_wait": Case(  # another one has; what is between the two orders nothing
        f"if (t == 0) {{ s[60] = 0; ptx::mbarrier_arrive_expect(&bar[0], 64);\n {ASK} }} __syncthreads();"
        "if (t == 32) { ptx::mbarrier_wait(&bar[0], 0); *(volatile int*)(s + 60) = 1; }"
        "if (t == 0) { while (*(volatile int*)(s + 60) != 1) {}\n out[0] = s[5]; }",
        "race", "out[0] = s[5]", "cp_async_bulk", "that a bulk copy writes"),
    "too_few_bytes_announced": Case(
        f"if (t == 0) {{ ptx::mbarrier_arrive_expect(&bar[0], 48); {ASK} }}\n ptx::mbarrier_wait(&bar[0], 0); "
        "out[t] = 0;",
        "barrier", "mbarrier_wait", "", "more bytes came"),
    "too_many_bytes_announced": Case(
        f"if (t == 0) {{ ptx::mbarrier_arrive_expect(&bar[0], 80); {ASK} }}\n ptx::mbarrier_wait(&bar[0], 0); "
        "out[t] = 0;",
        "deadlock", "mbarrier_wait", "", "bytes that an mbarrier was told of"),
    "nobody_arrives": Case(
        "ptx::mbarrier_wait(&bar[0], 0); out[t] = 0;", "deadlock", "mbarrier_wait", "", "128 threads (first 0)"),
    "one_arrival_too_few": Case(
        f"if (t) {{ {ARRIVE} }}\n ptx::mbarrier_wait(&bar[0], 0);", "deadlock", "mbarrier_wait(", "",
        "arrivals at an mbarrier",
        arrivals=128),
    "one_arrival_too_many": Case(
        "if (t < 2) { ptx::mbarrier_arrive_expect(&bar[0], 16); } ptx::mbarrier_wait(&bar[0], 0);",
        "barrier", "arrive_expect(&bar[0], 16)", "", "expects nobody more"),
    "no_mbarrier": Case("ptx::mbarrier_wait((uint64_t*)s, 0);", "barrier", "mbarrier_wait((", "",
        "what is no mbarrier"),
    "for_nobody": Case("if (t == 0)\n ptx::mbarrier_init(&bar[0], 0);", "barrier", "bar[0], 0", "", "for 0 arrivals"),
    "more_bytes_than_it_counts": Case(
        "if (t == 0)\n ptx::mbarrier_arrive_expect(&bar[0], 1 << 20);", "barrier", "1 << 20", "",
        "more than an mbarrier counts"),
    "never_waited_for": Case(
        f"if (t == 0) {{ ptx::mbarrier_arrive_expect(&bar[0], 64);\n {ASK} }} out[t] = 0;",
        "cp.async", "cp_async_bulk", "", "never waited for"),
    # bulk copies
    "size": Case("if (t == 0)\n ptx::cp_async_bulk(s, in, 24, &bar[0]);", "alignment", "in, 24", "",
        "24 bytes, not a multiple of 16"),
    "source": Case("if (t == 0)\n ptx::cp_async_bulk(s, in + 2, 16, &bar[0]);", "alignment", "in + 2", "",
        "multiple of 16"),
    "destination": Case("if (t == 0)\n ptx::cp_async_bulk(s + 2, in, 16, &bar[0]);", "alignment", "s + 2", "",
        "multiple of 16"),
    "beyond_the_source": Case(
        "if (t == 0)\n ptx::cp_async_bulk(s, in + 96, 144, &bar[0]);", "bounds", "in + 96", "",
        "byte 384 of in, which has 512"),
    "beyond_shared_memory": Case(
        "if (t == 0)\n ptx::cp_async_bulk(s + 508, in, 32, &bar[0]);", "bounds", "s + 508", "", "which has 2048"),
    "to_global_memory": Case("if (t == 0)\n ptx::cp_async_bulk(out, in, 16, &bar[0]);", "bounds", "(out, in", "",
        "for one of shared memory"),
    "over_what_is_read": Case(
        "s[t] = 1; ptx::fence_proxy_async(); __syncthreads();\n out[t] = s[t];\n if (t == 0)\n "
        "ptx::cp_async_bulk(s, in, 512, &bar[0]);",
        "race cp.async", "cp_async_bulk", "out[t] = s[t]"),
    "a_stage_too_early": Case(
        f"if (t == 0) {{ ptx::mbarrier_arrive_expect(&bar[0], 64); {ASK} }} ptx::mbarrier_wait(&bar[0], 0);\n "
        "out[t] = s[t % 16];\n"
        " if (t == 0) { ptx::mbarrier_arrive_expect(&bar[1], 64);\n ptx::cp_async_bulk(s, in, 64, &bar[1]); } "
        "ptx::mbarrier_wait(&bar[1], 0);",
        "race cp.async", "in, 64, &bar[1]", "out[t] = s[t % 16]"),
    # proxies
    "copied_over_without_a_fence": Case(
        f"s[t] = 7;\n __syncthreads();\n if (t == 0) {{ ptx::mbarrier_arrive_expect(&bar[0], 64);\n {ASK} }} "
        "ptx::mbarrier_wait(&bar[0], 0);",
        "proxy", "cp_async_bulk", "s[t] = 7", "copies over what thread"),
    "an_mbarrier_without_a_fence": Case(
        "__shared__ uint64_t late; if (t == 0) {\n ptx::mbarrier_init(&late, 1);\n "
        "ptx::mbarrier_arrive_expect(&late, 16);\n"
        " ptx::cp_async_bulk(s, in, 16, &late);\n ptx::mbarrier_wait(&late, 0); }",
        "proxy", "cp_async_bulk", "mbarrier_init", "made without a proxy fence"),
    "multiplied_without_a_fence": Case(
        f"{DECLARE} for (int i = t; i < 256; i += 128)\n s[i] = 0;\n __syncthreads(); ptx::wgmma_fence();\n "
        f"{MULTIPLY} {DONE}",
        "proxy", ISSUE, "s[i] = 0", "multiplies what thread"),
    "copied_by_cp_async_without_a_fence": Case(
        f"{DECLARE} if (t < 64)\n ptx::cp_async_16(s + 4 * t, in, 16);\n ptx::cp_async_commit(); "
        "ptx::cp_async_wait<0>();"
        f"__syncthreads(); ptx::wgmma_fence();\n {MULTIPLY} {DONE}", "proxy", ISSUE, "cp_async_16"),
    "a_fence_before_the_copy_has_come": Case(
        f"{DECLARE} if (t < 64)\n ptx::cp_async_16(s + 4 * t, in, 16);\n ptx::cp_async_commit(); "
        "ptx::fence_proxy_async();"
        f"ptx::cp_async_wait<0>(); __syncthreads(); ptx::wgmma_fence();\n {MULTIPLY} {DONE}",
        "proxy", ISSUE, "cp_async_16"),
    "a_fence_of_some_behind_the_barrier": Case(
        f"{DECLARE} for (int i = t; i < 256; i += 128)\n s[i] = 0;\n __syncthreads(); if (t < 64) "
        "ptx::fence_proxy_async();"
        f"ptx::wgmma_fence();\n {MULTIPLY} {DONE}", "proxy", ISSUE, "s[i] = 0"),
    "a_fence_of_others": Case(
        f"{DECLARE} for (int i = t; i < 256; i += 128)\n s[i] = 0;\n if (t) ptx::fence_proxy_async();\n "
        "__syncthreads();"
        f"ptx::wgmma_fence();\n {MULTIPLY} {DONE}", "proxy", ISSUE, "s[i] = 0", "what thread 0 wrote"),
    # wgmma: order
    "no_fence_at_all": Case(f"{DECLARE} {FILLED}\n {MULTIPLY} {DONE}", "wgmma", ISSUE, "", "without a wgmma.fence"),
    "sums_set_behind_the_fence": Case(
        f"{READY}\n d[2] = 3.f;\n {MULTIPLY} {DONE}",
        "wgmma", ISSUE, "d[2] = 3.f", "since its last wgmma.fence"),
    "operands_set_behind_the_fence": Case(
        f"{READY}\n a[3] = in[t];\n {MULTIPLY} {DONE}",
        "wgmma", ISSUE, "a[3] = in[t]", "since its last wgmma.fence"),
    "a_fence_for_one_warp": Case(
        f"{DECLARE} {FILLED} if (t < 32) ptx::wgmma_fence();\n {MULTIPLY} {DONE}", "wgmma", ISSUE, "",
        "without a wgmma.fence"),
    "sums_read_before_the_wait": Case(
        f"{READY}\n {BEGUN}\n out[t] = (int)d[1];\n ptx::wgmma_wait<0>();",
        "wgmma", "out[t] = (int)d[1]", ISSUE, "reads the sums of a product that it has not waited for"),
    "sums_read_with_a_group_under_way": Case(
        f"{READY}\n {BEGUN} ptx::wgmma_wait<1>();\n out[t] = (int)d[1];\n"
        "ptx::wgmma_wait<0>();", "wgmma", "out[t] = (int)d[1]", ISSUE, "not waited for"),
    "sums_of_no_group": Case(
        f"{READY}\n {MULTIPLY} ptx::wgmma_wait<0>();\n out[t] = (int)d[1];\n ptx::wgmma_commit();"
        "ptx::wgmma_wait<0>();", "wgmma", "out[t] = (int)d[1]", ISSUE, "not waited for"),
    "sums_written_before_the_wait": Case(
        f"{READY}\n {BEGUN}\n d[1] = 0.f;\n ptx::wgmma_wait<0>(); out[t] = (int)d[1];",
        "wgmma", "d[1] = 0.f", ISSUE, "writes the sums"),
    "operands_written_before_the_wait": Case(
        f"{READY}\n {BEGUN}\n a[2] = in[t];\n ptx::wgmma_wait<0>(); out[t] = (int)d[1];",
        "wgmma", "a[2] = in[t]", ISSUE, "writes an operand"),
    "sums_as_operands": Case(
        f"{READY}\n {MULTIPLY}\n"
        f" {{ float e[4] = {{}}; ptx::wgmma_fence();\n"
        f" ptx::wgmma_m64k16_bf16<8>(e, *(uint32_t(*)[4])&d, ptx::wgmma_tile(s), 1); {DONE} }}",
        "wgmma", "wgmma_m64k16_bf16", ISSUE, "in another role"),
    "shared_memory_written_before_the_wait": Case(
        f"{READY}\n {BEGUN} __syncthreads();\n s[t] = 1;\n ptx::wgmma_wait<0>(); out[t] = (int)d[0];",
        "race", "s[t] = 1", ISSUE, "that a product under way reads"),
    "shared_memory_copied_over_before_the_wait": Case(
        f"{READY}\n {BEGUN}\n __syncthreads(); if (t < 64)\n ptx::cp_async_16(s + 4 * t, in, 16);\n"
        "ptx::cp_async_commit(); ptx::cp_async_wait<0>(); ptx::wgmma_wait<0>(); out[t] = (int)d[0];",
        "race", "cp_async_16", ISSUE, "that a product under way reads"),
    "shared_memory_of_the_group_under_way": Case(
        f"{READY}\n {BEGUN} ptx::wgmma_wait<1>();\n __syncthreads();\n s[t] = 1;\n"
        " ptx::wgmma_wait<0>(); out[t] = (int)d[0];", "race", "s[t] = 1", ISSUE),
    "never_waited_for_product": Case(
        f"{READY}\n {BEGUN} out[t] = 0;", "wgmma", ISSUE, "", "never waited for"),
    "never_committed": Case(
        f"{READY}\n {MULTIPLY} ptx::wgmma_wait<0>(); out[t] = 0;", "wgmma", ISSUE, "", "never waited for"),
    # wgmma: operands
    "unset_sums": Case(
        f"float d[4]; uint32_t a[4] = {{}}; {FILLED} ptx::wgmma_fence();\n {MULTIPLY} {DONE}",
        "uninitialised", ISSUE, "", "an accumulator of"),
    "unset_operands": Case(
        f"float d[4] = {{}}; uint32_t a[4]; {FILLED} ptx::wgmma_fence();\n {MULTIPLY} {DONE}",
        "uninitialised", ISSUE, "", "an element of A"),
    "unwritten_tile": Case(f"{DECLARE} ptx::wgmma_fence();\n {MULTIPLY} {DONE}", "uninitialised", ISSUE, "",
        "nobody has written"),
    "tile_without_a_barrier": Case(
        f"{DECLARE} for (int i = t; i < 256; i += 128)\n s[i] = 0;\n ptx::fence_proxy_async(); "
        f"ptx::wgmma_fence();\n {MULTIPLY} {DONE}",
        "race", ISSUE, "s[i] = 0"),
    "misaligned_tile": Case(f"{READY}\n {of_tile('s + 2')}",
                            "alignment", "s + 2", "", "not a multiple of 16"),
    "tile_from_the_second_row": Case(f"{READY}\n {of_tile('s + 32')}",
                                     "alignment", "s + 32", "", "a multiple of 1024"),
    "tile_beyond_shared_memory": Case(f"{READY}\n {of_tile('s + 512')}",
                                      "bounds", "s + 512", "", "which has 2048"),
    "another_permutation": Case(
        f"{READY}\n ptx::wgmma_m64k16_f16<8>(d, a, ptx::wgmma_tile(s) ^ (uint64_t)3 << 62, 1); {DONE}",
        "wgmma", "3 << 62", "", "not permuted over 128 bytes"),
    "two_tiles": Case(f"{READY}\n {of_tile('s + t / 32 * 8')}",
                      "divergence", "t / 32 * 8", "", "another tile than its warpgroup"),
    "half_a_warpgroup": Case(f"{READY} if (t < 64)\n {MULTIPLY} {DONE}", "divergence", "", "",
        "while its warpgroup is in"),
}  # fmt: skip
CASES = PHASES | PRODUCTS | FAULTS
TEXT = one_text(
    "const int* in, int* out",
    "in, out",
    {f"case_{name}": START.replace("FIRST", str(case.arrivals)) + "\n" + case.body for name, case in CASES.items()},
    "extern __shared__ __align__(1024) int s[];",
)


def run(name, seed):
    values, out = np.arange(128, dtype=np.int32), np.full(128, 0x7F7F7F7F, np.int32)
    buffers = Buffer("in", values), Buffer("out", out, True, False)
    return launch(built(TEXT, "kernel"), *buffers, list(CASES).index(name), block=128, shared=2048, seed=seed), out


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.kind])
def test_what_the_isa_allows_passes(name):
    for seed in range(4):
        faults, out = run(name, seed)
        assert not faults, f"seed {seed}: " + "\n".join(map(str, faults))
        for at, value in (CASES[name].out or {}).items():
            assert out[at] == value, f"seed {seed}: out[{at}]"


def shows(fault, case):
    """Either of two accesses that nothing orders may come first."""
    places = [(fault.line, fault.other), (fault.other, fault.line)][: 2 if " " in case.kind else 1]
    there = any(case.line in line and case.other in other for line, other in places)
    return fault.kind in case.kind.split() and case.text in fault.text and there


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind])
def test_a_fault_is_reported_with_its_line(name):
    case = CASES[name]
    for seed in (1, 2, 3):
        faults, _ = run(name, seed)
        assert any(shows(fault, case) for fault in faults), f"seed {seed}: " + "\n".join(map(str, faults))


# ---- the header -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("mbarrier_init", "mbarrier.init.shared.b64 [%0], %1;"),
        ("fence_proxy_async", "fence.proxy.async.shared::cta;"),
        ("mbarrier_arrive_expect", "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;"),
        ("mbarrier_wait", "mbarrier.try_wait.parity.shared.b64 p, [%0], %1; @p bra DONE_%=; bra WAIT_%=;"),
        ("cp_async_bulk", "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"),
        ("wgmma_fence", "wgmma.fence.sync.aligned;"),
        ("wgmma_commit", "wgmma.commit_group.sync.aligned;"),
        ("wgmma_wait", "wgmma.wait_group.sync.aligned %0;"),
    ],
)
def test_a_function_of_the_header_is_its_instruction(name, instruction):
    """What the stand-in of a name does is tested above; that the name stands for this instruction, here."""
    found = re.search(rf"^.*PTX \w+ {name}\(", HEADER, re.MULTILINE)
    assert found is not None
    start = found.start()
    assert instruction in HEADER[start : HEADER.index(";\n", HEADER.index("asm volatile", start))] + ";"
    assert re.search(rf"\b{name}\(", (HOME / "ptx.cuh").read_text())
