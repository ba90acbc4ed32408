# Emitted by gridstone; do not edit.
# spec      gemm[x: bf16(M,256), w: int4:g64:zero@mma16(200,256)] + bias + gelu + residual -> f32(M,200)
# schedule  small(block_m=16,block_n=128,block_k=128,warps=4,stages=4,k_splits=1,ordered=true)
# target    triton:sm_90
# recipe    gemm.triton.small, template c5c7375b51ad7af1
# flags     none beyond the toolchain
# storage   w: mma16, 29120 bytes; maps to bits:
#             codes (n,k) -> 0 + ((8,2,13),(2,4,2,(1,4),4)):((512,4,4096),(16,128,8,(16,32),53248))
#             scales (n,group) -> 212992 + (208,4):(16,3328)
#             zeros (n,group) -> 226304 + (208,4):(8,1664)
# repro     gridstone emit 'gemm[x: bf16(M,256), w: int4:g64:zero@mma16(200,256)] + bias + gelu + residual -> f32(M,200)' --target triton:sm_90 --schedule 'small(block_m=16,block_n=128,block_k=128,warps=4,stages=4,k_splits=1,ordered=true)'
#
# small: for few rows of x. Weights in fragment order, decoded in registers, are the first operand of one product a
# group, so that tokens lie along its narrow side. Programs may share K.

import triton
import triton.language as tl

# y[M,N] = epilogue(x[M,K] @ w[N,K]^T). The weight's codes lie in chunks of 16 rows by CHUNK_K columns, 512 bytes: 16
# for each lane of a warp, in the order in which it holds the first operand of the tensor cores. Chunks follow each
# other along n, then k. Behind them lie all scales [GROUPS][PADDED_N], then all zero points.
N, K = tl.constexpr(200), tl.constexpr(256)
BITS, MASK = tl.constexpr(4), tl.constexpr((1 << 4) - 1)  # of a code u
BIAS = tl.constexpr(8)  # value = (u - zero) * scale
ZERO = tl.constexpr(True)  # whether zero points are stored; it is BIAS otherwise
PADDED_N, PADDED_K, CHUNK_K = tl.constexpr(208), tl.constexpr(256), tl.constexpr(64)
GROUP_K, GROUPS = tl.constexpr(64), tl.constexpr(4)  # k of one scale; all of PADDED_K for one per row
SCALES_AT, ZEROS_AT = tl.constexpr(26624), tl.constexpr(28288)
BLOCK_M, BLOCK_N, BLOCK_K = tl.constexpr(16), tl.constexpr(128), tl.constexpr(128)
STAGES, WARPS = tl.constexpr(4), tl.constexpr(4)  # of the pipeline, and of a program

X, A, S = tl.constexpr(tl.bfloat16), tl.constexpr(tl.bfloat16), tl.constexpr(tl.float16)  # A: multiplied
PRECISION = tl.constexpr("ieee")
GROUPED = tl.constexpr(GROUPS > 1)
DOT_K = tl.constexpr(64)  # k of one product
FINISH_M = tl.constexpr(max(16, WARPS.value * 512 // BLOCK_N.value))  # rows finished at once: 16 elements a thread
STEPS = tl.constexpr((PADDED_K + BLOCK_K - 1) // BLOCK_K)
CHUNKS_N, CHUNKS_K = tl.constexpr(BLOCK_N // 16), tl.constexpr((BLOCK_K + CHUNK_K - 1) // CHUNK_K)
STEP_GROUPS = tl.constexpr(max(1, BLOCK_K // GROUP_K) if GROUPS.value > 1 else 1)  # groups of one step
WHOLE_N, WHOLE_K = tl.constexpr(PADDED_N % BLOCK_N == 0), tl.constexpr(PADDED_K % BLOCK_K == 0)  # no tile sticks out
X_BYTES = tl.constexpr(X.value.primitive_bitwidth // 8)
VECTORS = tl.constexpr(K * X_BYTES % 16 == 0)  # whether rows of x can be whole pieces of 16 bytes

SPLITS, ORDERED = tl.constexpr(1), tl.constexpr(True)  # programs that share K; their sums in order
POLICY = tl.constexpr("evict_first")  # weights are read once, x again and again


# Decoding: words of codes to the exact integers u - zero, one value of each word for every (row half, k half, pair)
# that it holds. PTX when ASM, else the same in shifts and masks.
#
# A code is put into the mantissa of a float whose exponent makes its last bit worth one; subtracting that float with
# the zero point added leaves the integer. Kim et al., "Who Says Elephants Can't Run", 2022, section 3, describe it.


@triton.jit
def plain(q, shift: tl.constexpr, zero):
    return (((q >> shift) & MASK) - zero).to(A)


# Nibbles of a word, low first: row, row + 8, those at k + 8, then all four at k + 1. Results in this order.
@triton.jit
def nibbles(q, upper, lower, ASM: tl.constexpr):
    if ASM and A == tl.float16:
        one = (upper | 0x6400) * 0x10001  # 1024 + zero, twice
        sixteen = (lower << 4 | 0x5400) * 0x10001 ^ -0x7FFF8000  # -(64 + zero), twice
        a, b, c, d, e, f, g, h = tl.inline_asm_elementwise(
            """{
            .reg .b32 far, r0, r1, r2, r3, sixteenth;
            mov.b32 sixteenth, 0x2C002C00;
            shr.u32 far, $8, 8;
            lop3.b32 r0, $8, 0x000F000F, 0x64006400, 0xEA;
            lop3.b32 r1, $8, 0x00F000F0, 0x64006400, 0xEA;
            lop3.b32 r2, far, 0x000F000F, 0x64006400, 0xEA;
            lop3.b32 r3, far, 0x00F000F0, 0x64006400, 0xEA;
            sub.rn.f16x2 r0, r0, $9;
            fma.rn.f16x2 r1, r1, sixteenth, $10;
            sub.rn.f16x2 r2, r2, $9;
            fma.rn.f16x2 r3, r3, sixteenth, $10;
            mov.b32 {$0, $4}, r0;
            mov.b32 {$1, $5}, r1;
            mov.b32 {$2, $6}, r2;
            mov.b32 {$3, $7}, r3;
            }""",
            "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r",
            [q, one, sixteen],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True,
            pack=1,
        )
    elif ASM and A == tl.bfloat16:
        above = (upper | 0x4300) * 0x10001 ^ -0x7FFF8000  # -(128 + zero), twice
        below = (lower | 0x4300) * 0x10001 ^ -0x7FFF8000
        a, b, c, d, e, f, g, h = tl.inline_asm_elementwise(
            """{
            .reg .b32 r0, r1, r2, r3, one;
            mov.b32 one, 0x3F803F80;
            shr.u32 r1, $8, 4;
            shr.u32 r2, $8, 8;
            shr.u32 r3, $8, 12;
            lop3.b32 r0, $8, 0x000F000F, 0x43004300, 0xEA;
            lop3.b32 r1, r1, 0x000F000F, 0x43004300, 0xEA;
            lop3.b32 r2, r2, 0x000F000F, 0x43004300, 0xEA;
            lop3.b32 r3, r3, 0x000F000F, 0x43004300, 0xEA;
            fma.rn.bf16x2 r0, r0, one, $9;
            fma.rn.bf16x2 r1, r1, one, $10;
            fma.rn.bf16x2 r2, r2, one, $9;
            fma.rn.bf16x2 r3, r3, one, $10;
            mov.b32 {$0, $4}, r0;
            mov.b32 {$1, $5}, r1;
            mov.b32 {$2, $6}, r2;
            mov.b32 {$3, $7}, r3;
            }""",
            "=h,=h,=h,=h,=h,=h,=h,=h,r,r,r",
            [q, above, below],
            dtype=(
                tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16,
                tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16,
            ),
            is_pure=True,
            pack=1,
        )
    else:
        a, b, c, d = plain(q, 0, upper), plain(q, 4, lower), plain(q, 8, upper), plain(q, 12, lower)
        e, f, g, h = plain(q, 16, upper), plain(q, 20, lower), plain(q, 24, upper), plain(q, 28, lower)
    return a, b, c, d, e, f, g, h


# Bytes of a word, low first: row, row at k + 1, row + 8, row + 8 at k + 1. Results in this order.
@triton.jit
def octets(q, upper, lower, ASM: tl.constexpr):
    if ASM and A == tl.float16:
        a, b, c, d = tl.inline_asm_elementwise(
            """{
            .reg .b32 r0, r1;
            prmt.b32 r0, $4, 0x64646464, 0x4140;
            prmt.b32 r1, $4, 0x64646464, 0x4342;
            sub.rn.f16x2 r0, r0, $5;
            sub.rn.f16x2 r1, r1, $6;
            mov.b32 {$0, $1}, r0;
            mov.b32 {$2, $3}, r1;
            }""",
            "=h,=h,=h,=h,r,r,r",
            [q, (upper | 0x6400) * 0x10001, (lower | 0x6400) * 0x10001],  # 1024 + zero, twice
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True,
            pack=1,
        )
    elif ASM and A == tl.bfloat16:
        a, b, c, d = tl.inline_asm_elementwise(
            """{
            .reg .b32 r0, r1, r2, r3;
            prmt.b32 r0, $4, 0x4B000000, 0x7650;
            prmt.b32 r1, $4, 0x4B000000, 0x7651;
            prmt.b32 r2, $4, 0x4B000000, 0x7652;
            prmt.b32 r3, $4, 0x4B000000, 0x7653;
            sub.rn.f32 r0, r0, $5;
            sub.rn.f32 r1, r1, $5;
            sub.rn.f32 r2, r2, $6;
            sub.rn.f32 r3, r3, $6;
            cvt.rn.bf16x2.f32 r0, r1, r0;
            cvt.rn.bf16x2.f32 r2, r3, r2;
            mov.b32 {$0, $1}, r0;
            mov.b32 {$2, $3}, r2;
            }""",
            "=h,=h,=h,=h,r,r,r",
            [q, upper | 0x4B000000, lower | 0x4B000000],  # 2^23 + zero: eight bits do not fit into bfloat16's mantissa
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=1,
        )
    else:
        a, b, c, d = plain(q, 0, upper), plain(q, 8, upper), plain(q, 16, lower), plain(q, 24, lower)
    return a, b, c, d


# Words [chunks of k][chunks of n][8 rows][4 pairs of k][words] and zero points of their rows to w[BLOCK_N][k].
@triton.jit
def tile(q, upper, lower, ASM: tl.constexpr):
    CK: tl.constexpr = q.shape[0]
    WORDS: tl.constexpr = q.shape[4]
    upper = tl.reshape(upper, (1, CHUNKS_N, 8, 1, 1)).to(tl.int32)
    lower = tl.reshape(lower, (1, CHUNKS_N, 8, 1, 1)).to(tl.int32)
    if BITS == 4:
        a, b, c, d, e, f, g, h = nibbles(q, upper, lower, ASM)
        near = tl.join(tl.join(a, b), tl.join(c, d))
        far = tl.join(tl.join(e, f), tl.join(g, h))
        w = tl.reshape(tl.join(near, far), (CK, CHUNKS_N, 8, 4, WORDS, 2, 2, 2))  # tile of k, row half, k half, pair
        w = tl.permute(w, (1, 5, 2, 0, 4, 6, 3, 7))
    else:
        a, b, c, d = octets(q, upper, lower, ASM)
        w = tl.join(tl.join(a, c), tl.join(b, d))
        w = tl.reshape(w, (CK, CHUNKS_N, 8, 4, WORDS // 2, 2, 2, 2))  # tile of k, k half, row half, pair
        w = tl.permute(w, (1, 6, 2, 0, 4, 5, 3, 7))
    return tl.reshape(w, (BLOCK_N, CK * WORDS * 64 // BITS))


# Activations of the epilogue, in float32. NaN stays NaN.
@triton.jit
def relu(x):
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.70710678))


@triton.jit
def gelu_tanh(x):  # x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
    return x / (1.0 + tl.exp(x * (x * x * -0.0713548128 - 1.59576912)))


# The codes of BLOCK_K columns from k on, [chunks of k][chunks of n][8 rows][4 pairs of k][words]: each lane's 16 bytes
# contiguous.
@triton.jit
def load_codes(w, n0, k):
    RUN: tl.constexpr = CHUNKS_N * 128  # words of the chunks that lie side by side along n
    i = tl.arange(0, CHUNKS_K * RUN)
    start = (k // CHUNK_K).to(tl.int64) * (PADDED_N * 8) + n0 * 8
    words = w.to(tl.pointer_type(tl.int32)) + start + (i // RUN * (PADDED_N * 8) + i % RUN)
    if WHOLE_N and WHOLE_K:
        q = tl.load(words, eviction_policy=POLICY)
    else:
        chunk_n, chunk_k = n0 // 16 + i // 128 % CHUNKS_N, k // CHUNK_K + i // RUN
        inside = (chunk_n < PADDED_N // 16) & (chunk_k < PADDED_K // CHUNK_K)
        q = tl.load(words, mask=inside, other=0, eviction_policy=POLICY)
    return tl.reshape(q, (CHUNKS_K, CHUNKS_N, 8, 4, 4))


# What the groups of one step have for some rows n, [groups][rows], as it is stored. A step beyond PADDED_K multiplies
# zeros by the last group's.
@triton.jit
def load_groups(at, n, k):
    g = tl.minimum(k // GROUP_K + tl.arange(0, STEP_GROUPS), GROUPS - 1)
    places = at + (g.to(tl.int64) * PADDED_N)[:, None] + n[None, :]
    if WHOLE_N:
        v = tl.load(places)
    else:
        v = tl.load(places, mask=(n < PADDED_N)[None, :], other=0)
    return v


# Zero points of the rows of the upper or the lower half of each chunk.
@triton.jit
def load_zeros(w, n0, k, HALF: tl.constexpr):
    i = tl.arange(0, CHUNKS_N * 8)
    if ZERO:
        z = load_groups(w + ZEROS_AT, n0 + i // 8 * 16 + HALF * 8 + i % 8, k)
    else:
        z = tl.full((STEP_GROUPS, CHUNKS_N * 8), BIAS, tl.uint8)
    return z


@triton.jit
def load_scales(w, n0, k):
    return load_groups((w + SCALES_AT).to(tl.pointer_type(S)), n0 + tl.arange(0, BLOCK_N), k)


# What the first and the last groups of a step have; a single one is both.
@triton.jit
def halves(v):
    if v.shape[0] > 1:
        low, high = tl.split(tl.permute(tl.reshape(v, (2, v.shape[0] // 2, v.shape[1])), (1, 2, 0)))
    else:
        low, high = v, v
    return low, high


# x[k of one product][BLOCK_M], zero beyond M and K. ALIGNED: rows of x start at multiples of 16 bytes.
@triton.jit
def load_x(x, ldx, rows, m, k, ALIGNED: tl.constexpr):
    columns = k + tl.arange(0, DOT_K)
    at = x + (rows * ldx)[:, None] + columns[None, :]
    if ALIGNED:
        at = tl.multiple_of(at, (1, 16))
    if WHOLE_K and PADDED_K == K:
        v = tl.load(at, mask=(rows < m)[:, None], other=0.0)
    else:
        v = tl.load(at, mask=(rows < m)[:, None] & (columns < K)[None, :], other=0.0)
    if PRECISION == "tf32":  # the tensor cores would cut off what they do not hold
        bits = (v.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        v = tl.where(v == v, bits.to(tl.float32, bitcast=True), v)
    return tl.trans(v.to(A))


# Adds the product of one step's codes from k on to acc[BLOCK_N][BLOCK_M]: exact integers, the sum of each group times
# its scale in float32. Codes of several products are cut in halves first: of their chunks, then of each lane's words.
@triton.jit
def multiply(acc, q, scales, upper, lower, x, ldx, rows, m, k, ALIGNED: tl.constexpr, ASM: tl.constexpr):
    CUT: tl.constexpr = q.shape[0] * q.shape[4] * 64 // BITS > DOT_K
    if CUT:
        if q.shape[0] > 1:
            pairs = tl.reshape(q, (2, q.shape[0] // 2, CHUNKS_N, 8, 4, 4))
            low, high = tl.split(tl.permute(pairs, (1, 2, 3, 4, 5, 0)))
        else:
            pairs = tl.reshape(q, (1, CHUNKS_N, 8, 4, 2, q.shape[4] // 2))
            low, high = tl.split(tl.permute(pairs, (0, 1, 2, 3, 5, 4)))
        HALF: tl.constexpr = q.shape[0] * q.shape[4] * 32 // BITS
        first, last = halves(scales)
        upper0, upper1 = halves(upper)
        lower0, lower1 = halves(lower)
        acc = multiply(acc, low, first, upper0, lower0, x, ldx, rows, m, k, ALIGNED, ASM)
        acc = multiply(acc, high, last, upper1, lower1, x, ldx, rows, m, k + HALF, ALIGNED, ASM)
    else:
        v = load_x(x, ldx, rows, m, k, ALIGNED)
        u = tile(q, upper, lower, ASM)
        if GROUPED:
            scale = tl.reshape(scales, (BLOCK_N, 1)).to(tl.float32)
            acc += scale * tl.dot(u, v, input_precision=PRECISION)
        else:
            acc = tl.dot(u, v, acc, input_precision=PRECISION)
    return acc


# The sums of steps first .. last. k is carried along, not computed from the step, which only a compiler makes a scalar.
# What a step needs of its groups is too little for asynchronous copies: it is asked for a step ahead, in registers.
@triton.jit
def sums(x, ldx, w, n0, rows, m, first, last, ALIGNED: tl.constexpr, ASM: tl.constexpr):
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    k = first * BLOCK_K
    scales, upper, lower = load_scales(w, n0, k), load_zeros(w, n0, k, 0), load_zeros(w, n0, k, 1)
    for _ in tl.range(first, last, num_stages=STAGES):
        q, after = load_codes(w, n0, k), k + BLOCK_K
        if GROUPED:
            next_scales, next_upper, next_lower = (
                load_scales(w, n0, after), load_zeros(w, n0, after, 0), load_zeros(w, n0, after, 1),
            )
        else:
            next_scales, next_upper, next_lower = scales, upper, lower
        acc = multiply(acc, q, scales, upper, lower, x, ldx, rows, m, k, ALIGNED, ASM)
        k, scales, upper, lower = after, next_scales, next_upper, next_lower
    return acc


# The sums of a tile over this program's part of K, through pieces of 16 bytes where x allows it.
@triton.jit
def block_sums(x, ldx, w, n0, rows, m, split, SPLITS: tl.constexpr, ASM: tl.constexpr):
    first, last = split * STEPS // SPLITS, (split + 1) * STEPS // SPLITS
    pieces = VECTORS and (x.to(tl.int64) | ldx * X_BYTES) % 16 == 0
    if pieces:
        acc = sums(x, ldx, w, n0, rows, m, first, last, True, ASM)
    else:
        acc = sums(x, ldx, w, n0, rows, m, first, last, False, ASM)
    return acc


# a[BLOCK_N][rows of x from m0 on] through the epilogue into y, in pieces that leave registers for the addresses.
@triton.jit
def finish(a, w, bias, residual, ldr, y, ldy, n0, m0, m):
    ROWS: tl.constexpr = a.shape[1]
    if ROWS > FINISH_M:
        low, high = tl.split(tl.permute(tl.reshape(a, (BLOCK_N, 2, ROWS // 2)), (0, 2, 1)))
        finish(low, w, bias, residual, ldr, y, ldy, n0, m0, m)
        finish(high, w, bias, residual, ldr, y, ldy, n0, m0 + ROWS // 2, m)
    else:
        n, rows = n0 + tl.arange(0, BLOCK_N), m0 + tl.arange(0, ROWS)
        inside = (n < N)[:, None] & (rows < m)[None, :]
        if not GROUPED:
            a *= tl.reshape(load_scales(w, n0, 0), (BLOCK_N, 1)).to(tl.float32)
        bias = tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
        residual = tl.load(residual + n[:, None] + (rows * ldr)[None, :], mask=inside, other=0.0).to(tl.float32)
        a = a + bias
        a = gelu(a)
        a = a + residual
        tl.store(y + n[:, None] + (rows * ldy)[None, :], a.to(tl.float32), mask=inside)


# Adds up what the SPLITS programs of a tile have and returns the sum and whether this program is the one that has it:
# the last that comes to the tile's ticket, nobody waits. Sums are taken in the order of k, whoever comes last, or, if
# not ORDERED, as the memory adds them. Tickets and unordered sums are left zero, as the next launch must find them.
@triton.jit
def reduce(acc, parts, tickets, split):
    at = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    SIZE: tl.constexpr = BLOCK_N * BLOCK_M
    parts_tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    if ORDERED:
        parts += parts_tile.to(tl.int64) * (SIZE * SPLITS)
        tl.store(parts + split * SIZE + at, acc)
    else:
        parts += parts_tile.to(tl.int64) * SIZE
        tl.atomic_add(parts + at, acc, sem="relaxed")
    tl.debug_barrier()  # every thread's sums are written before the ticket is drawn
    last = tl.atomic_add(tickets + parts_tile, 1, sem="acq_rel") == SPLITS - 1
    tl.debug_barrier()
    if last:
        tl.store(tickets + parts_tile, 0)
        if ORDERED:
            acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
            for s in range(SPLITS):
                acc += tl.load(parts + s * SIZE + at, cache_modifier=".cg")
        else:
            acc = tl.load(parts + at, cache_modifier=".cg")
            tl.debug_barrier()  # nobody clears what another thread has not read
            tl.store(parts + at, tl.zeros((BLOCK_N, BLOCK_M), tl.float32))
    return acc, last


@triton.jit
def gs_gemm(
    x: tl.pointer_type(tl.bfloat16), ldx: tl.int64, w: tl.pointer_type(tl.uint8),
    bias: tl.pointer_type(tl.float32), residual: tl.pointer_type(tl.float32), ldr: tl.int64,
    y: tl.pointer_type(tl.float32), ldy: tl.int64, m: tl.int64,
    parts: tl.pointer_type(tl.float32), tickets: tl.pointer_type(tl.int32), ASM: tl.constexpr = True,
):
    n0, split = tl.program_id(0) * BLOCK_N, tl.program_id(2)
    m0 = tl.program_id(1).to(tl.int64) * BLOCK_M
    acc = block_sums(x, ldx, w, n0, m0 + tl.arange(0, BLOCK_M), m, split, SPLITS, ASM)
    if SPLITS == 1:
        finish(acc, w, bias, residual, ldr, y, ldy, n0, m0, m)
    else:
        acc, last = reduce(acc, parts, tickets, split)
        if last:
            finish(acc, w, bias, residual, ldr, y, ldy, n0, m0, m)
