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
constexpr int64_t N = $(n), K = $(k);
constexpr int BITS = $(code_bits), BIAS = $(code_bias);   // value = (code - zero) * scale; zero is BIAS unless stored
constexpr bool ZERO = $(stored_zeros|lower);
constexpr int BLOCK_N = $(block_n), WORD_K = $(word_k);
constexpr int64_t BLOCK_BYTES = $(block_bytes), WORD_BYTES = $(word_bytes);
constexpr int64_t GROUP_K = $(group_k), GROUP_BYTES = $(group_bytes), SCALES_AT = $(scales_at), ZEROS_AT = $(zeros_at);
constexpr int64_t PADDED_K = $(padded_k);
constexpr int64_t SLAB_K = $(slab_k);              // k between two updates of the float32 result
constexpr int64_t PREFETCH = $(prefetch_bytes);    // bytes ahead of the codes being read

//% include "lib/cpp/vocabulary.h"

//% include "lib/cpp/activation.h"

typedef $(x_type) X;
typedef $(y_type) Y;
typedef $(bias_type) B;
typedef $(residual_type) R;
typedef $(scale_type) S;

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
//% if padded_k > k
      if (k + WORD_K > K) {
        for (int t = 0; t < STEPS; ++t) at[t * rows] = step_at(from, k + step_k<BITS>(t), K);
        continue;
      }
//% endif
#pragma GCC unroll 8
      for (int t = 0; t < STEPS; ++t) at[t * rows] = step_of(from + k + step_k<BITS>(t));
    }
  }
}

