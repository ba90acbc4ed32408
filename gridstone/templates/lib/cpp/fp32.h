// The float32 half of a vocabulary: one step is one k.
constexpr int K_STEP = 1;
typedef vf Operand;
typedef float Step;

// k within one code word of position p: even k in the low half, odd k in the high half
template <int BITS> constexpr int step_k(int p) { return 2 * (p % (16 / BITS)) + p / (16 / BITS); }

template <class T> INLINE Step step_of(const T* p) { return widen1(p); }
template <class T> INLINE Step step_at(const T* row, int64_t k, int64_t size) { return k < size ? widen1(row + k) : 0.f; }
template <class T> constexpr bool STEP_IS = false;  // never: the steps of a word are not in k order

INLINE Operand scaled(Operand w, vf s) { return w * s; }
INLINE Operand broadcast(const Step* x) { return splat(*x); }
#ifdef __FMA__  // named, with the accumulator tied: gcc 12 otherwise copies and spills accumulators in the larger tiles
INLINE vf dot(vf acc, Operand w, Operand x) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
  return acc;
}
#else
INLINE vf dot(vf acc, Operand w, Operand x) {
  acc = fma(w, x, acc);
#if defined(__x86_64__)  // an empty statement that wants the sum in a register: stops gcc from reordering whole steps and spilling
  asm("" : "+x"(acc));
#elif defined(__aarch64__)
  asm("" : "+w"(acc));
#endif
  return acc;
}
#endif
INLINE vf dot_broadcast(vf acc, Operand w, const Step* x) { return fma(w, splat(*x), acc); }

template <int BITS, bool ZERO> struct Decoder {  // shift, mask, int32 -> fp32, exact
  typedef vi Zero;
  INLINE Zero zero(const uint8_t* z) { return ZERO ? (vi)widen_u(z) : vi{} + BIAS; }
  MEMBER Operand operator()(vu word, int p, Zero z) const {
    return __builtin_convertvector((vi)((word >> BITS * p) & ((1u << BITS) - 1u)) - z, vf);
  }
};

// u - BIAS in three operations instead of four: a code at bit 4q under the exponent of 2^(23 - 4q) is the number 2^(23 - 4q) + u, from
// which one exact subtraction leaves u - BIAS. Codes above bit 19 would reach the exponent; they come from the word shifted by 12, once.
#if VEC_BYTES < 64
template <> struct Decoder<4, false> {
  typedef vi Zero;
  INLINE Zero zero(const uint8_t*) { return vi{}; }
  MEMBER Operand operator()(vu word, int p, Zero) const {
    const int q = p < 5 ? p : p - 3;
    const vu code = (p < 5 ? word : word >> 12) & (15u << 4 * q);
    return (vf)(code | (uint32_t)(127 + 23 - 4 * q) << 23) - (float)((1 << (23 - 4 * q)) + BIAS);
  }
};
#endif

