// Emitted by gridstone; do not edit.
// spec      gemm[x: bf16(M,512), w: int4:g128@mma16(256,512)] -> bf16(M,256)
// schedule  mma(block_m=16,block_k=128,warps_n=4,warps_k=2,tiles_n=2,stages=4,k_splits=1,ordered=true)
// target    cuda:sm_80
// recipe    gemm.cuda.mma, template edcbbbc2a8d6c87d
// flags     none beyond the toolchain
// storage   w: mma16, 67584 bytes; maps to bits:
//             codes (n,k) -> 0 + ((8,2,16),(2,4,2,(1,4),8)):((512,4,4096),(16,128,8,(16,32),65536))
//             scales (n,group) -> 524288 + (256,4):(16,4096)
// repro     gridstone emit 'gemm[x: bf16(M,512), w: int4:g128@mma16(256,512)] -> bf16(M,256)' --target cuda:sm_80 --schedule 'mma(block_m=16,block_k=128,warps_n=4,warps_k=2,tiles_n=2,stages=4,k_splits=1,ordered=true)'
//
// mma: weights in fragment order through a pipeline of asynchronous copies, decoded in registers, multiplied by
// mma.m16n8k16 with the weight as its A operand, so that tokens lie along the side of 8. Warps and blocks may share K.

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
constexpr int WARPS_N = 4, WARPS_K = 2;      // warps side by side along n, and sharing a stage's k
constexpr int TILES_N = 2;                            // 16 rows of the weight each, per warp
constexpr int STAGES = 4, SPLITS = 1;        // of the pipeline, and blocks that share K
constexpr bool ORDERED = true;                     // their sums are added in order
typedef bf16 A;                                     // what the tensor cores multiply

constexpr int THREADS = 32 * WARPS_N * WARPS_K, BLOCK_N = 16 * TILES_N * WARPS_N, TILES_M = BLOCK_M / 8;
constexpr int WARP_K = BLOCK_K / WARPS_K;                      // k of one stage that one warp multiplies
constexpr int CHUNKS_N = BLOCK_N / 16, CHUNK_TILES = CHUNK_K / 16;
constexpr bool GROUPED = GROUPS > 1;
constexpr int FLUSH_K = GROUP_K < WARP_K ? GROUP_K : WARP_K;   // k between two uses of a scale
constexpr int STAGE_GROUPS = !GROUPED ? 1 : GROUP_K < BLOCK_K ? BLOCK_K / GROUP_K : 1;
constexpr int STEPS = (PADDED_K + BLOCK_K - 1) / BLOCK_K;

// One stage in shared memory, in bytes: [weights][x][scales][zero points].
constexpr int X_AT = BLOCK_N * BLOCK_K * BITS / 8, S_AT = X_AT + BLOCK_M * BLOCK_K * 2;
constexpr int S_BYTES = (int)GROUPED * STAGE_GROUPS * BLOCK_N * (int)sizeof(S), Z_AT = S_AT + S_BYTES;
constexpr int Z_BYTES = ZERO ? STAGE_GROUPS * BLOCK_N : 0, STAGE_BYTES = Z_AT + Z_BYTES;

typedef Decode<A, BITS> Decoder;
typedef typename Decoder::Zero Zero;

// Byte of x[row][k] in a stage. Rows are cut into pieces of 16 bytes, permuted so that the eight rows that one ldmatrix
// reads at once lie in different banks.
DEVICE int x_place(int row, int k) {
  const int piece = k / 8;
  return (row * (BLOCK_K / 8) + (piece ^ (row & 7))) * 16 + k % 8 * 2;
}

// Rows of scales or zero points that a stage needs, `bytes` an element.
DEVICE void fetch_groups(uint8_t* to, const uint8_t* from, int k0, int n0, int bytes) {
  for (int i = threadIdx.x * 16; i < STAGE_GROUPS * BLOCK_N * bytes; i += THREADS * 16) {
    const int n = n0 + i / bytes % BLOCK_N, group = k0 / GROUP_K + i / bytes / BLOCK_N;
    const bool inside = n < PADDED_N && group < GROUPS;
    ptx::cp_async_16(to + i, from + (inside ? ((int64_t)group * PADDED_N + n) * bytes : 0), inside ? 16 : 0);
  }
}

// Asks for what step `step` multiplies. `pieces`: rows of x start at multiples of 16 bytes.
DEVICE void fetch(const Call& c, uint8_t* stage, int step, int64_t m0, int n0, bool pieces) {
  const int t = threadIdx.x, k0 = step * BLOCK_K;
  for (int i = t; i < X_AT / 16; i += THREADS) {  // weights: what a lane will read, in its own place
    const int chunk = i / 32, n = n0 / 16 + chunk % CHUNKS_N, k = k0 / CHUNK_K + chunk / CHUNKS_N;
    const bool inside = n < PADDED_N / 16 && k < PADDED_K / CHUNK_K;
    const int64_t at = inside ? ((int64_t)k * (PADDED_N / 16) + n) * 512 + i % 32 * 16 : 0;
    ptx::cp_async_16(stage + i * 16, c.w + at, inside ? 16 : 0);
  }
  for (int i = t; i < BLOCK_M * (BLOCK_K / 8); i += THREADS) {  // x, zero beyond M and K
    const int row = i / (BLOCK_K / 8), k = k0 + i % (BLOCK_K / 8) * 8;
    const int left = m0 + row < c.m && k < K ? min(K - k, 8) : 0;
    const X* from = left ? c.x + (m0 + row) * c.ldx + k : c.x;
    uint8_t* to = stage + X_AT + x_place(row, k - k0);
    if (sizeof(X) == 2 && pieces) {
      ptx::cp_async_16(to, from, left * 2);
    } else {
      for (int e = 0; e < 8; ++e) ((uint16_t*)to)[e] = e < left ? Operand<A>::bits(widen(from[e])) : (uint16_t)0;
    }
  }
  if (GROUPED) fetch_groups(stage + S_AT, c.w + SCALES_AT, k0, n0, (int)sizeof(S));
  if (ZERO) fetch_groups(stage + Z_AT, c.w + ZEROS_AT, k0, n0, 1);
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
}  // namespace

extern __shared__ __align__(1024) uint8_t shared[];

extern "C" __global__ void __launch_bounds__(THREADS, 1)  // with the 1 no register is spilled for one more block
gs_gemm(const X* x, int64_t ldx, const uint8_t* w, const B* bias, const R* residual, int64_t ldr, Y* y, int64_t ldy,
        int64_t m, float* parts, uint32_t* tickets) {
  const Call c = {x, ldx, w, bias, residual, ldr, y, ldy, m};
  const int t = threadIdx.x, lane = t % 32, warp_n = t / 32 % WARPS_N, warp_k = t / 32 / WARPS_N;
  const int n0 = blockIdx.x * BLOCK_N, split = blockIdx.z;
  const int64_t m0 = (int64_t)blockIdx.y * BLOCK_M;
  const int first = STEPS * split / SPLITS, last = STEPS * (split + 1) / SPLITS;
  const bool pieces = ((uint64_t)x | (uint64_t)ldx * sizeof(X)) % 16 == 0;

  float acc[TILES_N][TILES_M][4] = {};   // sums over k of everything before
  float part[TILES_N][TILES_M][4] = {};  // sums over k of one group, without its scale
  Zero zero[TILES_N][2];
#pragma unroll
  for (int i = 0; i < TILES_N; ++i) zero[i][0] = zero[i][1] = Decoder::zero(BIAS);

  for (int s = 0; s < STAGES - 1; ++s) {
    if (first + s < last) fetch(c, shared + s * STAGE_BYTES, first + s, m0, n0, pieces);
    ptx::cp_async_commit();
  }
  for (int step = first; step < last; ++step) {
    ptx::cp_async_wait<STAGES - 2>();
    __syncthreads();  // the stage has come for everybody, and nobody reads the one before it any more
    const int next = step + STAGES - 1;
    if (next < last) fetch(c, shared + (next - first) % STAGES * STAGE_BYTES, next, m0, n0, pieces);
    ptx::cp_async_commit();
    const uint8_t* stage = shared + (step - first) % STAGES * STAGE_BYTES;
#pragma unroll
    for (int chunk = 0; chunk < WARP_K / CHUNK_K; ++chunk) {
      uint32_t q[TILES_N][4];  // 16 bytes of codes a lane, in its own place
#pragma unroll
      for (int i = 0; i < TILES_N; ++i) {
        const int at = (warp_k * (WARP_K / CHUNK_K) + chunk) * CHUNKS_N + warp_n * TILES_N + i;
        const uint4 v = *(const uint4*)(stage + (at * 32 + lane) * 16);
        q[i][0] = v.x, q[i][1] = v.y, q[i][2] = v.z, q[i][3] = v.w;
      }
#pragma unroll
      for (int tile = 0; tile < CHUNK_TILES; ++tile) {
        const int in_warp = chunk * CHUNK_K + tile * 16, k = warp_k * WARP_K + in_warp;
        const int row = (GROUPED && GROUP_K < BLOCK_K ? k / GROUP_K : 0) * BLOCK_N + warp_n * TILES_N * 16 + lane / 4;
        if (ZERO && in_warp % FLUSH_K == 0)
#pragma unroll
          for (int i = 0; i < TILES_N; ++i)
            for (int h = 0; h < 2; ++h) zero[i][h] = Decoder::zero(stage[Z_AT + row + i * 16 + h * 8]);
        uint32_t b[TILES_M][2];  // x: lanes 0..7 bring rows of k .. k+8, lanes 8..15 of k+8 .. k+16, and so on by tile
#pragma unroll
        for (int j = 0; j + 1 < TILES_M; j += 2) {
          uint32_t two[4];
          ptx::ldmatrix_x4(two, stage + X_AT + x_place(j * 8 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 8));
          b[j][0] = two[0], b[j][1] = two[1], b[j + 1][0] = two[2], b[j + 1][1] = two[3];
        }
        if (TILES_M % 2) ptx::ldmatrix_x2(b[TILES_M - 1], stage + X_AT + x_place(TILES_M * 8 - 8 + lane % 8, k + lane / 8 % 2 * 8));
#pragma unroll
        for (int i = 0; i < TILES_N; ++i) {
          uint32_t a[4];
          Decoder::tile(a, &q[i][tile * Decoder::WORDS], zero[i]);
#pragma unroll
          for (int j = 0; j < TILES_M; ++j) Operand<A>::mma(GROUPED ? part[i][j] : acc[i][j], a, b[j]);
        }
        if (GROUPED && (in_warp + 16) % FLUSH_K == 0)
#pragma unroll
          for (int i = 0; i < TILES_N; ++i) {
            const S* scales = (const S*)(stage + S_AT) + row + i * 16;
            const float upper = widen(scales[0]), lower = widen(scales[8]);
#pragma unroll
            for (int j = 0; j < TILES_M; ++j)
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                acc[i][j][e] += (e < 2 ? upper : lower) * part[i][j][e];
                part[i][j][e] = 0.f;
              }
          }
      }
    }
  }
  ptx::cp_async_wait<0>();
  __syncthreads();  // the pipeline's memory is free

  // Tokens and rows of the weight change places on the way out: sums[WARPS_K][BLOCK_M][BLOCK_N].
  float* sums = (float*)shared;
#pragma unroll
  for (int i = 0; i < TILES_N; ++i)
#pragma unroll
    for (int j = 0; j < TILES_M; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = j * 8 + lane % 4 * 2 + e % 2, n = (warp_n * TILES_N + i) * 16 + lane / 4 + e / 2 * 8;
        sums[(warp_k * BLOCK_M + row) * BLOCK_N + n] = acc[i][j][e];
      }
  __syncthreads();
  reduce_and_finish(c, sums, parts, tickets, m0, n0);
}
