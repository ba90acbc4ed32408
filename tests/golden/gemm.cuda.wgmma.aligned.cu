// Emitted by gridstone; do not edit.
// spec      gemm[x: bf16(M,512), w: int4:g128@mma16(256,512)] -> bf16(M,256)
// schedule  wgmma(block_m=16,block_k=128,warps_n=4,tiles_n=2,stages=4,k_splits=1,ordered=true)
// target    cuda:sm_90a
// recipe    gemm.cuda.wgmma, template 4638a1f30c01683f
// flags     none beyond the toolchain
// storage   w: mma16, 67584 bytes; maps to bits:
//             codes (n,k) -> 0 + ((8,2,16),(2,4,2,(1,4),8)):((512,4,4096),(16,128,8,(16,32),65536))
//             scales (n,group) -> 524288 + (256,4):(16,4096)
// repro     gridstone emit 'gemm[x: bf16(M,512), w: int4:g128@mma16(256,512)] -> bf16(M,256)' --target cuda:sm_90a --schedule 'wgmma(block_m=16,block_k=128,warps_n=4,tiles_n=2,stages=4,k_splits=1,ordered=true)'
//
// wgmma: as gemm.cuda.mma, for sm_90a: four warps at once multiply 64 rows of the weight, decoded in registers, by tokens
// that lie in shared memory. Weights, scales and zero points are contiguous runs and come by bulk copies, which one
// thread asks for and an mbarrier counts.

#include "ptx.cuh"

#define DEVICE __device__ __forceinline__

namespace {

// y[M,N] = epilogue(x[M,K] @ w[N,K]^T). The weight's codes lie in chunks of 16 rows by CHUNK_K columns, 512 bytes: 16 for
// each lane of a warp, in the order in which it holds the A operand of mma.m16n8k16. Chunks follow each other along n,
// then k. Behind them lie all scales [GROUPS][PADDED_N], then all zero points.
constexpr int N = 256, K = 512;
constexpr int BITS = 4, BIAS = 8;   // value = (code - zero) * scale; zero is BIAS unless stored
constexpr bool ZERO = false;
constexpr int PADDED_N = 256, PADDED_K = 512, CHUNK_K = 64;
constexpr int GROUP_K = 128, GROUPS = 4;   // k of one scale; all of PADDED_K for a scale per row
constexpr int64_t SCALES_AT = 65536, ZEROS_AT = 0;

// Element types of x, y, scales: bits in memory, float32 in registers.
struct f16 { uint16_t bits; };
struct bf16 { uint16_t bits; };

DEVICE float widen(float a) { return a; }
DEVICE float widen(f16 a) { return ptx::cvt_f32_f16(a.bits); }
DEVICE float widen(bf16 a) { return ptx::cvt_f32_bf16(a.bits); }
DEVICE void narrow(float* to, float a) { *to = a; }
DEVICE void narrow(f16* to, float a) { to->bits = ptx::cvt_f16_f32(a); }
DEVICE void narrow(bf16* to, float a) { to->bits = ptx::cvt_bf16_f32(a); }

// What the tensor cores multiply: f16 or bf16, pairs in a word.
template <class A> struct Operand;
template <> struct Operand<f16> {
  static DEVICE uint16_t bits(float a) { return ptx::cvt_f16_f32(a); }
  static DEVICE uint32_t pair(float low, float high) { return ptx::cvt_f16x2(low, high); }
  static DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::mma_m16n8k16_f16(d, a, b); }
};
template <> struct Operand<bf16> {
  static DEVICE uint16_t bits(float a) { return ptx::cvt_bf16_f32(a); }
  static DEVICE uint32_t pair(float low, float high) { return ptx::cvt_bf16x2(low, high); }
  static DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::mma_m16n8k16_bf16(d, a, b); }
};
// Decoding: stored codes u of one 16x16 tile to the exact integers u - zero in the four registers of an A operand of
// mma.m16n8k16. Registers 0 and 2 are the upper eight rows, 1 and 3 the lower eight.
//
// A code is put into the mantissa of a float whose exponent makes its last bit worth one; subtracting that float with the
// zero point added leaves the integer. Kim et al., "Who Says Elephants Can't Run", 2022, section 3, describe the idea.
template <class A, int BITS> struct Decode;

template <> struct Decode<f16, 4> {
  static constexpr int WORDS = 1;           // words of a lane for one tile
  struct Zero { uint32_t one, sixteen; };   // 1024 + z, and -(64 + z), twice each
  static DEVICE Zero zero(uint32_t z) { return {(0x6400u | z) * 0x10001u, (0xD400u | z << 4) * 0x10001u}; }
  static DEVICE void tile(uint32_t (&r)[4], const uint32_t* q, const Zero (&z)[2]) {
    const uint32_t near = q[0], far = q[0] >> 8;
    r[0] = ptx::sub_f16x2(low(near), z[0].one);                           // 1024 + u
    r[1] = ptx::fma_f16x2(high(near), 0x2C002C00u, z[1].sixteen);         // (1024 + 16 u) / 16
    r[2] = ptx::sub_f16x2(low(far), z[0].one);
    r[3] = ptx::fma_f16x2(high(far), 0x2C002C00u, z[1].sixteen);
  }
  static DEVICE uint32_t low(uint32_t q) { return ptx::lop3<0xEA>(q, 0x000F000Fu, 0x64006400u); }   // (q & mask) | magic
  static DEVICE uint32_t high(uint32_t q) { return ptx::lop3<0xEA>(q, 0x00F000F0u, 0x64006400u); }
};

template <> struct Decode<bf16, 4> {
  static constexpr int WORDS = 1;
  typedef uint32_t Zero;                    // -(128 + z), twice
  static DEVICE Zero zero(uint32_t z) { return (0xC300u | z) * 0x10001u; }
  static DEVICE void tile(uint32_t (&r)[4], const uint32_t* q, const Zero (&z)[2]) {
    for (int i = 0; i < 4; ++i)             // bfloat16 has no room for 16 u: each register's codes are shifted down
      r[i] = ptx::fma_bf16x2(ptx::lop3<0xEA>(q[0] >> 4 * i, 0x000F000Fu, 0x43004300u), 0x3F803F80u, z[i % 2]);
  }
};

template <> struct Decode<f16, 8> {
  static constexpr int WORDS = 2;
  typedef uint32_t Zero;                    // 1024 + z, twice
  static DEVICE Zero zero(uint32_t z) { return (0x6400u | z) * 0x10001u; }
  static DEVICE void tile(uint32_t (&r)[4], const uint32_t* q, const Zero (&z)[2]) {
    for (int i = 0; i < 4; ++i)             // two bytes of the word under two bytes 0x64
      r[i] = ptx::sub_f16x2(ptx::prmt(q[i / 2], 0x64646464u, i % 2 ? 0x4342u : 0x4140u), z[i % 2]);
  }
};

template <> struct Decode<bf16, 8> {
  static constexpr int WORDS = 2;
  typedef float Zero;                       // 2^23 + z: eight bits do not fit beside bfloat16's leading one
  static DEVICE Zero zero(uint32_t z) { return __uint_as_float(0x4B000000u | z); }
  static DEVICE void tile(uint32_t (&r)[4], const uint32_t* q, const Zero (&z)[2]) {
    for (int i = 0; i < 4; ++i) {
      const float a = __uint_as_float(ptx::prmt(q[i / 2], 0x4B000000u, 0x7650u + i % 2 * 2));
      const float b = __uint_as_float(ptx::prmt(q[i / 2], 0x4B000000u, 0x7651u + i % 2 * 2));
      r[i] = ptx::cvt_bf16x2(a - z[i % 2], b - z[i % 2]);
    }
  }
};
// Activations of the epilogue, in float32. NaN stays NaN.
DEVICE float relu(float x) { return x < 0.f ? 0.f : x; }
DEVICE float silu(float x) { return x / (1.f + expf(-x)); }
DEVICE float gelu(float x) { return 0.5f * x * erfcf(x * -0.70710678f); }  // from the tail on either side: nothing cancels
DEVICE float gelu_tanh(float x) {  // x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
  return x / (1.f + expf(x * (x * x * -0.0713548128f - 1.59576912f)));
}
typedef bf16 X;
typedef bf16 Y;
typedef bf16 B;
typedef bf16 R;
typedef f16 S;

struct Call {  // the arguments of one call
  const X* x; int64_t ldx;
  const uint8_t* w;
  const B* bias;
  const R* residual; int64_t ldr;
  Y* y; int64_t ldy;
  int64_t m;
};

// One element of the float32 result through the epilogue.
DEVICE void finish(const Call& c, int64_t row, int n, float a) {
  narrow(c.y + row * c.ldy + n, a);
}
constexpr int BLOCK_M = 16, BLOCK_K = 128;      // rows of x, and k of one stage
constexpr int WARPS_N = 4, WARPS_K = 1;      // warps: fours of them side by side along n
constexpr int TILES_N = 2;                            // 64 rows of the weight each, per four warps
constexpr int STAGES = 4, SPLITS = 1;        // of the pipeline, and blocks that share K
constexpr bool ORDERED = true;                     // their sums are added in order
typedef bf16 A;                                     // what the tensor cores multiply

constexpr int THREADS = 32 * WARPS_N, BLOCK_N = 16 * TILES_N * WARPS_N;
constexpr int CHUNKS = BLOCK_K / CHUNK_K, CHUNKS_N = BLOCK_N / 16, CHUNK_TILES = CHUNK_K / 16;
constexpr int AHEAD = STAGES - 2;  // stages under way; one is decoded while the one before it may still be multiplied
constexpr bool GROUPED = GROUPS > 1;
constexpr int FLUSH_K = GROUP_K < BLOCK_K ? GROUP_K : BLOCK_K;  // k between two uses of a scale
constexpr int STAGE_GROUPS = GROUPED && GROUP_K < BLOCK_K ? BLOCK_K / GROUP_K : 1;
constexpr int STEPS = (PADDED_K + BLOCK_K - 1) / BLOCK_K;

// One stage in shared memory, in bytes: [weights][x][scales][zero points], from a multiple of 1024 on.
constexpr int ROW_BYTES = 128;                                  // k of one token that lie together: 64
constexpr int X_AT = BLOCK_N * BLOCK_K * BITS / 8, S_AT = X_AT + BLOCK_M * BLOCK_K * 2;
constexpr int S_BYTES = (int)GROUPED * STAGE_GROUPS * BLOCK_N * (int)sizeof(S), Z_AT = S_AT + S_BYTES;
constexpr int Z_BYTES = ZERO ? STAGE_GROUPS * BLOCK_N : 0, STAGE_BYTES = (Z_AT + Z_BYTES + 1023) / 1024 * 1024;
static_assert(X_AT % 1024 == 0, "wgmma reads tokens from multiples of 1024 bytes on");

typedef Decode<A, BITS> Decoder;
typedef typename Decoder::Zero Zero;

template <class T> struct Wgmma;
template <> struct Wgmma<f16> {
  template <int M> static DEVICE void multiply(float (&d)[M / 2], const uint32_t (&a)[4], uint64_t x, int accumulate) {
    ptx::wgmma_m64k16_f16<M>(d, a, x, accumulate);
  }
};
template <> struct Wgmma<bf16> {
  template <int M> static DEVICE void multiply(float (&d)[M / 2], const uint32_t (&a)[4], uint64_t x, int accumulate) {
    ptx::wgmma_m64k16_bf16<M>(d, a, x, accumulate);
  }
};

// Byte of the tokens' k in a stage's x: tiles of [BLOCK_M][64], whose 16-byte pieces are permuted by the token.
DEVICE int x_tile(int k) { return k / 64 * BLOCK_M * ROW_BYTES + k % 64 * 2; }
DEVICE int x_place(int row, int k) {
  return k / 64 * BLOCK_M * ROW_BYTES + row * ROW_BYTES + (k % 64 / 8 ^ row % 8) * 16 + k % 8 * 2;
}

// Place of a k's group among a stage's scales or zero points.
DEVICE int group_at(int k) { return GROUPED && GROUP_K < BLOCK_K ? k / GROUP_K * BLOCK_N : 0; }

struct Share {      // what one block multiplies
  int64_t m0;       // rows of x from here on
  int n0;           // and of the weight
  int first, last;  // steps along K
  bool pieces;      // rows of x start at multiples of 16 bytes
};

// Asks for what step `step` multiplies.
DEVICE void fetch(const Call& c, uint8_t* stage, uint64_t* full, int step, const Share& of) {
  const int t = threadIdx.x, n0 = of.n0, k0 = step * BLOCK_K, rows = min(BLOCK_N, PADDED_N - n0);
  const int64_t m0 = of.m0;
  if (t == 0) {
    const int chunks = min(BLOCK_K, PADDED_K - k0) / CHUNK_K, groups = !GROUPED ? 1 : min(STAGE_GROUPS, GROUPS - k0 / GROUP_K);
    const int run = rows / 16 * 512, scales = GROUPED ? rows * (int)sizeof(S) : 0, zeros = ZERO ? rows : 0;
    ptx::mbarrier_arrive_expect(full, chunks * run + groups * (scales + zeros));
    for (int i = 0; i < chunks; ++i)
      ptx::cp_async_bulk(stage + i * CHUNKS_N * 512, c.w + ((int64_t)(k0 / CHUNK_K + i) * (PADDED_N / 16) + n0 / 16) * 512, run, full);
    for (int i = 0; i < groups; ++i) {
      const int64_t at = (int64_t)(GROUPED ? k0 / GROUP_K + i : 0) * PADDED_N + n0;
      if (GROUPED) ptx::cp_async_bulk(stage + S_AT + i * BLOCK_N * (int)sizeof(S), c.w + SCALES_AT + at * (int)sizeof(S), scales, full);
      if (ZERO) ptx::cp_async_bulk(stage + Z_AT + i * BLOCK_N, c.w + ZEROS_AT + at, zeros, full);
    }
  }
  for (int i = t; i < BLOCK_M * (BLOCK_K / 8); i += THREADS) {  // x, zero beyond M and K
    const int row = i / (BLOCK_K / 8), k = k0 + i % (BLOCK_K / 8) * 8;
    const int left = m0 + row < c.m && k < K ? min(K - k, 8) : 0;
    const X* from = left ? c.x + (m0 + row) * c.ldx + k : c.x;
    uint8_t* to = stage + X_AT + x_place(row, k - k0);
    if (sizeof(X) == 2 && of.pieces) {
      ptx::cp_async_16(to, from, left * 2);
    } else {
      for (int e = 0; e < 8; ++e) ((uint16_t*)to)[e] = e < left ? Operand<A>::bits(widen(from[e])) : (uint16_t)0;
    }
  }
}
// Adds up sums[WARPS_K][BLOCK_M][BLOCK_N], then what the SPLITS blocks of a tile have, and finishes the tile. The block that
// comes last to the tile's ticket does it: nobody waits. Sums are taken in the order of k, whoever comes last, or, if
// not ORDERED, as the memory adds them. Tickets and unordered sums are left zero, as the next launch must find them.
DEVICE void reduce_and_finish(const Call& c, const float* sums, float* parts, uint32_t* tickets, int64_t m0, int n0) {
  const int t = threadIdx.x, split = blockIdx.z;
  const int tile = blockIdx.y * gridDim.x + blockIdx.x;
  parts += (int64_t)tile * BLOCK_M * BLOCK_N * (ORDERED ? SPLITS : 1);
  if (SPLITS > 1) {
    for (int i = t; i < BLOCK_M * BLOCK_N; i += THREADS) {
      float v = sums[i];
      for (int s = 1; s < WARPS_K; ++s) v += sums[s * BLOCK_M * BLOCK_N + i];
      if (ORDERED) parts[split * BLOCK_M * BLOCK_N + i] = v;
      else ptx::red_add_f32(parts + i, v);
    }
    __shared__ uint32_t before;  // blocks of this tile that were done
    __syncthreads();
    if (t == 0) before = ptx::atom_inc_acq_rel(tickets + tile);
    __syncthreads();
    if (before != SPLITS - 1) return;
    if (t == 0) tickets[tile] = 0;  // as the next launch must find it
  }
  for (int i = t; i < BLOCK_M * BLOCK_N; i += THREADS) {
    const int n = n0 + i % BLOCK_N;
    float v = 0.f;
    if (SPLITS == 1) {
      for (int s = 0; s < WARPS_K; ++s) v += sums[s * BLOCK_M * BLOCK_N + i];
    } else if (ORDERED) {
      for (int s = 0; s < SPLITS; ++s) v += parts[s * BLOCK_M * BLOCK_N + i];
    } else {
      v = parts[i];
      parts[i] = 0.f;
    }
    if (m0 + i / BLOCK_N >= c.m || n >= N) continue;
    if (!GROUPED) v *= widen(((const S*)(c.w + SCALES_AT))[n]);
    finish(c, m0 + i / BLOCK_N, n, v);
  }
}
// What a warpgroup does with a stage: its codes become operands, which are multiplied by the tokens, group after group.
typedef float Sums[TILES_N][BLOCK_M / 2];
typedef uint32_t Operands[CHUNK_TILES][TILES_N][4];

// Row of a thread's first element among the weight's of the block.
DEVICE int own_row() {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  return warp / 4 * TILES_N * 64 + warp % 4 * 16 + lane / 4;
}

// Waits for a step's stage.
DEVICE const uint8_t* next_stage(const uint8_t* pipeline, uint64_t* full, const Share& of, int step) {
  const int slot = (step - of.first) % STAGES;
  ptx::cp_async_wait<AHEAD - 1>();
  ptx::mbarrier_wait(&full[slot], (step - of.first) / STAGES % 2);
  ptx::fence_proxy_async();  // wgmma reads x through another proxy than cp.async wrote it
  __syncthreads();           // the stage has come for everybody; nobody multiplies the last but one any more
  return pipeline + slot * STAGE_BYTES;
}

// Asks for the stage of a step.
DEVICE void ask(const Call& c, uint8_t* pipeline, uint64_t* full, const Share& of, int step) {
  const int slot = (step - of.first) % STAGES;
  if (step < of.last) fetch(c, pipeline + slot * STAGE_BYTES, &full[slot], step, of);
  ptx::cp_async_commit();
}

// A chunk of a stage as operands; the one before may be multiplied meanwhile.
DEVICE void decode(Operands& a, Zero (&zero)[TILES_N][2], const uint8_t* stage, int chunk) {
  const int k = chunk * CHUNK_K, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < TILES_N; ++i) {
    if (ZERO && k % FLUSH_K == 0)
      for (int h = 0; h < 2; ++h) zero[i][h] = Decoder::zero(stage[Z_AT + group_at(k) + own_row() + i * 64 + h * 8]);
    const int at = chunk * CHUNKS_N + (warp / 4 * TILES_N + i) * 4 + warp % 4;
    const uint4 v = *(const uint4*)(stage + (at * 32 + lane) * 16);
    const uint32_t q[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int tile = 0; tile < CHUNK_TILES; ++tile) {
      Decoder::tile(a[tile][i], q + tile * Decoder::WORDS, zero[i]);
      ptx::wgmma_hold(a[tile][i]);
    }
  }
}

// Has a chunk multiplied; until the next call. `scale` becomes that of the group which ends here.
DEVICE void multiply(Sums& sums, float (&scale)[TILES_N][2], const Operands& a, const uint8_t* stage, int chunk) {
  const int k = chunk * CHUNK_K;
  const uint64_t x = ptx::wgmma_tile(stage + X_AT);
  ptx::wgmma_fence();
#pragma unroll
  for (int tile = 0; tile < CHUNK_TILES; ++tile) {
    const uint64_t tokens = x + x_tile(k + tile * 16) / 16;  // a descriptor counts in 16 bytes
#pragma unroll
    for (int i = 0; i < TILES_N; ++i)
      Wgmma<A>::multiply<BLOCK_M>(sums[i], a[tile][i], tokens, !GROUPED || (k + tile * 16) % FLUSH_K != 0);
  }
  ptx::wgmma_commit();
  if (GROUPED && (k + CHUNK_K) % FLUSH_K == 0)
#pragma unroll
    for (int i = 0; i < TILES_N; ++i)
      for (int h = 0; h < 2; ++h) scale[i][h] = widen(((const S*)(stage + S_AT))[group_at(k) + own_row() + i * 64 + h * 8]);
  ptx::wgmma_wait<1>();  // what was multiplied before: its operands are free
}

// Waits for all that is multiplied, and adds the sums of a group, times its rows' scales, to those of everything before.
DEVICE void flush(Sums& acc, Sums& part, const float (&scale)[TILES_N][2]) {
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < TILES_N; ++i) {
    ptx::wgmma_hold(part[i]);
#pragma unroll
    for (int e = 0; e < BLOCK_M / 2; ++e) acc[i][e] += scale[i][e / 2 % 2] * part[i][e];
    ptx::wgmma_hold(acc[i]);
  }
}
}  // namespace

extern __shared__ __align__(1024) uint8_t shared[];

extern "C" __global__ void __launch_bounds__(THREADS, 1)  // with the 1 no register is spilled for one more block
gs_gemm(const X* x, int64_t ldx, const uint8_t* w, const B* bias, const R* residual, int64_t ldr, Y* y, int64_t ldy,
        int64_t m, float* parts, uint32_t* tickets) {
  const Call c = {x, ldx, w, bias, residual, ldr, y, ldy, m};
  __shared__ uint64_t full[STAGES];  // weights, scales and zero points of a stage have come
  const int t = threadIdx.x, lane = t % 32, split = blockIdx.z;
  const Share of = {(int64_t)blockIdx.y * BLOCK_M, (int)blockIdx.x * BLOCK_N, STEPS * split / SPLITS, STEPS * (split + 1) / SPLITS,
                    ((uint64_t)x | (uint64_t)ldx * sizeof(X)) % 16 == 0};

  Sums acc = {};             // over k of everything before
  Sums part;                 // over k of one group, without its scale
  float scale[TILES_N][2];   // of that group's rows, upper and lower eight
  Operands a[2];             // of a chunk, and of the one before, which is being multiplied
  Zero zero[TILES_N][2];
#pragma unroll
  for (int i = 0; i < TILES_N; ++i) {
    ptx::wgmma_hold(acc[i]);
    zero[i][0] = zero[i][1] = Decoder::zero(BIAS);
  }

  if (t == 0)
    for (int s = 0; s < STAGES; ++s) ptx::mbarrier_init(&full[s], 1);
  if (of.n0 + BLOCK_N > PADDED_N)  // rows beyond the weight are never copied: they decode from zeros
    for (int i = t; i < STAGES * STAGE_BYTES / 4; i += THREADS) ((uint32_t*)shared)[i] = 0;
  ptx::fence_proxy_async();
  __syncthreads();
  for (int s = 0; s < AHEAD; ++s) ask(c, shared, full, of, of.first + s);
  // A chunk is decoded while the one before it is multiplied, also from one stage to the next. To ask for another one
  // between keeps a compiler, which sees no reason not to, from waiting before it decodes.
  const uint8_t* stage = next_stage(shared, full, of, of.first);
  decode(a[0], zero, stage, 0);
  ask(c, shared, full, of, of.first + AHEAD);
  multiply(GROUPED ? part : acc, scale, a[0], stage, 0);
  for (int step = of.first;;) {
#pragma unroll
    for (int chunk = 1; chunk < CHUNKS; ++chunk) {
      if (PADDED_K % BLOCK_K != 0 && step * BLOCK_K + chunk * CHUNK_K >= PADDED_K) break;
      decode(a[chunk % 2], zero, stage, chunk);
      if (GROUPED && chunk * CHUNK_K % FLUSH_K == 0) flush(acc, part, scale);
      multiply(GROUPED ? part : acc, scale, a[chunk % 2], stage, chunk);
    }
    if (++step == of.last) break;
    stage = next_stage(shared, full, of, step);
    if (CHUNKS % 2) ptx::wgmma_wait<0>();  // the chunk before is in the same half of a
    decode(a[0], zero, stage, 0);
    ask(c, shared, full, of, step + AHEAD);
    if (GROUPED) flush(acc, part, scale);
    multiply(GROUPED ? part : acc, scale, a[0], stage, 0);
  }
  if (GROUPED) flush(acc, part, scale);
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < TILES_N; ++i) ptx::wgmma_hold(acc[i]);
  ptx::cp_async_wait<0>();
  __syncthreads();  // the pipeline's memory is free

  float* sums = (float*)shared;  // [BLOCK_M][BLOCK_N]
#pragma unroll
  for (int i = 0; i < TILES_N; ++i)
#pragma unroll
    for (int e = 0; e < BLOCK_M / 2; ++e) {
      const int row = e / 4 * 8 + lane % 4 * 2 + e % 2, n = own_row() + i * 64 + e / 2 % 2 * 8;
      sums[row * BLOCK_N + n] = acc[i][e];
    }
  __syncthreads();
  reduce_and_finish(c, sums, parts, tickets, of.m0, of.n0);
}
