// What cuda_fp16.h and cuda_bf16.h have in common, once for each type: bits, exact widening, one rounding per operation.
#pragma once
#include "cuda_builtins.h"

#define GS_HALF_TYPE(H, H2, RAW, WIDEN, ROUND)                                                                          \
  struct __align__(2) RAW { unsigned short x; };                                                                        \
  struct __align__(2) H {                                                                                               \
    unsigned short bits;                                                                                                \
    H() = default;                                                                                                      \
    GS_PLAIN H(RAW raw) : bits(raw.x) {}                                                                                \
    GS_PLAIN H(float v) : bits(ROUND((double)v)) {}                                                                     \
    GS_PLAIN H(double v) : bits(ROUND(v)) {}                                                                            \
    GS_PLAIN H(int v) : bits(ROUND((double)v)) {}                                                                       \
    GS_PLAIN operator float() const { return WIDEN(bits); }                                                             \
    GS_PLAIN operator RAW() const { return {bits}; }                                                                    \
  };                                                                                                                    \
  struct __align__(4) H2 {                                                                                              \
    H x, y;                                                                                                             \
    H2() = default;                                                                                                     \
    GS_PLAIN H2(H low, H high) : x(low), y(high) {}                                                                     \
  };                                                                                                                    \
  namespace gs {                                                                                                        \
  GS_PLAIN double wide(H a) { return (double)WIDEN(a.bits); }                                                           \
  GS_PLAIN H narrow(H, double v) { RAW raw = {ROUND(v)}; return raw; }                                                  \
  }                                                                                                                     \
  GS_PLAIN H __hadd(H a, H b) { return gs::narrow(a, gs::fma_to_odd(a, 1.f, b)); }                                      \
  GS_PLAIN H __hsub(H a, H b) { return gs::narrow(a, gs::fma_to_odd(b, -1.f, a)); }                                     \
  GS_PLAIN H __hmul(H a, H b) { return gs::narrow(a, gs::wide(a) * gs::wide(b)); }                                      \
  GS_PLAIN H __hdiv(H a, H b) { return gs::narrow(a, gs::wide(a) / gs::wide(b)); }                                      \
  GS_PLAIN H __hfma(H a, H b, H c) { return gs::narrow(a, gs::fma_to_odd(a, b, c)); }                                   \
  GS_PLAIN H __hneg(H a) { RAW raw = {(unsigned short)(a.bits ^ 0x8000)}; return raw; }                                 \
  GS_PLAIN H __habs(H a) { RAW raw = {(unsigned short)(a.bits & 0x7FFF)}; return raw; }                                 \
  GS_PLAIN bool __hisnan(H a) { return (float)a != (float)a; }                                                          \
  GS_PLAIN bool __heq(H a, H b) { return (float)a == (float)b; }                                                        \
  GS_PLAIN bool __hlt(H a, H b) { return (float)a < (float)b; }                                                         \
  GS_PLAIN bool __hgt(H a, H b) { return (float)a > (float)b; }                                                         \
  GS_PLAIN H __hmin(H a, H b) { return __hisnan(a) || __hlt(b, a) ? b : a; }                                            \
  GS_PLAIN H __hmax(H a, H b) { return __hisnan(a) || __hgt(b, a) ? b : a; }                                            \
  GS_PLAIN H operator+(H a, H b) { return __hadd(a, b); }                                                               \
  GS_PLAIN H operator-(H a, H b) { return __hsub(a, b); }                                                               \
  GS_PLAIN H operator*(H a, H b) { return __hmul(a, b); }                                                               \
  GS_PLAIN H operator/(H a, H b) { return __hdiv(a, b); }                                                               \
  GS_PLAIN H operator-(H a) { return __hneg(a); }                                                                       \
  GS_PLAIN H2 __hadd2(H2 a, H2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }                                      \
  GS_PLAIN H2 __hsub2(H2 a, H2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }                                      \
  GS_PLAIN H2 __hmul2(H2 a, H2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }                                      \
  GS_PLAIN H2 __hfma2(H2 a, H2 b, H2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }                      \
  GS_PLAIN float __low2float(H2 a) { return a.x; }                                                                      \
  GS_PLAIN float __high2float(H2 a) { return a.y; }
