// Emitted by gridstone; do not edit.
// spec      gemm[x: bf16(M,256), w: int4:g64:zero@mma16(200,256)] + bias + gelu + residual -> f32(M,200)
// schedule  gemv(block_m=4,block_k=128,warps_n=1,warps_k=2,tiles_n=1,k_splits=1,ordered=true)
// target    cuda:sm_80
// recipe    gemm.cuda.gemv, template 7d9f552b0c0cea55
// flags     none beyond the toolchain
// storage   w: mma16, 29120 bytes; maps to bits:
//             codes (n,k) -> 0 + ((8,2,13),(2,4,2,(1,4),4)):((512,4,4096),(16,128,8,(16,32),53248))
//             scales (n,group) -> 212992 + (208,4):(16,3328)
//             zeros (n,group) -> 226304 + (208,4):(8,1664)
// repro     gridstone emit 'gemm[x: bf16(M,256), w: int4:g64:zero@mma16(200,256)] + bias + gelu + residual -> f32(M,200)' --target cuda:sm_80 --schedule 'gemv(block_m=4,block_k=128,warps_n=1,warps_k=2,tiles_n=1,k_splits=1,ordered=true)'
//
// gemv: for a few rows of x the weights are the traffic. They stream once, from memory into registers, where they meet x:
// a warp has 16 bytes a lane of each of its next chunks under way, and asks for another when it has multiplied one.
// All else that a block reads (x, scales, zero points) is in shared memory before it starts.

#include "ptx.cuh"

#define DEVICE __device__ __forceinline__

namespace {

// y[M,N] = epilogue(x[M,K] @ w[N,K]^T). The weight's codes lie in chunks of 16 rows by CHUNK_K columns, 512 bytes: 16 for
// each lane of a warp, in the order in which it holds the A operand of mma.m16n8k16. Chunks follow each other along n,
// then k. Behind them lie all scales [GROUPS][PADDED_N], then all zero points.
constexpr int N = 200, K = 256;
constexpr int BITS = 4, BIAS = 8;   // value = (code - zero) * scale; zero is BIAS unless stored
constexpr bool ZERO = true;
constexpr int PADDED_N = 208, PADDED_K = 256, CHUNK_K = 64;
constexpr int GROUP_K = 64, GROUPS = 4;   // k of one scale; all of PADDED_K for a scale per row
constexpr int64_t SCALES_AT = 26624, ZEROS_AT = 28288;

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
typedef float Y;
typedef float B;
typedef float R;
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
  const float bias = widen(c.bias[n]);
  const float residual = widen(c.residual[row * c.ldr + n]);
  a = a + bias;
  a = gelu(a);
  a = a + residual;
  narrow(c.y + row * c.ldy + n, a);
}
// Decoding to float32: the codes of a lane's eight elements of a 16x16 tile, two for each register of an A operand, as the
// exact numbers u - zero.
template <int BITS> struct Exact;

template <> struct Exact<4> {
  static constexpr int WORDS = 1;
  struct Zero { float at[4]; };  // 2^(23 - 4 i) + z: floats whose bit 4 i is worth one, for the i-th code of a half word
  static DEVICE Zero zero(uint32_t z) {
    Zero all;
#pragma unroll
    for (int i = 0; i < 4; ++i) all.at[i] = __uint_as_float(one_at(i) | z << 4 * i);
    return all;
  }
  static DEVICE void tile(float (&u)[8], const uint32_t* q, const Zero (&z)[2]) {
#pragma unroll
    for (int e = 0; e < 8; ++e)  // a code stays where it lies: no shift but that of the upper half word
      u[e] = __uint_as_float(ptx::lop3<0xEA>(e % 2 ? q[0] >> 16 : q[0], 0xFu << e / 2 * 4, one_at(e / 2))) - z[e / 2 % 2].at[e / 2];
  }
  static DEVICE uint32_t one_at(int i) { return 0x4B000000u - (i << 25); }  // 2^(23 - 4 i)
};

template <> struct Exact<8> {
  static constexpr int WORDS = 2;
  typedef float Zero;  // 2^23 + z
  static DEVICE Zero zero(uint32_t z) { return __uint_as_float(0x4B000000u | z); }
  static DEVICE void tile(float (&u)[8], const uint32_t* q, const Zero (&z)[2]) {
#pragma unroll
    for (int e = 0; e < 8; ++e)  // one byte of the word below the bytes of 2^23
      u[e] = __uint_as_float(ptx::prmt(q[e / 4], 0x4B000000u, 0x7650u + e % 4)) - z[e / 2 % 2];
  }
};
constexpr int BLOCK_M = 4, BLOCK_K = 128;      // rows of x, and k that a warp has under way
constexpr int WARPS_N = 1, WARPS_K = 2;      // warps side by side along n, and taking turns along k
constexpr int TILES_N = 1;                            // 16 rows of the weight each, per warp
constexpr int SPLITS = 1;                            // blocks that share K
constexpr bool ORDERED = true;                     // their sums are added in order

constexpr int THREADS = 32 * WARPS_N * WARPS_K, BLOCK_N = 16 * TILES_N * WARPS_N;
constexpr int CHUNKS = PADDED_K / CHUNK_K, CHUNK_TILES = CHUNK_K / 16, LOADS = BLOCK_K / CHUNK_K;
constexpr int STEPS = (CHUNKS + LOADS - 1) / LOADS, MOST_STEPS = (STEPS + SPLITS - 1) / SPLITS;  // of all, and of a block
constexpr bool GROUPED = GROUPS > 1;
constexpr int FLUSH_K = GROUP_K < BLOCK_K ? GROUP_K : BLOCK_K;  // k between two uses of a scale

// Groups that the steps of a block can meet, wherever the first of them begins.
constexpr int GROUP_STEPS = GROUP_K > BLOCK_K ? GROUP_K / BLOCK_K : 1, STEP_GROUPS = GROUP_K < BLOCK_K ? BLOCK_K / GROUP_K : 1;
constexpr int MET_GROUPS = ((MOST_STEPS + GROUP_STEPS - 2) / GROUP_STEPS + 1) * STEP_GROUPS;
constexpr int BLOCK_GROUPS = MET_GROUPS < GROUPS ? MET_GROUPS : GROUPS;

// Shared memory of a block, in bytes: [x, a row after the other][zeros, read as tokens beyond them][scales][zero points].
// Rows of x begin in different banks.
constexpr int X_STRIDE = MOST_STEPS * BLOCK_K * (int)sizeof(X) + 16, NOTHING_AT = BLOCK_M * X_STRIDE;
constexpr int NOTHING_BYTES = sizeof(X) == 2 ? BLOCK_K * 2 : 0, S_AT = NOTHING_AT + NOTHING_BYTES;
constexpr int Z_AT = S_AT + (GROUPED ? BLOCK_GROUPS * BLOCK_N * (int)sizeof(S) : 0);

// Rows of scales or zero points from `group` on, `bytes` an element.
DEVICE void fetch_groups(uint8_t* to, const uint8_t* from, int first, int n0, int bytes) {
  for (int i = threadIdx.x * 16; i < BLOCK_GROUPS * BLOCK_N * bytes; i += THREADS * 16) {
    const int n = n0 + i / bytes % BLOCK_N, group = first + i / bytes / BLOCK_N;
    const bool inside = n < PADDED_N && group < GROUPS;
    ptx::cp_async_16(to + i, from + (inside ? ((int64_t)group * PADDED_N + n) * bytes : 0), inside ? 16 : 0);
  }
}

// Asks for all but the codes of steps [first, last). Rows of x that start at multiples of 16 bytes are copied in pieces.
DEVICE void fetch(const Call& c, uint8_t* to, int first, int last, int64_t m0, int n0) {
  constexpr int PIECE = 16 / (int)sizeof(X);
  const bool pieces = ((uint64_t)c.x | (uint64_t)c.ldx * sizeof(X)) % 16 == 0;
  for (int row = 0; row < BLOCK_M; ++row)
    for (int i = threadIdx.x * PIECE; i < (last - first) * BLOCK_K; i += THREADS * PIECE) {
      const int k = first * BLOCK_K + i, left = m0 + row < c.m && k < K ? min(K - k, PIECE) : 0;
      const X* from = left ? c.x + (m0 + row) * c.ldx + k : c.x;
      X* place = (X*)(to + row * X_STRIDE) + i;
      if (pieces) {
        ptx::cp_async_16(place, from, left * (int)sizeof(X));
      } else {
        for (int e = 0; e < PIECE; ++e) place[e] = e < left ? from[e] : X();
      }
    }
  for (int i = threadIdx.x; i < NOTHING_BYTES / 4; i += THREADS) ((uint32_t*)(to + NOTHING_AT))[i] = 0;
  if (GROUPED) fetch_groups(to + S_AT, c.w + SCALES_AT, first * BLOCK_K / GROUP_K, n0, (int)sizeof(S));
  if (ZERO) fetch_groups(to + Z_AT, c.w + ZEROS_AT, first * BLOCK_K / GROUP_K, n0, 1);
}
// What a lane does with 16 rows of the weight by 16 k, for each type of x. Its sums d[h * TOKENS + r] are of row
// lane / 4 + 8 h and of token(lane, r), over the k that it has seen.

// x of 16 bits: the tensor cores multiply. The weight is the A operand; of the eight tokens of the B operand those from
// BLOCK_M on are zeros.
template <class T> struct Lane {
  typedef Decode<T, BITS> Decoder;
  static constexpr int TOKENS = 2;
  uint32_t b[4];  // B operands of two tiles

  static DEVICE int token(int lane, int r) { return lane % 4 * 2 + r; }
  // Byte of x at which a lane begins, and how far it goes for one k: lane l brings token l % 8 of the k that follow 8 (l / 8).
  static DEVICE int begin(int lane) { return lane % 8 < BLOCK_M ? lane % 8 * X_STRIDE + lane / 8 * 16 : NOTHING_AT; }
  static DEVICE int stride(int lane) { return lane % 8 < BLOCK_M ? (int)sizeof(T) : 0; }
  DEVICE void take(const uint8_t* at) { ptx::ldmatrix_x4(b, at); }
  DEVICE void multiply(float (&d)[4], int tile, const uint32_t* q, const typename Decoder::Zero (&zero)[2]) const {
    const uint32_t x[2] = {b[tile % 2 * 2], b[tile % 2 * 2 + 1]};
    uint32_t a[4];
    Decoder::tile(a, q, zero);
    Operand<T>::mma(d, a, x);
  }
  static DEVICE float whole(float v) { return v; }
};

// x of 32 bits: exact products outside the tensor cores, which would round x. The four lanes of a row have a quarter of k each.
template <> struct Lane<float> {
  typedef Exact<BITS> Decoder;
  static constexpr int TOKENS = BLOCK_M;
  float2 x[BLOCK_M][4];  // of two tiles: k 2 (lane % 4) and the next, and eight after these

  static DEVICE int token(int lane, int r) { return lane % 4 ? BLOCK_M : r; }  // the four have the same sums in the end
  static DEVICE int begin(int lane) { return lane % 4 * 8; }
  static DEVICE int stride(int) { return (int)sizeof(float); }
  DEVICE void take(const uint8_t* at) {
#pragma unroll
    for (int i = 0; i < BLOCK_M * 4; ++i) x[i / 4][i % 4] = *(const float2*)(at + i / 4 * X_STRIDE + i % 4 * 32);
  }
  DEVICE void multiply(float (&d)[2 * BLOCK_M], int tile, const uint32_t* q, const Decoder::Zero (&zero)[2]) const {
    float u[8];  // register by register of an A operand: (row + 8 (i % 2), k pair i / 2)
    Decoder::tile(u, q, zero);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int r = 0; r < BLOCK_M; ++r) {
        const float2 pair = x[r][tile % 2 * 2 + i / 2];
        d[i % 2 * BLOCK_M + r] += u[2 * i] * pair.x;
        d[i % 2 * BLOCK_M + r] += u[2 * i + 1] * pair.y;
      }
  }
  static DEVICE float whole(float v) {
    v += __shfl_xor_sync(0xFFFFFFFFu, v, 1);
    return v + __shfl_xor_sync(0xFFFFFFFFu, v, 2);
  }
};
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

extern "C" __global__ void __launch_bounds__(THREADS)
gs_gemm(const X* x, int64_t ldx, const uint8_t* w, const B* bias, const R* residual, int64_t ldr, Y* y, int64_t ldy,
        int64_t m, float* parts, uint32_t* tickets) {
  typedef typename Lane<X>::Decoder Decoder;
  const Call c = {x, ldx, w, bias, residual, ldr, y, ldy, m};
  const int t = threadIdx.x, lane = t % 32, warp_n = t / 32 % WARPS_N, warp_k = t / 32 / WARPS_N;
  const int n0 = blockIdx.x * BLOCK_N, split = blockIdx.z;
  const int64_t m0 = (int64_t)blockIdx.y * BLOCK_M;
  const int first = STEPS * split / SPLITS, last = STEPS * (split + 1) / SPLITS;

  // This lane's 16 bytes of the warp's next step, for each tile; a tile beyond the weight reads the last one's.
  constexpr int64_t CHUNK_BYTES = (int64_t)PADDED_N / 16 * 512;  // from a chunk to the next along k
  const uint8_t* codes[TILES_N];
#pragma unroll
  for (int i = 0; i < TILES_N; ++i)
    codes[i] = w + (first + warp_k) * LOADS * CHUNK_BYTES + min(n0 / 16 + warp_n * TILES_N + i, PADDED_N / 16 - 1) * 512 + lane * 16;
  uint4 q[LOADS][TILES_N];
#pragma unroll
  for (int u = 0; u < LOADS; ++u)
#pragma unroll
    for (int i = 0; i < TILES_N; ++i)
      if (first + warp_k < last && (first + warp_k) * LOADS + u < CHUNKS) q[u][i] = ptx::ld_global_once(codes[i] + u * CHUNK_BYTES);

  fetch(c, shared, first, last, m0, n0);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();

  constexpr int SUMS = 2 * Lane<X>::TOKENS;
  float acc[TILES_N][SUMS] = {};   // sums over k of everything before
  float part[TILES_N][SUMS] = {};  // sums over k of one group, without its scale
  typename Decoder::Zero zero[TILES_N][2];
#pragma unroll
  for (int i = 0; i < TILES_N; ++i) zero[i][0] = zero[i][1] = Decoder::zero(BIAS);
  const int along_k = Lane<X>::stride(lane) * BLOCK_K;
  const uint8_t* xs = shared + Lane<X>::begin(lane) + warp_k * along_k;

  for (int step = first + warp_k; step < last; step += WARPS_K, xs += WARPS_K * along_k) {
    const int group = (GROUPED ? step * BLOCK_K / GROUP_K - first * BLOCK_K / GROUP_K : 0) * BLOCK_N;
    const int row = group + warp_n * TILES_N * 16 + lane / 4;  // of scales and zero points
#pragma unroll
    for (int i = 0; i < TILES_N; ++i) codes[i] += WARPS_K * LOADS * CHUNK_BYTES;
#pragma unroll
    for (int u = 0; u < LOADS; ++u) {
      if (CHUNKS % LOADS && step * LOADS + u >= CHUNKS) break;
      Lane<X> pair;  // x of two tiles
#pragma unroll
      for (int tile = 0; tile < CHUNK_TILES; ++tile) {
        const int k = u * CHUNK_K + tile * 16, at = row + (GROUPED && GROUP_K < BLOCK_K ? k / GROUP_K * BLOCK_N : 0);
        if (tile % 2 == 0) pair.take(xs + k * (int)sizeof(X));
        if (ZERO && k % FLUSH_K == 0)
#pragma unroll
          for (int i = 0; i < TILES_N; ++i)
            for (int h = 0; h < 2; ++h) zero[i][h] = Decoder::zero(shared[Z_AT + at + i * 16 + h * 8]);
#pragma unroll
        for (int i = 0; i < TILES_N; ++i) {
          const uint32_t words[4] = {q[u][i].x, q[u][i].y, q[u][i].z, q[u][i].w};
          pair.multiply(GROUPED ? part[i] : acc[i], tile, words + tile * Decoder::WORDS, zero[i]);
        }
        if (GROUPED && (k + 16) % FLUSH_K == 0)
#pragma unroll
          for (int i = 0; i < TILES_N; ++i)
#pragma unroll
            for (int s = 0; s < SUMS; ++s) {
              acc[i][s] += widen(((const S*)(shared + S_AT))[at + i * 16 + s / (SUMS / 2) * 8]) * part[i][s];
              part[i][s] = 0.f;
            }
      }
#pragma unroll
      for (int i = 0; i < TILES_N; ++i)
        if (step + WARPS_K < last && (CHUNKS % LOADS == 0 || (step + WARPS_K) * LOADS + u < CHUNKS))
          q[u][i] = ptx::ld_global_once(codes[i] + u * CHUNK_BYTES);
    }
  }
  __syncthreads();  // x is no longer read: the sums take its place

  float* sums = (float*)shared;
#pragma unroll
  for (int i = 0; i < TILES_N; ++i)
#pragma unroll
    for (int s = 0; s < SUMS; ++s) {
      const int token = Lane<X>::token(lane, s % (SUMS / 2)), n = (warp_n * TILES_N + i) * 16 + s / (SUMS / 2) * 8 + lane / 4;
      const float v = Lane<X>::whole(acc[i][s]);
      if (token < BLOCK_M) sums[(warp_k * BLOCK_M + token) * BLOCK_N + n] = v;
    }
  __syncthreads();
  reduce_and_finish(c, sums, parts, tickets, m0, n0);
}
