// Vocabulary of AVX-512 without BF16: float32 multiply-add.
#define VEC_BYTES 64
constexpr int VEC_REGISTERS = 32;
//% include "lib/cpp/base.h"

//% include "lib/cpp/fp32.h"

struct FloatTable { float v[16]; };
constexpr FloatTable float_table(int first) {
  FloatTable t{};
  for (int i = 0; i < 16; ++i) t.v[i] = (float)(first + i);
  return t;
}
// Never static members, which would be unique in the process: a second kernel would read the first one's.
constexpr FloatTable BIASED_CODES = float_table(-BIAS), CODES = float_table(0);

template <> struct Decoder<4, false> {  // vpermps reads 4 index bits: no AND
  vf table = load<vf>(BIASED_CODES.v);
  typedef vf Zero;
  INLINE Zero zero(const uint8_t*) { return vf{}; }
  MEMBER Operand operator()(vu word, int p, Zero) const {
    return __builtin_shuffle(table, (vi)(word >> 4 * p));
  }
};
template <> struct Decoder<4, true> {  // codes as fp32, then the exact subtraction u - z
  vf table = load<vf>(CODES.v);
  typedef vf Zero;
  INLINE Zero zero(const uint8_t* z) { return widen(z); }
  MEMBER Operand operator()(vu word, int p, Zero z) const {
    return __builtin_shuffle(table, (vi)(word >> 4 * p)) - z;
  }
};

