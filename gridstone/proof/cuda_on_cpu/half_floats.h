// float16 and bfloat16 as bits, rounded to nearest even. Written out, so that nothing depends on the host's instructions.
#pragma once
#include <stdint.h>
#include <string.h>

namespace gs {

inline float f32_of_bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
inline uint32_t bits_of_f32(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

inline float f32_of_bf16(uint16_t h) { return f32_of_bits((uint32_t)h << 16); }
inline uint16_t bf16_of_f32(float f) {
  const uint32_t u = bits_of_f32(f);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;  // PTX: the canonical NaN
  return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}

inline float f32_of_f16(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31, mantissa = h & 1023u;
  if (exponent == 31) return f32_of_bits(sign | 0x7F800000u | mantissa << 13);
  if (exponent) return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float tiny = (float)mantissa * 5.9604644775390625e-08f;  // 2^-24
  return sign ? -tiny : tiny;
}

// a * b + c for a fused multiply-add of halves: rounded to odd where double does not hold it, so that the one rounding to
// a half that follows is the only one (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
inline double fma_to_odd(float a, float b, float c) {
  const double product = (double)a * (double)b, sum = product + (double)c;  // the product is exact
  const double kept = sum - product, error = (product - (sum - kept)) + ((double)c - kept);
  uint64_t u;
  memcpy(&u, &sum, 8);
  if (error == 0 || error != error || (u & 1)) return sum;
  u += ((error > 0) == (sum > 0)) ? 1 : -1ull;
  double odd;
  memcpy(&odd, &u, 8);
  return odd;
}
inline uint16_t f16_of_f64(double v) {
  uint64_t u;
  memcpy(&u, &v, 8);
  const uint16_t sign = (uint16_t)(u >> 48 & 0x8000u);
  const uint64_t magnitude = u & 0x7FFFFFFFFFFFFFFFull;
  if (magnitude > 0x7FF0000000000000ull) return 0x7FFF;
  const int exponent = (int)(magnitude >> 52) - 1023;
  if (exponent > 15) return sign | 0x7C00;
  const int drop = exponent < -14 ? 42 - 14 - exponent : 42;  // mantissa bits below the last one kept
  if (drop > 53) return sign;
  const uint64_t whole = (magnitude & 0xFFFFFFFFFFFFFull) | (magnitude >> 52 ? 1ull << 52 : 0);
  uint64_t kept = whole >> drop;
  const uint64_t rest = whole & ((1ull << drop) - 1), half = 1ull << (drop - 1);
  if (rest > half || (rest == half && (kept & 1))) ++kept;
  const uint64_t base = exponent < -14 ? 0 : (uint64_t)(exponent + 14) << 10;  // a carry out of the mantissa is right here
  const uint64_t bits = base + kept;
  return (uint16_t)(sign | (bits > 0x7C00 ? 0x7C00 : bits));
}
inline uint16_t f16_of_f32(float f) { return f16_of_f64((double)f); }
inline uint16_t bf16_of_f64(double v) {
  // By way of a float rounded to odd, which keeps what the second rounding needs.
  float f = (float)v;
  if (f - f == 0 && (double)f != v) {
    uint32_t u = bits_of_f32(f);
    const bool beyond = (double)(f < 0 ? -f : f) > (v < 0 ? -v : v);
    if (beyond) --u;
    f = f32_of_bits(u | 1);
  }
  return bf16_of_f32(f);
}

inline uint32_t pair(uint16_t low, uint16_t high) { return (uint32_t)high << 16 | low; }

}  // namespace gs
