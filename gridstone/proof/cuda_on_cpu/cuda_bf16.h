// The stand-in for CUDA's cuda_bf16.h: the types, and the functions that kernels use most.
#pragma once
#include "half_types.h"

GS_HALF_TYPE(__nv_bfloat16, __nv_bfloat162, __nv_bfloat16_raw, gs::f32_of_bf16, gs::bf16_of_f64)

GS_PLAIN __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
GS_PLAIN __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }
GS_PLAIN float __bfloat162float(__nv_bfloat16 v) { return v; }
GS_PLAIN __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {__nv_bfloat16(low), __nv_bfloat16(high)}; }
GS_PLAIN __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {__nv_bfloat16(v.x), __nv_bfloat16(v.y)}; }
GS_PLAIN float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
GS_PLAIN __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v) { return {v, v}; }
GS_PLAIN __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
GS_PLAIN unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.bits; }
GS_PLAIN __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) { return __nv_bfloat16_raw{v}; }
