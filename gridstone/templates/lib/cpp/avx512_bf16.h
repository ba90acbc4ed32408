// Vocabulary of AVX-512 with BF16: one step multiplies a pair of bf16 k by vdpbf16ps.
#define VEC_BYTES 64
constexpr int VEC_REGISTERS = 32;
//% include "lib/cpp/base.h"

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

