// Emitted by gridstone; do not edit.
// spec      gemm[x: bf16(M,256), w: int4:g64:zero@lane16(200,256)] + bias + gelu + residual -> f32(M,200)
// schedule  gemv(dot=bf16,n_r=4,sums=13,prefetch=4096,k_splits=1)
// target    cpp:avx512_bf16
// recipe    gemm.cpp.gemv, template d00a9fa1ce9e6e9e
// flags     -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512 -mavx512bf16
// storage   w: lane16, 35840 bytes; maps to bits:
//             codes (n,k) -> 0 + ((16,4,4),((2,4),8,4)):((32,512,71680),((16,4),2048,17920))
//             scales (n,group) -> 16384 + ((16,4,4),4):((16,256,71680),17920)
//             zeros (n,group) -> 17408 + ((16,4,4),4):((8,128,71680),17920)
// repro     gridstone emit 'gemm[x: bf16(M,256), w: int4:g64:zero@lane16(200,256)] + bias + gelu + residual -> f32(M,200)' --target cpp:avx512_bf16 --schedule 'gemv(dot=bf16,n_r=4,sums=13,prefetch=4096,k_splits=1)'
//
// gemv: the weights stream once through one register tile that holds all rows. For M up to 4, bound by memory.

#include <omp.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {  // several kernels live in one process: nothing of theirs may be shared by name

// y[M,N] = epilogue(x[M,K] @ w[N,K]^T). The weight lies in blocks of BLOCK_N rows; a block holds its groups of GROUP_K one after the
// other, each as [codes][scales][zero points]. Codes: one 32-bit word holds WORD_K codes of one row, even k in its low half, odd k in
// its high half; the words of the block's rows lie side by side.
constexpr int64_t N = 200, K = 256;
constexpr int BITS = 4, BIAS = 8;   // value = (code - zero) * scale; zero is BIAS unless stored
constexpr bool ZERO = true;
constexpr int BLOCK_N = 64, WORD_K = 8;
constexpr int64_t BLOCK_BYTES = 8960, WORD_BYTES = 256;
constexpr int64_t GROUP_K = 64, GROUP_BYTES = 2240, SCALES_AT = 2048, ZEROS_AT = 2176;
constexpr int64_t PADDED_K = 256;
constexpr int64_t SLAB_K = 64;              // k between two updates of the float32 result
constexpr int64_t PREFETCH = 4480;    // bytes ahead of the codes being read

// Vocabulary of AVX-512 with BF16: one step multiplies a pair of bf16 k by vdpbf16ps.
#define VEC_BYTES 64
constexpr int VEC_REGISTERS = 32;
// Vectors of VEC_BYTES bytes: types, loads, stores, conversions. Compiler extensions only, so that every target reads the same text.
constexpr int LANES = VEC_BYTES / 4;  // fp32 lanes of one vector

#define INLINE static inline __attribute__((always_inline))
#define MEMBER __attribute__((always_inline))

typedef float vf __attribute__((vector_size(VEC_BYTES)));
typedef uint32_t vu __attribute__((vector_size(VEC_BYTES)));
typedef int32_t vi __attribute__((vector_size(VEC_BYTES)));
typedef uint16_t vu16 __attribute__((vector_size(VEC_BYTES / 2)));  // one 16-bit value for each fp32 lane
typedef uint8_t vu8 __attribute__((vector_size(VEC_BYTES / 4)));    // one byte for each fp32 lane

INLINE vf splat(float a) { return vf{} + a; }
INLINE vu splat_u(uint32_t a) { return vu{} + a; }
INLINE vf splat_bits(uint32_t a) { return (vf)splat_u(a); }

// Unaligned loads and stores; memcpy keeps the aliasing rules and compiles to one move.
template <class V> INLINE V load(const void* p) { V v; memcpy(&v, p, sizeof v); return v; }
template <class V> INLINE void store(void* p, V v) { memcpy(p, &v, sizeof v); }

INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }  // contracted: needs -ffp-contract=fast under -std=c++17
INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
// The bound comes first: where x is NaN the comparison is false and x, the NaN, is kept.
INLINE vf at_most(vf bound, vf x) { return select(bound < x, bound, x); }
INLINE vf at_least(vf bound, vf x) { return select(bound > x, bound, x); }
INLINE vf abs(vf a) { return (vf)((vu)a & 0x7fffffffu); }
INLINE vf copysign(vf magnitude, vf sign) { return (vf)(((vu)magnitude & 0x7fffffffu) | ((vu)sign & 0x80000000u)); }

// Element types of x, y, scales. `widen` gives fp32 lanes, `narrow` rounds to nearest even.
struct f16 { uint16_t bits; };
struct bf16 { uint16_t bits; };

// gcc 12 widens 16 x u16 in two halves and an insert: name the instruction.
INLINE vu widen_halves(vu16 a) {
#if VEC_BYTES == 64
  vu r;
  asm("vpmovzxwd %1, %0" : "=v"(r) : "vm"(a));
  return r;
#else
  return __builtin_convertvector(a, vu);
#endif
}
INLINE vf widen(const float* p) { return load<vf>(p); }
INLINE vf widen(const bf16* p) { return (vf)(widen_halves(load<vu16>(p)) << 16); }
INLINE vf widen(const f16* p) {
#if defined(__F16C__) && VEC_BYTES == 64
  return (vf)_mm512_cvtph_ps((__m256i)load<vu16>(p));
#elif defined(__F16C__) && VEC_BYTES == 32
  return (vf)_mm256_cvtph_ps((__m128i)load<vu16>(p));
#endif
  // Integer route: subnormals through int -> float (exact, 24 bits), so that a flush-to-zero mode cannot lose them.
  vu h = widen_halves(load<vu16>(p));
  vu e = h & 0x7c00u, m = h & 0x3ffu;
  vf normal = (vf)(((h & 0x7fffu) << 13) + (112u << 23));
  vf special = (vf)(((h & 0x7fffu) << 13) + (224u << 23));
  vf tiny = __builtin_convertvector((vi)m, vf) * 0x1p-24f;
  vf a = select((vi)(e == 0u), tiny, select((vi)(e == 0x7c00u), special, normal));
  return (vf)((vu)a | ((h & 0x8000u) << 16));
}
INLINE vf widen(const uint8_t* p) { return __builtin_convertvector((vi)__builtin_convertvector(load<vu8>(p), vu), vf); }
INLINE vu widen_u(const uint8_t* p) { return __builtin_convertvector(load<vu8>(p), vu); }

INLINE uint32_t bf16_bits(float a) {  // round to nearest even, NaN stays NaN
  uint32_t u; memcpy(&u, &a, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40u;
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}
INLINE void narrow(float* p, vf a) { store(p, a); }
INLINE void narrow(bf16* p, vf a) {  // not by vcvtneps2bf16, which takes subnormals for zero
  vu u = (vu)a;
  vu even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  vi nan = (vi)((u & 0x7fffffffu) > 0x7f800000u);
  vu r = ((vu)nan & ((u >> 16) | 0x40u)) | (~(vu)nan & even);
  store(p, __builtin_convertvector(r, vu16));
}
INLINE void narrow(f16* p, vf a) {
#if defined(__F16C__) && VEC_BYTES == 64
  store(p, (vu16)_mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT));
  return;
#elif defined(__F16C__) && VEC_BYTES == 32
  store(p, (vu16)_mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT));
  return;
#endif
  const vu u = (vu)a, m = u & 0x7fffffffu;
  const vu normal = (m - 0x38000000u + 0xfffu + ((m >> 13) & 1u)) >> 13;
  const vu tiny = (vu)((vf)m + 0.5f) - 0x3f000000u;  // 0.5 has the spacing of the subnormals: the sum rounds to a multiple of it
  vu r = (vu)select((vi)(m < 0x38800000u), (vf)tiny, (vf)normal);
  r = (vu)select((vi)(m >= 0x477ff000u), splat_bits(0x7c00u), (vf)r);  // 65520 and above: infinity
  r = (vu)select((vi)(m > 0x7f800000u), splat_bits(0x7e00u), (vf)r);
  store(p, __builtin_convertvector(r | ((u >> 16) & 0x8000u), vu16));
}
INLINE float widen1(const float* p) { return *p; }
INLINE float widen1(const bf16* p) { uint32_t u = (uint32_t)p->bits << 16; float f; memcpy(&f, &u, 4); return f; }
INLINE float widen1(const f16* p) {
  uint32_t h = p->bits, e = h & 0x7c00u, u;
  float f;
  if (e == 0) { f = (float)(h & 0x3ffu) * 0x1p-24f; memcpy(&u, &f, 4); }
  else u = ((h & 0x7fffu) << 13) + (e == 0x7c00u ? 224u << 23 : 112u << 23);
  u |= (h & 0x8000u) << 16;
  memcpy(&f, &u, 4);
  return f;
}

constexpr int K_STEP = 2;     // k of one step
typedef vu Operand;           // 16 lanes x (bf16 at even k in the low half, bf16 at odd k in the high half)
typedef uint32_t Step;        // one row's x for one step: the same pair

// k (within one 32-bit code word) of the first element of a step
template <int BITS> constexpr int step_k(int step) { return 2 * step; }

// The step at p; `step_at`: the step at k of a row of `size` elements, zeros behind its end.
template <class T> INLINE Step step_of(const T* p) { return bf16_bits(widen1(p)) | bf16_bits(widen1(p + 1)) << 16; }
INLINE Step step_of(const bf16* p) { Step s; memcpy(&s, p, 4); return s; }
template <class T> INLINE Step step_at(const T* row, int64_t k, int64_t size) {
  if (k + 1 < size) return step_of(row + k);
  return k < size ? bf16_bits(widen1(row + k)) : 0u;
}
template <class T> constexpr bool STEP_IS = false;  // whether a row of T already is a row of steps
template <> constexpr bool STEP_IS<bf16> = true;

INLINE Operand broadcast(const Step* x) { return splat_u(*x); }

// Inline assembly because gcc 12 copies and spills accumulators around the intrinsic's tied operand. Not volatile: may be scheduled.
INLINE vf dot(vf acc, Operand w, Operand x) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
  return acc;
}
INLINE vf dot_broadcast(vf acc, Operand w, const Step* x) {  // x from memory with the embedded {1to16} broadcast
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*x));
  return acc;
}

// Both halves times s, rounded to nearest even by the CPU: vcvtneps2bf16 gives 16 halfwords, widened back in place.
typedef uint16_t v16h __attribute__((vector_size(32)));
INLINE vu round_to_bf16(vf a) {
  v16h h;
  asm("vcvtneps2bf16 %1, %0" : "=v"(h) : "v"(a));
  return __builtin_convertvector(h, vu);
}
INLINE Operand scaled(Operand w, vf s) {
  return round_to_bf16((vf)(w << 16) * s) | round_to_bf16((vf)(w & 0xffff0000u) * s) << 16;
}

// gcc 12 turns __builtin_shuffle(table, index) of 32 halfwords into the two-source vpermi2w (slower, destroys the index): name vpermw.
INLINE vu permute_halves(vu table, vu index) {
  vu r;
  asm("vpermw %1, %2, %0" : "=v"(r) : "v"(table), "v"(index));
  return r;
}
constexpr uint16_t small_bf16(int i) {  // bf16 bits of an integer |i| <= 256
  int a = i < 0 ? -i : i, e = 0;
  if (a == 0) return 0;
  while ((a >> e) > 1) ++e;
  int mantissa = e <= 7 ? (a << (7 - e)) & 0x7f : (a >> (e - 7)) & 0x7f;
  return (uint16_t)((i < 0 ? 0x8000 : 0) | (127 + e) << 7 | mantissa);
}
struct Table { uint16_t v[32]; };
constexpr Table code_table(int first, int period) {  // entry i = first + i % period, as bf16
  Table t{};
  for (int i = 0; i < 32; ++i) t.v[i] = small_bf16(first + i % period);
  return t;
}

// Tables stay at namespace scope. As static members they would be unique in the process: a second kernel would read the first one's.
constexpr Table CODES = code_table(-BIAS, 16), DIFFERENCES = code_table(-16, 32);

// Decoder<BITS, ZERO>: code word -> operand of one step. `Zero` is what one group's zero points look like to it (per vector).
template <int BITS, bool ZERO> struct Decoder;

template <> struct Decoder<4, false> {  // u - BIAS. vpermw reads 5 index bits; the 16 entries repeated make the fifth irrelevant: no AND
  vu table = load<vu>(CODES.v);
  typedef vu Zero;
  INLINE Zero zero(const uint8_t*) { return vu{}; }
  MEMBER Operand operator()(vu word, int step, Zero) const {
    return permute_halves(table, word >> 4 * step);
  }
};
template <> struct Decoder<4, true> {  // u - z, 0 <= z <= 16: index u + (16 - z) into the values -16 .. 15
  vu table = load<vu>(DIFFERENCES.v);
  typedef vu Zero;
  INLINE Zero zero(const uint8_t* z) { return (16u - widen_u(z)) * 0x00010001u; }
  MEMBER Operand operator()(vu word, int step, Zero z) const {
    return permute_halves(table, ((word >> 4 * step) & 0x000f000fu) + z);
  }
};
template <bool ZERO> struct Decoder<8, ZERO> {  // through int32 -> fp32; |u - z| <= 255 has 8 significant bits: exact in bf16
  typedef vi Zero;
  INLINE Zero zero(const uint8_t* z) { return ZERO ? (vi)widen_u(z) : vi{} + BIAS; }
  MEMBER Operand operator()(vu word, int step, Zero z) const {
    vu lo = (vu)__builtin_convertvector((vi)((word >> 8 * step) & 0xffu) - z, vf);
    vu hi = (vu)__builtin_convertvector((vi)((word >> (8 * step + 16)) & 0xffu) - z, vf);
    return lo >> 16 | (hi & 0xffff0000u);
  }
};

// Activations of the epilogue. Coefficients: Lawson-weighted least squares on cosine nodes; each activation is within 2^-21 * max(1, |x|).

// e^x. x = i ln2 + r, |r| <= ln2 / 2; e^r = 1 + r + r^2 P(r), P of degree 4 (fit error 3.1e-9 relative). i ln2 is subtracted in two
// parts, the first exact. 2^i is applied in two halves, so that overflow gives inf and underflow goes through the subnormals.
INLINE vf exp(vf x) {
  const vf magic = splat(0x1.8p23f);  // adding it rounds to an integer, which then sits in the low mantissa bits
  x = at_most(splat(90.f), at_least(splat(-105.f), x));
  const vf shifted = fma(x, splat(0x1.715476p+0f), magic);
  const vf i = shifted - magic;
  vf r = fma(i, splat(-0x1.62e400p-1f), x);
  r = fma(i, splat(-0x1.7f7d1cp-20f), r);
  vf p = splat(1.381443303e-03f);
  p = fma(p, r, splat(8.368796699e-03f));
  p = fma(p, r, splat(4.166839580e-02f));
  p = fma(p, r, splat(1.666651997e-01f));
  p = fma(p, r, splat(4.999999340e-01f));
  p = fma(p, r * r, r) + 1.f;
  const vi n = (vi)shifted - (vi)magic, half = n >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
}

// Phi(-a), a >= 0, the standard normal's tail: exp(-a^2/2) * t Q(t), t = 1 / (1 + 0.3 a), Q of degree 7; 1.5e-7 relative on [0, 14].
INLINE vf normal_tail(vf a) {
  const vf t = 1.f / fma(a, splat(0.30f), splat(1.f));
  vf q = splat(3.567476992e-02f);
  q = fma(q, t, splat(-1.572030622e-01f));
  q = fma(q, t, splat(2.063534663e-01f));
  q = fma(q, t, splat(-5.368360374e-02f));
  q = fma(q, t, splat(1.285616039e-01f));
  q = fma(q, t, splat(9.991349913e-02f));
  q = fma(q, t, splat(1.207539549e-01f));
  q = fma(q, t, splat(1.196292989e-01f));
  return exp(a * a * -0.5f) * (q * t);
}

INLINE vf relu(vf x) { return at_least(vf{}, x); }  // NaN stays NaN
INLINE vf silu(vf x) { return x / (1.f + exp(-x)); }
INLINE vf gelu(vf x) {  // x Phi(x), Phi from the tail on either side, so that nothing cancels
  const vf tail = normal_tail(at_most(splat(16.f), abs(x)));  // Phi(-16) is zero in float32
  return x * select(x < 0.f, tail, 1.f - tail);
}
INLINE vf gelu_tanh(vf x) {  // x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3), by tanh(u) = 2 / (1 + e^(-2u)) - 1
  const vf minus_2u = x * fma(x * x, splat(-7.135481283e-02f), splat(-1.595769122f));
  return x / (1.f + exp(minus_2u));
}

typedef bf16 X;
typedef float Y;
typedef float B;
typedef float R;
typedef f16 S;

constexpr int NV = BLOCK_N / LANES;                // vectors across one block
constexpr int STEPS = WORD_K / K_STEP;             // dot steps of one code word
constexpr int64_t BLOCKS = (N + BLOCK_N - 1) / BLOCK_N;
constexpr int64_t SLABS = (PADDED_K + SLAB_K - 1) / SLAB_K;
constexpr bool WHOLE_SLABS = PADDED_K % SLAB_K == 0;

typedef Decoder<BITS, ZERO> Decode;
typedef typename Decode::Zero Zero;

INLINE int slab_words(int64_t s) {  // code words of slab s; a constant unless the last slab is shorter
  if (WHOLE_SLABS) return (int)(SLAB_K / WORD_K);
  const int64_t left = PADDED_K - s * SLAB_K;
  return (int)((left < SLAB_K ? left : SLAB_K) / WORD_K);
}

struct Slab { const uint8_t *codes, *group; };  // where the codes of a slab begin, and its scale group
INLINE Slab slab_at(const uint8_t* block, int64_t k) {
  const uint8_t* group = block + k / GROUP_K * GROUP_BYTES;
  return {group + k % GROUP_K / WORD_K * WORD_BYTES, group};
}
INLINE vf scale_at(const uint8_t* group, int v) { return widen((const S*)(group + SCALES_AT) + v * LANES); }
INLINE Zero zero_at(const Decode& decode, const uint8_t* group, int v) { return decode.zero(group + ZEROS_AT + v * LANES); }

// Hands out 0 .. work: three quarters in equal parts, so that a thread finds again what it has in cache, and the rest to whoever is
// free, since threads run unevenly. What is computed, and in which order within a part, does not depend on who does it.
struct Share {
  int64_t work, fixed, tail;
  Share(int64_t all, int64_t threads) : work(all), fixed(threads > 1 ? all - all / 4 : all), tail(fixed) {}
  template <class Body> void each(int64_t t, int64_t count, Body body) {
    const int64_t mine = fixed * (t + 1) / count;
    for (int64_t u = fixed * t / count;; ++u) {
      if (u >= mine) u = __atomic_fetch_add(&tail, 1, __ATOMIC_RELAXED);
      if (u >= work) return;
      body(u);
    }
  }
};

struct Call {  // the arguments of one call
  const X* x; int64_t ldx;
  const uint8_t* w;
  const B* bias;
  const R* residual; int64_t ldr;
  Y* y; int64_t ldy;
  int64_t m;
};

// Rows of x as the inner loop reads them: [slab][row tile][step][row], zero behind K.
static void pack_rows(const Call& a, Step* to, int64_t s, int64_t row, int rows) {
  const int words = slab_words(s);
  for (int r = 0; r < rows; ++r) {
    const X* from = a.x + (row + r) * a.ldx;
    for (int i = 0; i < words; ++i) {
      const int64_t k = s * SLAB_K + (int64_t)i * WORD_K;
      Step* at = to + i * STEPS * rows + r;
#pragma GCC unroll 8
      for (int t = 0; t < STEPS; ++t) at[t * rows] = step_of(from + k + step_k<BITS>(t));
    }
  }
}

// Where a tile's weight operands come from. The first row tile of a blocked kernel decodes and keeps: its dots hide the panel's stores.
enum From { FETCH_AND_DECODE, DECODE, DECODE_AND_KEEP, PANEL };

// c[ROWS][BLOCK_N] += x . w over one slab, NRT vectors of n from v0. SUMS independent sums hide the dot's latency in small tiles.
template <int ROWS, int NRT, int SUMS, From FROM, bool SCALED>
static __attribute__((noinline)) void tile(const Step* x, Slab slab, float* c, int v0, Operand* panel, int words) {
  if (WHOLE_SLABS) words = SLAB_K / WORD_K;  // a constant trip count
  constexpr bool FETCH = FROM == FETCH_AND_DECODE || FROM == DECODE_AND_KEEP;
  const Decode decode;
  Zero zero[NRT];
  vf acc[SUMS][ROWS][NRT];
#pragma GCC unroll 16
  for (int v = 0; v < NRT; ++v) zero[v] = zero_at(decode, slab.group, v0 + v);
#pragma GCC unroll 4
  for (int p = 0; p < SUMS; ++p)
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
      for (int v = 0; v < NRT; ++v) acc[p][m][v] = vf{};

  if (FETCH && v0 == 0)  // what lies behind a group's codes, as far ahead as they are
    for (int64_t b = SCALES_AT; b < GROUP_BYTES; b += 64) __builtin_prefetch(slab.group + PREFETCH + b, 0, 3);
  const uint8_t* codes = slab.codes + v0 * LANES * 4;
  Operand* w = panel + v0;
  c += v0 * LANES;
  for (int i = 0; i < words; ++i) {
    if (FETCH)
#pragma GCC unroll 4
      for (int b = 0; b < NRT * LANES * 4; b += 64) __builtin_prefetch(codes + PREFETCH + b, 0, 3);
#pragma GCC unroll 8
    for (int s = 0; s < STEPS; ++s) {
      Operand b[NRT];
#pragma GCC unroll 16
      for (int v = 0; v < NRT; ++v) {
        b[v] = FROM == PANEL ? w[s * NV + v] : decode(load<vu>(codes + v * LANES * 4), s, zero[v]);
        if (FROM == DECODE_AND_KEEP) w[s * NV + v] = b[v];
      }
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; ++m) {
        const Operand xm = broadcast(x + s * ROWS + m);
#pragma GCC unroll 16
        for (int v = 0; v < NRT; ++v) acc[s % SUMS][m][v] = dot(acc[s % SUMS][m][v], b[v], xm);
      }
    }
    x += STEPS * ROWS;
    codes += WORD_BYTES;
    w += STEPS * NV;
  }

#pragma GCC unroll 16
  for (int v = 0; v < NRT; ++v) {
    const vf scale = SCALED ? scale_at(slab.group, v0 + v) : vf{};
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m) {
      vf sum = acc[0][m][v];
#pragma GCC unroll 4
      for (int p = 1; p < SUMS; ++p) sum += acc[p][m][v];
      float* to = c + m * BLOCK_N + v * LANES;
      store(to, SCALED ? fma(sum, scale, load<vf>(to)) : load<vf>(to) + sum);
    }
  }
}

typedef void (*Tile)(const Step*, Slab, float*, int, Operand*, int);

template <class T> INLINE vf load_some(const T* p, int count) {  // count <= LANES lanes, the rest zero
  T t[LANES];
  memset(t, 0, sizeof t);
  memcpy(t, p, count * sizeof(T));
  return widen(t);
}

INLINE vf finish_vector(vf a, vf bias, vf residual) {
  a = a + bias;
  a = gelu(a);
  a = a + residual;
  return a;
}

// Columns n0 .. of rows row0 .. row0 + rows: c[rows][BLOCK_N] through the epilogue into y. Rows outside, vectors inside: y's rows are far
// apart, often by a power of two, so a line is finished while it is in L1.
static void finish(const Call& a, const float* c, int64_t row0, int64_t rows, int64_t n0) {
  const int64_t left = N - n0;
  vf bias[NV];
  for (int v = 0; v < NV; ++v) {
    const int64_t count = left - v * LANES;
    const B* from = a.bias + n0 + v * LANES;
    bias[v] = count <= 0 ? vf{} : count >= LANES ? widen(from) : load_some(from, (int)count);
  }
  for (int64_t m = 0; m < rows; ++m) {
    const float* from = c + m * BLOCK_N;
    const R* residual = a.residual + (row0 + m) * a.ldr + n0;
    Y* to = a.y + (row0 + m) * a.ldy + n0;
    if (left >= BLOCK_N) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v)
        narrow(to + v * LANES, finish_vector(load<vf>(from + v * LANES), bias[v], widen(residual + v * LANES)));
    } else {
      for (int v = 0; v * LANES < left; ++v) {
        const int count = left - v * LANES < LANES ? (int)(left - v * LANES) : LANES;
        const vf r = load_some(residual + v * LANES, count);
        Y t[LANES];
        narrow(t, finish_vector(load<vf>(from + v * LANES), bias[v], r));
        memcpy(to + v * LANES, t, count * sizeof(Y));
      }
    }
  }
}

// y's lines are written once, far apart: ask for them while the last slab is being computed.
INLINE void fetch_y(const Call& a, int64_t row, int rows, int64_t n0) {
  for (int m = 0; m < rows; ++m)
    for (int b = 0; b < BLOCK_N * (int)sizeof(Y); b += 64)
      __builtin_prefetch((const uint8_t*)(a.y + (row + m) * a.ldy + n0) + b, 1, 3);
}

constexpr int MAX_ROWS = 4;                 // more rows are taken four at a time
constexpr int K_SPLITS = 1;       // parts of K, computed apart and summed in order

// By number of rows: vectors of n at once, and their independent sums, taken in turn.
constexpr int VECTORS[] = {0,
  4,
  4,
  4,
  4,
};
constexpr int SUMS[] = {0,
  4,
  2,
  2,
  1,
};

// Slabs s0 .. s1 of one block of n into c[ROWS][BLOCK_N].
template <int ROWS> static void stream(const Call& a, const Step* packed, int64_t block, int64_t s0, int64_t s1, float* c) {
  const uint8_t* w = a.w + block * BLOCK_BYTES;
  memset(c, 0, ROWS * BLOCK_N * sizeof(float));
  for (int64_t s = s0; s < s1; ++s) {
    const Step* x = packed + s * (SLAB_K / K_STEP) * ROWS;
    for (int v0 = 0; v0 < NV; v0 += VECTORS[ROWS])
      tile<ROWS, VECTORS[ROWS], SUMS[ROWS], FETCH_AND_DECODE, true>(x, slab_at(w, s * SLAB_K), c, v0, nullptr, slab_words(s));
  }
}

// Rows row0 .. row0 + ROWS of y. parts: [K_SPLITS][BLOCKS][ROWS][BLOCK_N] float32, shared.
template <int ROWS> static void rows_of(const Call& a, int64_t row0, int64_t threads, Step* packed, float* parts) {
  // A single contiguous row of the dot's own type already lies as the loop reads it.
  const bool as_is = STEP_IS<X> && ROWS == 1 && PADDED_K == K;
  if (as_is) packed = (Step*)(a.x + row0 * a.ldx);
  else for (int64_t s = 0; s < SLABS; ++s) pack_rows(a, packed + s * (SLAB_K / K_STEP) * ROWS, s, row0, ROWS);
  Share share(BLOCKS * K_SPLITS, threads);
#pragma omp parallel num_threads(threads)
  {
    const int64_t t = omp_get_thread_num(), count = omp_get_num_threads();
    share.each(t, count, [&](int64_t u) {
      const int64_t block = u / K_SPLITS, part = u % K_SPLITS;
      float own[ROWS * BLOCK_N];
      float* c = K_SPLITS == 1 ? own : parts + (part * BLOCKS + block) * ROWS * BLOCK_N;
      stream<ROWS>(a, packed, block, SLABS * part / K_SPLITS, SLABS * (part + 1) / K_SPLITS, c);
      if (K_SPLITS == 1) finish(a, c, row0, ROWS, block * BLOCK_N);
    });
    if (K_SPLITS > 1) {
#pragma omp barrier
      for (int64_t block = BLOCKS * t / count; block < BLOCKS * (t + 1) / count; ++block) {
        float* c = parts + block * ROWS * BLOCK_N;
        for (int part = 1; part < K_SPLITS; ++part)
          for (int i = 0; i < ROWS * BLOCK_N; ++i) c[i] += parts[part * BLOCKS * ROWS * BLOCK_N + block * ROWS * BLOCK_N + i];
        finish(a, c, row0, ROWS, block * BLOCK_N);
      }
    }
  }
}

constexpr int64_t PACKED_BYTES = (MAX_ROWS * SLABS * SLAB_K / K_STEP * (int64_t)sizeof(Step) + 63) & ~(int64_t)63;

}  // namespace

extern "C" __attribute__((visibility("default"))) int64_t gs_gemm_scratch(int64_t m, int64_t threads) {
  const bool as_is = STEP_IS<X> && m == 1 && PADDED_K == K;
  return (as_is ? 0 : PACKED_BYTES) + (K_SPLITS > 1 ? K_SPLITS * BLOCKS * MAX_ROWS * BLOCK_N * (int64_t)sizeof(float) : 0);
}

extern "C" __attribute__((visibility("default"))) void gs_gemm(
    const X* x, int64_t ldx, const uint8_t* w, const B* bias, const R* residual, int64_t ldr, Y* y, int64_t ldy, int64_t m,
    int64_t threads, uint8_t* scratch) {
  const Call a = {x, ldx, w, bias, residual, ldr, y, ldy, m};
  const bool as_is = STEP_IS<X> && m == 1 && PADDED_K == K;
  Step* packed = (Step*)scratch;
  float* parts = (float*)(scratch + (as_is ? 0 : PACKED_BYTES));
  for (int64_t row = 0; row < m; row += MAX_ROWS) {
    switch (m - row) {
      case 1: rows_of<1>(a, row, threads, packed, parts); break;
      case 2: rows_of<2>(a, row, threads, packed, parts); break;
      case 3: rows_of<3>(a, row, threads, packed, parts); break;
      default: rows_of<4>(a, row, threads, packed, parts);
    }
  }
}
