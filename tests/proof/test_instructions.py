"""Every emulated instruction against what the PTX ISA and the CUDA programming guide say of it.

Positions of elements are typed out here for chosen lanes, after the figures of the PTX ISA: neither the emulator nor
the layout tables of `ir/fragment.py` are asked. `TestFragments` then holds these tables against the emulator for all
lanes.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import gridstone.templates
from gridstone.ir.dtype import bf16, f16
from gridstone.ir.fragment import fragment
from gridstone.proof.execute import Buffer
from gridstone.proof.program import HOME
from tests.proof.cuda_kernels import built, launch, one_text

ALL_HALVES = np.arange(65536, dtype=np.uint32)


def run(text, given, size, *, block=32, number=0, shared=0, seed=0, dtype=np.uint32):
    """Execute `kernel(const uint32_t* in, uint32_t* out, int64_t which)` and return `out`; nothing may be reported."""
    out = np.full(size, 0x5A5A5A5A, np.uint32)
    values = np.ascontiguousarray(given).reshape(-1).view(np.uint32)
    faults = launch(
        built(text, "kernel"), Buffer("in", values), Buffer("out", out, True, False), number,
        block=block, shared=shared, seed=seed,
    )  # fmt: skip
    assert not faults, "\n".join(map(str, faults))
    return out.view(dtype)


# ---- one thread at a time -----------------------------------------------------------------------------------------

ELEMENTWISE = {
    "or_masked": "ptx::lop3<0xEA>(a, b, c)",
    "xor3": "ptx::lop3<0x96>(a, b, c)",
    "majority": "ptx::lop3<0xE8>(a, b, c)",
    "only_c_and_not_a": "ptx::lop3<0x0A>(a, b, c)",
    "prmt": "ptx::prmt(a, b, c)",
    "byte_perm": "__byte_perm(a, b, c)",
    "fma_f16x2": "ptx::fma_f16x2(a, b, c)",
    "fma_bf16x2": "ptx::fma_bf16x2(a, b, c)",
    "sub_f16x2": "ptx::sub_f16x2(a, b)",
    "mul_f16x2": "ptx::mul_f16x2(a, b)",
    "cvt_f16x2": "ptx::cvt_f16x2(__uint_as_float(a), __uint_as_float(b))",
    "cvt_bf16x2": "ptx::cvt_bf16x2(__uint_as_float(a), __uint_as_float(b))",
    "cvt_f32_f16": "__float_as_uint(ptx::cvt_f32_f16((uint16_t)a))",
    "cvt_f32_bf16": "__float_as_uint(ptx::cvt_f32_bf16((uint16_t)a))",
    "cvt_f16_f32": "ptx::cvt_f16_f32(__uint_as_float(a))",
    "cvt_bf16_f32": "ptx::cvt_bf16_f32(__uint_as_float(a))",
    "popc": "(uint32_t)__popc(a)",
    "clz": "(uint32_t)__clz((int)a)",
    "ffs": "(uint32_t)__ffs((int)a)",
    "half_add": "__half_as_ushort(__hadd(__ushort_as_half((unsigned short)a), __ushort_as_half((unsigned short)b)))",
    "half_fma": "__half_as_ushort(__hfma(__ushort_as_half((unsigned short)a), __ushort_as_half((unsigned short)b), "
    "__ushort_as_half((unsigned short)c)))",
    "bfloat_fma": "__bfloat16_as_ushort(__hfma(__ushort_as_bfloat16((unsigned short)a), "
    "__ushort_as_bfloat16((unsigned short)b), __ushort_as_bfloat16((unsigned short)c)))",
    "half_of_float": "__half_as_ushort(__float2half(__uint_as_float(a)))",
    "bfloat_of_float": "__bfloat16_as_ushort(__float2bfloat16(__uint_as_float(a)))",
}
ELEMENTWISE_TEXT = one_text(
    "const uint32_t* in, uint32_t* out",
    "in, out",
    {
        name: f"for (int i = threadIdx.x; i < 8192; i += 32) {{\n"
        f"  const uint32_t a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2]; (void)b; (void)c;\n"
        f"  out[i] = {code};\n}}"
        for name, code in ELEMENTWISE.items()
    },
    "#include <cuda_fp16.h>\n#include <cuda_bf16.h>",
)


def elementwise(name, a, b=0, c=0):
    """One result for each of a; b and c are broadcast."""
    a, b, c = np.broadcast_arrays(np.asarray(a, np.uint32), np.asarray(b, np.uint32), np.asarray(c, np.uint32))
    results = []
    for start in range(0, a.size, 8192):
        part = np.zeros((8192, 3), np.uint32)
        count = len(a[start : start + 8192])
        part[:count] = np.stack([a, b, c], 1)[start : start + 8192]
        results.append(run(ELEMENTWISE_TEXT, part, 8192, number=list(ELEMENTWISE).index(name))[:count])
    return np.concatenate(results)


def bits(values):
    return np.asarray(values, np.float32).view(np.uint32)


def test_lop3_is_its_table():
    """LUT 0xEA is (a & b) | c: the value on a = 0xF0, b = 0xCC, c = 0xAA."""
    rng = np.random.default_rng(1)
    a, b, c = rng.integers(0, 1 << 32, (3, 64), np.uint32)
    assert (elementwise("or_masked", a, b, c) == ((a & b) | c)).all()
    assert (elementwise("xor3", a, b, c) == (a ^ b ^ c)).all()
    assert (elementwise("majority", a, b, c) == ((a & b) | (b & c) | (a & c))).all()
    assert (elementwise("only_c_and_not_a", a, b, c) == (~a & c)).all()


def test_prmt_takes_bytes_of_both_words():
    """Bytes 0 to 3 are a's, 4 to 7 b's; bit 3 of a selector's nibble repeats the byte's sign instead."""
    a, b = 0x83828100 | 0x10, 0x77F66554
    cases = {
        0x3210: a, 0x7654: b, 0x0000: 0x10101010, 0x4140: 0x54815410, 0x4342: 0x54835482, 0x7650: 0x77F66510,
        0x7651: 0x77F66581, 0xFEDC: 0x00FF0000, 0xBA98: 0xFFFFFF00, 0x6543: 0xF6655483,
    }  # fmt: skip
    got = elementwise("prmt", [a] * len(cases), b, list(cases))
    assert [f"{v:08x}" for v in got] == [f"{v:08x}" for v in cases.values()]
    got = elementwise("byte_perm", [a] * 3, b, [0x7650, 0xFEDC, 0x9ABC])
    assert [f"{v:08x}" for v in got] == [f"{v:08x}" for v in (0x77F66510, b, 0x81828354)]


def test_bit_counts():
    assert elementwise("popc", [0, 1, 0xFFFFFFFF, 0xF0F00000]).tolist() == [0, 1, 32, 8]
    assert elementwise("clz", [0, 1, 0x80000000, 0x00012345]).tolist() == [32, 31, 0, 15]
    assert elementwise("ffs", [0, 1, 0x80000000, 0x00012340]).tolist() == [0, 1, 32, 7]


@pytest.mark.parametrize(("name", "dtype"), [("cvt_f32_f16", torch.float16), ("cvt_f32_bf16", torch.bfloat16)])
def test_widening_every_half(name, dtype):
    want = torch.from_numpy(ALL_HALVES.astype(np.int16)).view(dtype).float().numpy()
    got = elementwise(name, ALL_HALVES).view(np.float32)
    assert (np.isnan(got) == np.isnan(want)).all()
    assert (got.view(np.uint32) == want.view(np.uint32))[~np.isnan(want)].all()


def floats_around(dtype):
    """Every half, its neighbours among floats, the ties between halves and theirs, and random bit patterns."""
    halves = torch.from_numpy(ALL_HALVES.astype(np.int16)).view(dtype).float().numpy()
    ordered = np.sort(halves[np.isfinite(halves)])[::7]
    ties = (ordered[1:].astype(np.float64) + ordered[:-1].astype(np.float64)) / 2
    centres = np.concatenate([ordered, ties.astype(np.float32)])
    around = np.concatenate(
        [centres, np.nextafter(centres, np.float32(np.inf)), np.nextafter(centres, -np.float32(np.inf))]
    )
    drawn = np.random.default_rng(2).integers(0, 1 << 32, 4096, np.uint32).view(np.float32)
    limits = bits([0.0, -0.0, 65504, 65519.996, 65520, 65536, 3.4e38, np.inf, -np.inf, 2**-24, 2**-25, 2**-149]).view(
        np.float32
    )
    return np.concatenate([around, drawn, limits, np.nextafter(limits, np.float32(0))]).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cvt_f16_f32", torch.float16), ("cvt_bf16_f32", torch.bfloat16),
        ("half_of_float", torch.float16), ("bfloat_of_float", torch.bfloat16),
    ],
)  # fmt: skip
def test_rounding_to_a_half(name, dtype):
    """To nearest, ties to even; beyond the largest to infinity; subnormals kept; NaN to 0x7FFF (PTX ISA, cvt)."""
    values = floats_around(dtype)
    want = torch.from_numpy(values).to(dtype).view(torch.int16).numpy().view(np.uint16).astype(np.uint32)
    want[np.isnan(values)] = 0x7FFF
    got = elementwise(name, bits(values))
    assert (got == want).all(), values[got != want][:5]


def test_a_pair_is_rounded_low_half_first():
    a, b = bits([1.0, -2.0, 65520.0, np.nan]), bits([-0.0, 2.0**-24, 1.0 + 2.0**-11, -np.inf])
    assert [f"{v:08x}" for v in elementwise("cvt_f16x2", a, b)] == ["80003c00", "0001c000", "3c007c00", "fc007fff"]
    assert [f"{v:08x}" for v in elementwise("cvt_bf16x2", a, b)] == ["80003f80", "3380c000", "3f804780", "ff807fff"]


def exactly_rounded(value: Fraction, dtype):
    """The nearest of a format's values as bits, ties to even, from the definition of the format."""
    mantissa, least, largest = (10, -14, 65504) if dtype is f16 else (7, -126, Fraction(255 * 2**120))
    magnitude = abs(value)
    exponent = least
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - mantissa)
    count, rest = divmod(magnitude, unit)
    count += rest * 2 > unit or (rest * 2 == unit and count % 2)
    infinity = 0x7C00 if dtype is f16 else 0x7F80
    code = infinity if count * unit > largest else int(count) + ((exponent - least) << mantissa)
    return code | (0x8000 if value < 0 else 0)


def value_of(code, dtype):
    kind = torch.float16 if dtype is f16 else torch.bfloat16
    return Fraction(float(torch.tensor(code, dtype=torch.int32).to(torch.int16).view(kind)))


def finite_triples(dtype, count):
    """Random bit patterns, and sums in which the product is a tie that a far smaller addend decides."""
    rng = np.random.default_rng(3)
    exponent = 0x7C00 if dtype is f16 else 0x7F80
    drawn = rng.integers(0, 65536, (count, 3), np.uint32)
    near = rng.integers(0x3000, 0x4800, (count, 3), np.uint32) | rng.integers(0, 2, (count, 3), np.uint32) << 15
    one, tie = (0x3C00, 0x3C01) if dtype is f16 else (0x3F80, 0x3F81)
    half_step = 0x3800 if dtype is f16 else 0x3F00
    hard = [(tie, tie, tiny | sign) for tiny in (1, 2, 0x0100, half_step) for sign in (0, 0x8000)] + [
        (one, tie | 0x8000, one),
        (one, one, one | 0x8000),
        (1, 1, 0),
        (1, 0x8001, 0x8000),
        (exponent - 1, exponent - 1, 0),
    ]
    if dtype is bf16:
        # 1.5 * (1 + 2^-7) = 1.51171875, midway between two neighbours; what is far below decides.
        hard += [(0x3FC0, 0x3F81, 0x0080), (0x3FC0, 0x3F81, 0x8080), (0x3FC0, 0x3F81, 0x0001), (0x3FC0, 0x3F81, 0)]
    triples = np.concatenate([drawn, near, np.asarray(hard, np.uint32)])
    return triples[((triples & exponent) != exponent).all(1)]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fma_f16x2", f16), ("fma_bf16x2", bf16), ("half_fma", f16), ("bfloat_fma", bf16)],
)
def test_a_fused_multiply_add_rounds_once(name, dtype):
    triples = finite_triples(dtype, 600)
    want = [
        exactly_rounded(value_of(a, dtype) * value_of(b, dtype) + value_of(c, dtype), dtype)
        for a, b, c in triples.tolist()
    ]
    got = elementwise(name, *triples.T) & 0xFFFF
    wrong = [
        i for i, (g, w) in enumerate(zip(got.tolist(), want, strict=True)) if g != w and not (g == 0x8000 and w == 0)
    ]
    assert not wrong, [tuple(f"{v:04x}" for v in (*triples[i], got[i], want[i])) for i in wrong[:5]]


def test_the_halves_of_a_pair_do_not_meet():
    """2 * 3 + 1 in the low half, -1 * 0.5 - 0.25 in the high one."""
    assert elementwise("fma_f16x2", [0xBC004000], 0x38004200, 0xB4003C00).tolist() == [0xBA004700]
    assert elementwise("fma_bf16x2", [0xBF804000], 0x3F004040, 0xBE803F80).tolist() == [0xBF4040E0]
    assert elementwise("sub_f16x2", [0x3C004000], 0x40003C00).tolist() == [0xBC003C00]
    assert elementwise("mul_f16x2", [0xBC004000], 0x38004200).tolist() == [0xB8004600]


@pytest.mark.parametrize("name", ["fma_f16x2", "sub_f16x2", "mul_f16x2", "half_add"])
def test_infinities_nan_and_zeros_of_f16(name):
    """Every pair of special values against float64, which has all of them; PTX gives 0x7FFF for NaN."""
    special = [0, 0x8000, 1, 0x8001, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]
    pairs = np.asarray(list(itertools.product(special, special)), np.uint32)
    a, b = (torch.from_numpy(column.astype(np.int16)).view(torch.float16).double() for column in pairs.T)
    wide = {"fma_f16x2": a * b + b, "sub_f16x2": a - b, "mul_f16x2": a * b, "half_add": a + b}[name]
    want = wide.to(torch.float16).view(torch.int16).numpy().view(np.uint16).astype(np.uint32)
    want[torch.isnan(wide).numpy()] = 0x7FFF
    assert ((elementwise(name, pairs[:, 0], pairs[:, 1], pairs[:, 1]) & 0xFFFF) == want).all()


def test_an_ordinary_source_with_half_types_runs():
    text = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void kernel(const half2* x, half2* y, __nv_bfloat16* z, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const half2 v = __hfma2(x[i], __half2half2(__float2half(2.f)), __floats2half2_rn(1.f, -1.f));
  y[i] = __hadd2(v, __hmul2(v, v));
  const float2 wide = __half22float2(v);
  z[i] = __float2bfloat16(wide.x + wide.y) * __nv_bfloat16(0.5f);
}
"""
    x = np.arange(96, dtype=np.float16) / 8
    y, z = np.zeros(96, np.float16), np.zeros(48, np.uint16)
    buffers = Buffer("x", x), Buffer("y", y, True, False), Buffer("z", z, True, False)
    assert not launch(built(text, "kernel"), *buffers, 48, grid=2)
    v = x * np.float16(2) + np.tile(np.asarray([1, -1], np.float16), 48)
    assert (y == v + v * v).all()
    assert (
        torch.from_numpy(z.astype(np.int16)).view(torch.bfloat16)
        == torch.from_numpy(x[::2] * 2 + x[1::2] * 2).bfloat16() * 0.5
    ).all()


# ---- lanes of a warp ----------------------------------------------------------------------------------------------

WARP = {
    "idx": "__shfl_sync(~0u, v, 5)",
    "idx_beyond": "__shfl_sync(~0u, v, 37)",
    "idx_8": "__shfl_sync(~0u, v, 3, 8)",
    "up": "__shfl_up_sync(~0u, v, 3)",
    "up_8": "__shfl_up_sync(~0u, v, 3, 8)",
    "down": "__shfl_down_sync(~0u, v, 3)",
    "down_8": "__shfl_down_sync(~0u, v, 3, 8)",
    "xor": "__shfl_xor_sync(~0u, v, 9)",
    "xor_8": "__shfl_xor_sync(~0u, v, 9, 8)",
    "ballot": "__ballot_sync(~0u, v % 3 == 0)",
    "ballot_of_some": "lane < 12 ? __ballot_sync(0xFFFu, v % 3 == 0) : 7u",
    "any": "(uint32_t)__any_sync(~0u, v == 31) * 2 + (uint32_t)__any_sync(~0u, v == 32)",
    "all": "(uint32_t)__all_sync(~0u, v < 32) * 2 + (uint32_t)__all_sync(~0u, v < 31)",
    "add": "__reduce_add_sync(~0u, v)",
    "min": "lane < 4 ? 9u : __reduce_min_sync(0xFFFFFFF0u, v)",
    "signed_min": "(uint32_t)__reduce_min_sync(~0u, (int)v - 16)",
    "signed_max": "(uint32_t)__reduce_max_sync(~0u, (int)v - 40)",
    "max": "__reduce_max_sync(~0u, v - 16)",
    "and": "__reduce_and_sync(~0u, v | 0x30)",
    "or": "__reduce_or_sync(~0u, v)",
    "xor_bits": "__reduce_xor_sync(~0u, v + 1)",
    "wide": "(uint32_t)(__shfl_xor_sync(~0u, (unsigned long long)v << 40, 1) >> 40)",
    "float": "__float_as_uint(__shfl_down_sync(~0u, (float)v, 16))",
}
WARP_TEXT = one_text(
    "const uint32_t* in, uint32_t* out, uint32_t lane",
    "in, out, lane",
    {f"warp_{name}": f"const uint32_t v = in[lane]; out[lane] = {code};" for name, code in WARP.items()},
).replace("uint32_t lane, int64_t which) {", "int64_t which) {\n  const uint32_t lane = threadIdx.x;")
LANES = np.arange(32, dtype=np.uint32)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("idx", [5] * 32),
        ("idx_beyond", [5] * 32),
        ("idx_8", [3] * 8 + [11] * 8 + [19] * 8 + [27] * 8),
        ("up", [0, 1, 2, *range(29)]),
        ("up_8", [
            0, 1, 2, 0, 1, 2, 3, 4, 8, 9, 10, 8, 9, 10, 11, 12,
            16, 17, 18, 16, 17, 18, 19, 20, 24, 25, 26, 24, 25, 26, 27, 28,
        ]),
        ("down", [*range(3, 32), 29, 30, 31]),
        ("down_8", [
            3, 4, 5, 6, 7, 5, 6, 7, 11, 12, 13, 14, 15, 13, 14, 15,
            19, 20, 21, 22, 23, 21, 22, 23, 27, 28, 29, 30, 31, 29, 30, 31,
        ]),
        ("xor", [
            9, 8, 11, 10, 13, 12, 15, 14, 1, 0, 3, 2, 5, 4, 7, 6,
            25, 24, 27, 26, 29, 28, 31, 30, 17, 16, 19, 18, 21, 20, 23, 22,
        ]),
        # Later groups of eight are out of reach, earlier ones are not.
        ("xor_8", [
            0, 1, 2, 3, 4, 5, 6, 7, 1, 0, 3, 2, 5, 4, 7, 6,
            16, 17, 18, 19, 20, 21, 22, 23, 17, 16, 19, 18, 21, 20, 23, 22,
        ]),
        ("ballot", [0x49249249] * 32),
        ("ballot_of_some", [0x249] * 12 + [7] * 20),
        ("any", [2] * 32),
        ("all", [2] * 32),
        ("add", [496] * 32),
        ("min", [9] * 4 + [4] * 28),
        ("signed_min", [0xFFFFFFF0] * 32),
        ("signed_max", [0xFFFFFFF7] * 32),
        ("max", [0xFFFFFFFF] * 32),
        ("and", [0x30] * 32),
        ("or", [31] * 32),
        ("xor_bits", [32] * 32),
        ("wide", [lane ^ 1 for lane in range(32)]),
        ("float", bits([*range(16, 32), *range(16, 32)]).tolist()),
    ],
)  # fmt: skip
def test_lanes_exchange(name, want):
    for seed in (0, 1):
        assert run(WARP_TEXT, LANES, 32, number=list(WARP).index(name), seed=seed).tolist() == want


# ---- matrices -----------------------------------------------------------------------------------------------------

MMA_NAMES = {"f16": "mma_m16n8k16_f16", "bf16": "mma_m16n8k16_bf16", "s8": "mma_m16n8k32_s8", "b1": "mma_m16n8k256_b1"}
SUMS = {
    "f16": ("float", np.float32),
    "bf16": ("float", np.float32),
    "s8": ("int32_t", np.int32),
    "b1": ("int32_t", np.int32),
}
MMA_TEXT = one_text(
    "const uint32_t* in, uint32_t* out",
    "in, out",
    {
        name: """
  const int lane = threadIdx.x;
  uint32_t a[4], b[2];
  SUM d[4];
  for (int i = 0; i < 4; ++i) a[i] = in[lane * 10 + i], memcpy(d + i, in + lane * 10 + 6 + i, 4);
  for (int i = 0; i < 2; ++i) b[i] = in[lane * 10 + 4 + i];
  ptx::NAME(d, a, b);
  memcpy(out + lane * 4, d, 16);""".replace("SUM", SUMS[name][0]).replace("NAME", MMA_NAMES[name])
        for name in MMA_NAMES
    },
)


def mma(name, a, b, d=None):
    """Registers of all lanes: a (32, 4), b (32, 2), d (32, 4) as words; returns d."""
    d = np.zeros((32, 4), np.uint32) if d is None else d
    words = np.concatenate([a, b, d], 1).astype(np.uint32)
    return run(MMA_TEXT, words, 128, number=list(MMA_NAMES).index(name), dtype=SUMS[name][1]).reshape(32, 4)


ONE = {"f16": 0x3C00, "bf16": 0x3F80, "s8": 1, "b1": 1}
WIDTH = {"f16": 16, "bf16": 16, "s8": 8, "b1": 1}
# (lane, register, element in the register) of A[row][k] and of B[k][column], (lane, register) of D[row][column].
HALF_POSITIONS = [
    ((0, 0, 0), (0, 0, 0), (0, 0)),  #      A[0][0]    B[0][0]   D[0][0]
    ((5, 1, 0), (5, 0, 0), (4, 3)),  #      A[9][2]    B[2][1]   D[9][1]
    ((5, 2, 1), (25, 1, 1), (7, 0)),  #     A[1][11]   B[11][6]  D[1][6]
    ((30, 2, 1), (14, 1, 1), (29, 1)),  #   A[7][13]   B[13][3]  D[7][3]
    ((16, 3, 0), (20, 1, 0), (18, 3)),  #   A[12][8]   B[8][5]   D[12][5]
    ((11, 0, 1), (11, 0, 1), (9, 0)),  #    A[2][7]    B[7][2]   D[2][2]
    ((31, 3, 1), (31, 1, 1), (31, 3)),  #   A[15][15]  B[15][7]  D[15][7]
]
POSITIONS = {
    "f16": HALF_POSITIONS,
    "bf16": HALF_POSITIONS,
    "s8": [
        ((0, 0, 0), (0, 0, 0), (0, 0)),  #    A[0][0]    B[0][0]   D[0][0]
        ((5, 1, 3), (5, 0, 3), (4, 3)),  #    A[9][7]    B[7][1]   D[9][1]
        ((12, 2, 2), (24, 1, 2), (15, 0)),  # A[3][18]   B[18][6]  D[3][6]
        ((31, 3, 3), (31, 1, 3), (31, 3)),  # A[15][31]  B[31][7]  D[15][7]
    ],
    "b1": [
        ((0, 0, 0), (0, 0, 0), (0, 0)),  #     A[0][0]     B[0][0]    D[0][0]
        ((5, 1, 5), (5, 0, 5), (4, 3)),  #     A[9][37]    B[37][1]   D[9][1]
        ((9, 2, 31), (17, 1, 31), (10, 0)),  # A[2][191]   B[191][4]  D[2][4]
        ((31, 3, 31), (31, 1, 31), (31, 3)),  # A[15][255] B[255][7]  D[15][7]
    ],
}


@pytest.mark.parametrize("name", MMA_NAMES)
def test_mma_positions(name):
    """A single one in A and in B meet in a single element of D, and anywhere else in none."""
    for (a_lane, a_register, a_element), (b_lane, b_register, b_element), (d_lane, d_register) in POSITIONS[name]:
        a, b = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
        a[a_lane, a_register] = ONE[name] << WIDTH[name] * a_element
        b[b_lane, b_register] = ONE[name] << WIDTH[name] * b_element
        d = mma(name, a, b)
        assert d[d_lane, d_register] == 1
        assert np.count_nonzero(d) == 1


def test_mma_adds_to_what_was_there():
    d = np.arange(128, dtype=np.float32).reshape(32, 4)
    assert (mma("f16", np.full((32, 4), 0x3C003C00), np.full((32, 2), 0x40004000), d.view(np.uint32)) == d + 32).all()
    words = np.full((32, 4), -3, np.int32).view(np.uint32)
    assert (mma("s8", np.full((32, 4), 0x80808080), np.full((32, 2), 0x7F7F7F7F), words) == -128 * 127 * 32 - 3).all()
    assert (mma("b1", np.full((32, 4), 0xFFFF0000), np.full((32, 2), 0x0FF00FF0), words) == 4 * 8 * 2 - 3).all()


def test_mma_of_special_values():
    a, b = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    a[0, 0], b[0, 0] = 0x7C00, 0x0000  # infinity times zero
    assert np.isnan(mma("f16", a, b)[0, 0])
    a[0, 0], b[0, 0] = 0x0001, 0x3C00  # the smallest subnormal is kept
    assert mma("f16", a, b)[0, 0] == 2.0**-24
    a[0, 0], b[0, 0] = 0x7B80, 0x7B80  # 61440 squared is far beyond f16, not beyond the sums
    assert mma("f16", a, b)[0, 0] == 61440.0**2


class TestFragments:
    """`ir/fragment.py` says of every lane what the emulator does with it."""

    def pack(self, name, matrix):
        """Registers of all lanes that hold a (rows, columns) matrix of element codes."""
        kind = fragment(name)
        per_word = 32 // kind.bits
        words = np.zeros((32, kind.values // per_word), np.uint32)
        for lane in range(32):
            for value in range(kind.values):
                row, column = kind.element(lane, value)
                words[lane, value // per_word] |= np.uint32(int(matrix[row, column]) << kind.bits * (value % per_word))
        return words

    def unpack(self, d):
        kind = fragment("mma.m16n8k16.d")
        out = np.zeros((16, 8), d.dtype)
        for lane in range(32):
            for value in range(4):
                out[kind.element(lane, value)] = d[lane, value]
        return out

    @pytest.mark.parametrize(("name", "k"), [("f16", 16), ("bf16", 16), ("s8", 32), ("b1", 256)])
    def test_a_product_is_the_product(self, name, k):
        rng = np.random.default_rng(k)
        low, high = (0, 2) if name == "b1" else (-8, 9)
        a, b = rng.integers(low, high, (16, k)), rng.integers(low, high, (8, k))
        if name in ("s8", "b1"):
            a_codes, b_codes = a & 0xFF, b & 0xFF
        else:
            kind = torch.float16 if name == "f16" else torch.bfloat16
            a_codes, b_codes = (torch.from_numpy(m).to(kind).view(torch.int16).numpy().view(np.uint16) for m in (a, b))
        got = mma(name, self.pack(f"mma.m16n8k{k}.a", a_codes), self.pack(f"mma.m16n8k{k}.b", b_codes))
        assert (self.unpack(got) == a @ b.T).all()


LDMATRIX = {
    "x2": (2, "ldmatrix_x2"),
    "x4": (4, "ldmatrix_x4"),
    "x4_trans": (4, "ldmatrix_x4_trans"),
}
LDMATRIX_TEXT = one_text(
    "const uint32_t* in, uint32_t* out",
    "in, out",
    {
        name: f"""
  __shared__ __align__(16) uint16_t s[4][8][8];  // the rows of matrix x lie at s[x], last row first
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) s[i / 64][7 - i / 8 % 8][i % 8] = (uint16_t)(i / 64 * 100 + i % 64);
  __syncwarp();
  uint32_t r[{count}];
  ptx::{function}(r, lane < {8 * count} ? &s[lane / 8][7 - lane % 8][0] : (const uint16_t*)in);
  for (int i = 0; i < {count}; ++i) out[lane * 4 + i] = r[i];
  for (int i = {count}; i < 4; ++i) out[lane * 4 + i] = 0;"""
        for name, (count, function) in LDMATRIX.items()
    },
)


@pytest.mark.parametrize("name", LDMATRIX)
def test_ldmatrix_positions(name):
    """Element [row][column] of matrix x is 100 x + 8 row + column. Lanes that bring no row bring any address."""
    count = LDMATRIX[name][0]
    words = run(LDMATRIX_TEXT, np.zeros(64, np.uint32), 128, number=list(LDMATRIX).index(name)).reshape(32, 4)
    got = [[[int(word) & 0xFFFF, int(word) >> 16] for word in words[lane, :count]] for lane in (0, 5, 18, 31)]
    if name.endswith("trans"):  # lane 5 takes [2][1] and [3][1]
        want = [[[x, 8 + x], [17 + x, 25 + x], [36 + x, 44 + x], [55 + x, 63 + x]] for x in (0, 100, 200, 300)]
    else:  # lane 5 takes [1][2] and [1][3]
        want = [[[x, 1 + x], [10 + x, 11 + x], [36 + x, 37 + x], [62 + x, 63 + x]] for x in (0, 100, 200, 300)]
    assert got == [[want[x][at] for x in range(count)] for at in range(4)]


# ---- copies, loads, barriers --------------------------------------------------------------------------------------

COPIES = {
    "sixteen": "ptx::cp_async_16(to, from, (int)(t % 17));",
    "first": "ptx::cp_async_16_first(to, from, (int)(t % 17), ptx::evict_first());",
    "eight": "for (int i = 0; i < 4; i += 2) ptx::cp_async_small<8>(to + i, from + i, i ? (int)(t % 9) : 8);",
    "four": "for (int i = 0; i < 4; ++i) ptx::cp_async_small<4>(to + i, from + i, i ? (int)(t % 5) : 4);",
    "load_once": "*(uint4*)to = ptx::ld_global_once(from);",
}
COPIES_TEXT = one_text(
    "const uint32_t* in, uint32_t* out, uint32_t t",
    "in, out, t",
    {
        f"copy_{name}": f"""
  uint32_t* to = s + 4 * t;
  const uint32_t* from = in + 4 * t;
  {code}
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  for (int i = 0; i < 4; ++i) out[4 * t + i] = to[i];"""
        for name, code in COPIES.items()
    },
    "extern __shared__ __align__(16) uint32_t s[];",
).replace("uint32_t t, int64_t which) {", "int64_t which) {\n  const uint32_t t = threadIdx.x;")


@pytest.mark.parametrize(
    ("name", "size", "whole"),
    [("sixteen", 16, 0), ("first", 16, 0), ("eight", 8, 1), ("four", 4, 1), ("load_once", 0, 1)],
)
def test_copies_fill_up_with_zeros(name, size, whole):
    """Bytes beyond `valid` are zeros; the first piece of a row is copied whole where there are several."""
    given = np.random.default_rng(5).integers(1, 256, (32, 16), np.uint8)
    want = given.copy()
    for t, piece in itertools.product(range(32), range(whole, 16 // size if size else 0)):
        want[t, piece * size + t % (size + 1) : (piece + 1) * size] = 0
    got = run(COPIES_TEXT, given, 128, number=list(COPIES).index(name), shared=512)
    assert (got.view(np.uint8).reshape(32, 16) == want).all()


GROUPS_TEXT = one_text(
    "const uint32_t* in, uint32_t* out",
    "in, out",
    {
        f"read_{read}_of_3_after_waiting_for_all_but_{pending}": f"""
  __shared__ __align__(16) uint32_t s[4][4];
  for (int i = 0; i < 3; ++i) {{
    ptx::cp_async_16(s[i], in + 4 * i, 16);
    ptx::cp_async_commit();
  }}
  ptx::cp_async_wait<{pending}>();
  out[0] = s[{read}][1];
  ptx::cp_async_wait<0>();"""
        for pending in range(4)
        for read in range(3)
    },
)


@pytest.mark.parametrize(("pending", "read"), list(itertools.product(range(4), range(3))))
def test_a_group_has_come_when_it_is_waited_for(pending, read):
    """wait_group N leaves the N groups that were committed last under way; what they bring is not there."""
    given, out = np.arange(16, dtype=np.uint32), np.zeros(1, np.uint32)
    buffers = Buffer("in", given), Buffer("out", out, True, False)
    faults = launch(built(GROUPS_TEXT, "kernel"), *buffers, pending * 3 + read, block=1)
    if read < 3 - pending:
        assert not faults
        assert out[0] == 4 * read + 1
    else:
        assert [(fault.kind, f"s[{read}][1]" in fault.line) for fault in faults] == [("cp.async", True)]


BARRIERS = {
    "count": ("(uint32_t)__syncthreads_count(t % 3 == 0)", [32] * 96),
    "and": ("(uint32_t)(__syncthreads_and(t < 96) != 0) * 2 + (__syncthreads_and(t < 95) != 0)", [2] * 96),
    "or": ("(uint32_t)(__syncthreads_or(t == 95) != 0) * 2 + (__syncthreads_or(t == 96) != 0)", [2] * 96),
    "twice": ("(uint32_t)__syncthreads_count(t < 7) * 100 + __syncthreads_count(t < 9)", [709] * 96),
}
BARRIERS_TEXT = one_text(
    "const uint32_t* in, uint32_t* out, uint32_t t",
    "in, out, t",
    {f"barrier_{name}": f"out[t] = {code};" for name, (code, _) in BARRIERS.items()},
).replace("uint32_t t, int64_t which) {", "int64_t which) {\n  const uint32_t t = threadIdx.x;")


@pytest.mark.parametrize("name", BARRIERS)
def test_barriers_that_count(name):
    for seed in (0, 1):
        got = run(BARRIERS_TEXT, LANES, 96, block=96, number=list(BARRIERS).index(name), seed=seed)
        assert got.tolist() == BARRIERS[name][1]


ATOMICS = {
    "atomicAdd": ("atomicAdd(at, t + 1u)", 5, 5 + 528),
    "atomicSub": ("atomicSub(at, t)", 1000, 1000 - 496),
    "atomicMax": ("atomicMax(at, t * 3u)", 7, 93),
    "signed_max": ("(uint32_t)atomicMax((int*)at, (int)t - 40)", 0xFFFFFF00, 0xFFFFFFF7),
    "atomicMin": ("atomicMin(at, 40u - t)", 50, 9),
    "signed_min": ("(uint32_t)atomicMin((int*)at, (int)t - 40)", 3, 0xFFFFFFD8),
    "atomicOr": ("atomicOr(at, 1u << t % 8)", 0x100, 0x1FF),
    "atomicAnd": ("atomicAnd(at, ~(1u << t % 8))", 0xFFFF, 0xFF00),
    "atomicXor": ("atomicXor(at, t)", 0xF0, 0xF0),
    "atomicInc": ("atomicInc(at, 9u)", 0, 32 % 10),
    "atomicDec": ("atomicDec(at, 9u)", 0, (0 - 32) % 10),
    "atomicExch": ("atomicExch(at, 77u)", 3, 77),
    "atomicCAS": ("atomicCAS(at, 3u, 50u + t % 1)", 3, 50),
    "add_float": ("__float_as_uint(atomicAdd((float*)at, 0.5f))", 0x3F800000, 0x41880000),
    "inc_acq_rel": ("ptx::atom_inc_acq_rel(at)", 4, 36),
    "red_add_f32": ("(ptx::red_add_f32((float*)at, 0.5f), 0u)", 0x3F800000, 0x41880000),
}
ATOMICS_TEXT = one_text(
    "uint32_t* at, uint32_t* out, uint32_t t",
    "at, out, t",
    {f"do_{name}": f"out[t] = {code};" for name, (code, _, _) in ATOMICS.items()},
).replace("uint32_t t, int64_t which) {", "int64_t which) {\n  const uint32_t t = threadIdx.x;")


@pytest.mark.parametrize("name", ATOMICS)
def test_atomics_change_the_word_and_return_what_was_there(name):
    _, start, end = ATOMICS[name]
    word, out = np.asarray([start], np.uint32), np.zeros(32, np.uint32)
    assert not launch(
        built(ATOMICS_TEXT, "kernel"),
        Buffer("at", word, True),
        Buffer("out", out, True, False),
        list(ATOMICS).index(name),
    )
    assert word[0] == end
    if name in ("atomicAdd", "inc_acq_rel"):  # everybody found another value
        assert len(set(out.tolist())) == 32
    if name in ("atomicExch", "atomicCAS"):
        assert sorted(set(out.tolist())) == sorted({start, end})
        assert out.tolist().count(start) == 1


# ---- the headers --------------------------------------------------------------------------------------------------


def declared(path: Path) -> set[str]:
    """The functions of a ptx.cuh."""
    text = path.read_text()
    plain = re.findall(r"(?:PTX|GS_PLAIN|GS_HERE inline|GS_HERE) (?!inline)[\w ]*?(\w+)\(", text)
    made = re.findall(r"^GS_(?:MMA|LDMATRIX|WGMMA)\((\w+)", text, re.MULTILINE)
    return {*plain, *made} - {"name"}


def test_the_stand_in_has_every_function_of_the_real_header():
    real = declared(Path(gridstone.templates.__file__).parent / "lib/cuda/ptx.cuh")
    assert {"lop3", "cp_async_wait", "ldmatrix_x4", "mma_m16n8k16_f16", "st_release"} <= real
    assert real == declared(HOME / "ptx.cuh")
