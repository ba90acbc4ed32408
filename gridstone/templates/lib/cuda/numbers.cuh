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
