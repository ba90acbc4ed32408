// The stand-in for CUDA's cuda_fp16.h: the types, and the functions that kernels use most.
#pragma once
#include "half_types.h"

GS_HALF_TYPE(__half, __half2, __half_raw, gs::f32_of_f16, gs::f16_of_f64)
typedef __half half;
typedef __half2 half2;

GS_PLAIN __half __float2half(float v) { return __half(v); }
GS_PLAIN __half __float2half_rn(float v) { return __half(v); }
GS_PLAIN float __half2float(__half v) { return v; }
GS_PLAIN __half2 __floats2half2_rn(float low, float high) { return {__half(low), __half(high)}; }
GS_PLAIN __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
GS_PLAIN float2 __half22float2(__half2 v) { return {v.x, v.y}; }
GS_PLAIN __half2 __half2half2(__half v) { return {v, v}; }
GS_PLAIN __half2 __halves2half2(__half low, __half high) { return {low, high}; }
GS_PLAIN __half __low2half(__half2 v) { return v.x; }
GS_PLAIN __half __high2half(__half2 v) { return v.y; }
GS_PLAIN unsigned short __half_as_ushort(__half v) { return v.bits; }
GS_PLAIN __half __ushort_as_half(unsigned short v) { return __half_raw{v}; }
