// What a CUDA compiler knows without any include, in plain C++ on the machine of machine.h.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "collectives.h"
#include "machine.h"

#define GS_PC __builtin_return_address(0)
// A function whose caller's line is what a report should name: it stays a call, and asks for its return address.
#define GS_HERE __attribute__((noinline, no_sanitize("thread")))
#define GS_UNSEEN __attribute__((no_sanitize("thread")))
#define GS_PLAIN __attribute__((always_inline, no_sanitize("thread"))) inline

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ thread_local
#define __constant__ const
#define __grid_constant__

#define threadIdx (machine::place().thread)
#define blockIdx (machine::place().block)
#define blockDim (machine::place().block_dim)
#define gridDim (machine::place().grid_dim)
#define warpSize 32
#define __CUDA_ARCH__ 900

struct __align__(4) uchar4 { unsigned char x, y, z, w; };
struct __align__(4) char4 { signed char x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
GS_PLAIN uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
GS_PLAIN uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
GS_PLAIN int2 make_int2(int x, int y) { return {x, y}; }
GS_PLAIN int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
GS_PLAIN float2 make_float2(float x, float y) { return {x, y}; }
GS_PLAIN float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class T> GS_PLAIN T min(T a, T b) { return b < a ? b : a; }
template <class T> GS_PLAIN T max(T a, T b) { return a < b ? b : a; }
GS_PLAIN float __uint_as_float(unsigned v) { float f; memcpy(&f, &v, 4); return f; }
GS_PLAIN unsigned __float_as_uint(float v) { unsigned u; memcpy(&u, &v, 4); return u; }
GS_PLAIN float __int_as_float(int v) { float f; memcpy(&f, &v, 4); return f; }
GS_PLAIN int __float_as_int(float v) { int u; memcpy(&u, &v, 4); return u; }
GS_PLAIN float __expf(float v) { return expf(v); }
GS_PLAIN float __fdividef(float a, float b) { return a / b; }
GS_PLAIN int __popc(unsigned v) { return __builtin_popcount(v); }
GS_PLAIN int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
GS_PLAIN int __ffs(int v) { return __builtin_ffs(v); }
GS_PLAIN unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  const uint64_t both = (uint64_t)b << 32 | a;
  unsigned d = 0;
  for (int i = 0; i < 4; ++i) d |= (unsigned)(both >> (8 * (s >> (4 * i) & 7)) & 0xFF) << (8 * i);
  return d;
}

// ---- barriers and fences ----------------------------------------------------------------------------------------------

GS_HERE inline void __syncthreads() { machine::block_barrier(GS_PC); }
GS_HERE inline int __syncthreads_count(int v) { return (int)machine::block_vote(v != 0, machine::COUNT, GS_PC); }
GS_HERE inline int __syncthreads_and(int v) { return (int)machine::block_vote(v != 0, machine::AND, GS_PC); }
GS_HERE inline int __syncthreads_or(int v) { return (int)machine::block_vote(v != 0, machine::OR, GS_PC); }
GS_HERE inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { machine::warp_barrier(mask, GS_PC); }
GS_HERE inline void __threadfence() { machine::fence(machine::DEVICE); }
GS_HERE inline void __threadfence_block() { machine::fence(machine::BLOCK); }
GS_HERE inline void __nanosleep(unsigned) { machine::poll(GS_PC); }
GS_HERE inline void __trap() { machine::trap("__trap", GS_PC); }

// ---- shuffles, votes, reductions ----------------------------------------------------------------------------------------

namespace gs {

template <class T> GS_PLAIN uint32_t bits_of(T v) { uint32_t u = 0; static_assert(sizeof(T) <= 4, "one word"); memcpy(&u, &v, sizeof v); return u; }
template <class T> GS_PLAIN Word word_of(T v, int arg) { Word w = {0, 0, arg}; static_assert(sizeof(T) <= 8, "two words"); memcpy(&w.in, &v, sizeof v); return w; }

}  // namespace gs

#define GS_SHUFFLE(name, kind, type)                                                                                    \
  template <class T> GS_HERE inline T name(unsigned mask, T v, type arg, int width = 32) {                              \
    if (width < 1 || width > 32 || (width & (width - 1))) machine::trap("the width of a shuffle is a power of two up to 32", GS_PC); \
    gs::Word w = gs::word_of(v, (int)arg);                                                                              \
    machine::warp_meets(mask, gs::shuffle, &w, (uint32_t)(kind | width << 2), #name, GS_PC);                             \
    memcpy(&v, &w.out, sizeof v);                                                                                       \
    return v;                                                                                                           \
  }
GS_SHUFFLE(__shfl_sync, gs::IDX, int)
GS_SHUFFLE(__shfl_up_sync, gs::UP, unsigned)
GS_SHUFFLE(__shfl_down_sync, gs::DOWN, unsigned)
GS_SHUFFLE(__shfl_xor_sync, gs::XOR, int)
#undef GS_SHUFFLE

GS_HERE inline unsigned __ballot_sync(unsigned mask, int v) {
  gs::Word w = {(uint32_t)(v != 0), 0, 0};
  machine::warp_meets(mask, gs::ballot, &w, 0, "__ballot_sync", GS_PC);
  return (unsigned)w.out;
}
GS_HERE inline int __any_sync(unsigned mask, int v) {
  gs::Word w = {(uint32_t)(v != 0), 0, 0};
  machine::warp_meets(mask, gs::ballot, &w, 1, "__any_sync", GS_PC);
  return w.out != 0;
}
GS_HERE inline int __all_sync(unsigned mask, int v) {
  gs::Word w = {(uint32_t)(v == 0), 0, 0};
  machine::warp_meets(mask, gs::ballot, &w, 2, "__all_sync", GS_PC);
  return w.out == 0;
}
#define GS_REDUCE(name, kind, T)                                                                                        \
  GS_HERE inline T name(unsigned mask, T v) {                                                                           \
    gs::Word w = {(uint32_t)v, 0, 0};                                                                                   \
    machine::warp_meets(mask, gs::reduce, &w, (uint32_t)(kind), #name, GS_PC);                                           \
    return (T)w.out;                                                                                                    \
  }
GS_REDUCE(__reduce_add_sync, gs::ADD, unsigned)
GS_REDUCE(__reduce_add_sync, gs::ADD, int)
GS_REDUCE(__reduce_min_sync, gs::MIN, unsigned)
GS_REDUCE(__reduce_min_sync, gs::SMIN, int)
GS_REDUCE(__reduce_max_sync, gs::MAX, unsigned)
GS_REDUCE(__reduce_max_sync, gs::SMAX, int)
GS_REDUCE(__reduce_and_sync, gs::AND, unsigned)
GS_REDUCE(__reduce_or_sync, gs::OR, unsigned)
GS_REDUCE(__reduce_xor_sync, gs::XOR_BITS, unsigned)
#undef GS_REDUCE

// ---- loads that say how -------------------------------------------------------------------------------------------------

template <class T> GS_HERE inline T __ldg(const T* at) {
  machine::read_only(at, sizeof(T), alignof(T), GS_PC);
  return *at;
}

// ---- atomics: relaxed, as CUDA's own are ----------------------------------------------------------------------------------

namespace gs {

template <class T, class Next> GS_PLAIN T update(T* at, int order, Next next, void* pc) {
  machine::strong_update(at, sizeof(T), order, pc);
  const T old = *at, now = next(old);
  *at = now;
  machine::updated(memcmp(&old, &now, sizeof(T)) != 0, pc);
  return old;
}

}  // namespace gs

#define GS_ATOMIC(name, T, expression)                                                                                  \
  GS_HERE inline T name(T* at, T v) {                                                                                   \
    return gs::update(at, machine::RELAXED, [v](T old) GS_UNSEEN { return (T)(expression); }, GS_PC);                   \
  }
#define GS_ATOMIC_INTEGER(T)                                                                                            \
  GS_ATOMIC(atomicAdd, T, old + v)                                                                                      \
  GS_ATOMIC(atomicMax, T, old > v ? old : v)                                                                            \
  GS_ATOMIC(atomicMin, T, old < v ? old : v)                                                                            \
  GS_ATOMIC(atomicExch, T, v)                                                                                           \
  GS_ATOMIC(atomicOr, T, old | v)                                                                                       \
  GS_ATOMIC(atomicAnd, T, old & v)                                                                                      \
  GS_ATOMIC(atomicXor, T, old ^ v)                                                                                      \
  GS_HERE inline T atomicCAS(T* at, T compare, T v) {                                                                   \
    return gs::update(at, machine::RELAXED, [=](T old) GS_UNSEEN { return old == compare ? v : old; }, GS_PC);          \
  }
GS_ATOMIC_INTEGER(int)
GS_ATOMIC_INTEGER(unsigned)
GS_ATOMIC_INTEGER(unsigned long long)
GS_ATOMIC(atomicAdd, float, old + v)
GS_ATOMIC(atomicAdd, double, old + v)
GS_ATOMIC(atomicExch, float, v)
GS_ATOMIC(atomicSub, int, old - v)
GS_ATOMIC(atomicSub, unsigned, old - v)
GS_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
GS_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
#undef GS_ATOMIC_INTEGER
#undef GS_ATOMIC

// ---- memcpy and memset of a kernel: calls that no hook sees ---------------------------------------------------------------

GS_HERE inline void* gs_memcpy(void* to, const void* from, size_t bytes) {
  machine::read(from, (unsigned)bytes, 1, GS_PC);
  machine::write(to, (unsigned)bytes, 1, GS_PC);
  return memcpy(to, from, bytes);
}
GS_HERE inline void* gs_memset(void* to, int value, size_t bytes) {
  machine::write(to, (unsigned)bytes, 1, GS_PC);
  return memset(to, value, bytes);
}
