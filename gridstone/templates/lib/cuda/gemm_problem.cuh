#include "ptx.cuh"

#define DEVICE __device__ __forceinline__

namespace {

// y[M,N] = epilogue(x[M,K] @ w[N,K]^T). The weight's codes lie in chunks of 16 rows by CHUNK_K columns, 512 bytes: 16 for
// each lane of a warp, in the order in which it holds the A operand of mma.m16n8k16. Chunks follow each other along n,
// then k. Behind them lie all scales [GROUPS][PADDED_N], then all zero points.
constexpr int N = $(n), K = $(k);
constexpr int BITS = $(code_bits), BIAS = $(code_bias);   // value = (code - zero) * scale; zero is BIAS unless stored
constexpr bool ZERO = $(stored_zeros|lower);
constexpr int PADDED_N = $(padded_n), PADDED_K = $(padded_k), CHUNK_K = $(chunk_k);
constexpr int GROUP_K = $(group_k), GROUPS = $(groups);   // k of one scale; all of PADDED_K for a scale per row
constexpr int64_t SCALES_AT = $(scales_at), ZEROS_AT = $(zeros_at);

//% include "lib/cuda/numbers.cuh"

//% include "lib/cuda/decode.cuh"

//% include "lib/cuda/activation.cuh"

typedef $(x_type) X;
typedef $(y_type) Y;
typedef $(bias_type) B;
typedef $(residual_type) R;
typedef $(scale_type) S;

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
//% if "bias" in steps|join
  const float bias = widen(c.bias[n]);
//% endif
//% if "residual" in steps|join
  const float residual = widen(c.residual[row * c.ldr + n]);
//% endif
//% for step in steps
  a = $(step);
//% endfor
  narrow(c.y + row * c.ldy + n, a);
}
