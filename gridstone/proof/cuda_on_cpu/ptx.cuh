// The stand-in for Gridstone's ptx.cuh: the same functions, in plain C++ on the machine of machine.h.
#pragma once
#include "cuda_builtins.h"

namespace ptx {

// ---- bits -----------------------------------------------------------------------------------------------------------

template <int LUT> GS_PLAIN uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (int i = 0; i < 8; ++i)  // LUT bit i is the value for a = bit 2 of i, b = bit 1, c = bit 0
    if (LUT >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return d;
}
GS_PLAIN uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = (uint64_t)b << 32 | a;
  uint32_t d = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i) & 15;
    uint32_t byte = (uint32_t)(both >> (8 * (nibble & 7)) & 0xFF);
    if (nibble & 8) byte = byte & 0x80 ? 0xFF : 0;  // the sign, eight times
    d |= byte << (8 * i);
  }
  return d;
}

// ---- pairs of half floats ---------------------------------------------------------------------------------------------

GS_PLAIN uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint16_t h[2];
  for (int i = 0; i < 2; ++i)
    h[i] = gs::f16_of_f64(gs::fma_to_odd(gs::f32_of_f16((uint16_t)(a >> 16 * i)), gs::f32_of_f16((uint16_t)(b >> 16 * i)),
                                         gs::f32_of_f16((uint16_t)(c >> 16 * i))));
  return gs::pair(h[0], h[1]);
}
GS_PLAIN uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint16_t h[2];
  for (int i = 0; i < 2; ++i)
    h[i] = gs::bf16_of_f64(gs::fma_to_odd(gs::f32_of_bf16((uint16_t)(a >> 16 * i)), gs::f32_of_bf16((uint16_t)(b >> 16 * i)),
                                          gs::f32_of_bf16((uint16_t)(c >> 16 * i))));
  return gs::pair(h[0], h[1]);
}
GS_PLAIN uint32_t sub_f16x2(uint32_t a, uint32_t b) { return fma_f16x2(b, 0xBC00BC00u, a); }  // a - 1 * b, rounded once
GS_PLAIN uint32_t mul_f16x2(uint32_t a, uint32_t b) {
  uint16_t h[2];
  for (int i = 0; i < 2; ++i)
    h[i] = gs::f16_of_f64((double)gs::f32_of_f16((uint16_t)(a >> 16 * i)) * gs::f32_of_f16((uint16_t)(b >> 16 * i)));
  return gs::pair(h[0], h[1]);
}
GS_PLAIN uint32_t cvt_f16x2(float low, float high) { return gs::pair(gs::f16_of_f32(low), gs::f16_of_f32(high)); }
GS_PLAIN uint32_t cvt_bf16x2(float low, float high) { return gs::pair(gs::bf16_of_f32(low), gs::bf16_of_f32(high)); }
GS_PLAIN float cvt_f32_f16(uint16_t a) { return gs::f32_of_f16(a); }
GS_PLAIN float cvt_f32_bf16(uint16_t a) { return gs::f32_of_bf16(a); }
GS_PLAIN uint16_t cvt_f16_f32(float a) { return gs::f16_of_f32(a); }
GS_PLAIN uint16_t cvt_bf16_f32(float a) { return gs::bf16_of_f32(a); }

// ---- loads and stores -------------------------------------------------------------------------------------------------

GS_HERE inline uint4 ld_global_once(const void* at) {
  machine::read_only(at, 16, 16, GS_PC);
  uint4 v;
  memcpy(&v, at, 16);
  return v;
}
GS_PLAIN uint64_t evict_first() { return 0; }
GS_HERE inline uint32_t shared_address(const void* at) { return machine::shared_offset(at, GS_PC); }

GS_HERE inline void cp_async_16(void* to, const void* from, int valid) {
  machine::copy_async(to, from, 16, (unsigned)valid, GS_PC);
}
GS_HERE inline void cp_async_16_first(void* to, const void* from, int valid, uint64_t) {
  machine::copy_async(to, from, 16, (unsigned)valid, GS_PC);
}
template <int BYTES> GS_HERE void cp_async_small(void* to, const void* from, int valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
  machine::copy_async(to, from, BYTES, (unsigned)valid, GS_PC);
}
GS_HERE inline void cp_async_commit() { machine::copy_commit(); }
template <int PENDING> GS_HERE void cp_async_wait() { machine::copy_wait(PENDING); }

#define GS_LDMATRIX(name, count, trans)                                                  \
  GS_HERE inline void name(uint32_t (&r)[count], const void* row) {                      \
    void* pc = GS_PC;                                                                    \
    if (machine::lane() < 8 * count) {                                                   \
      machine::shared_offset(row, pc);                                                   \
      machine::read(row, 16, 16, pc);                                                    \
    }                                                                                    \
    gs::Ldmatrix slot = {row, r};                                                        \
    machine::warp_executes(gs::ldmatrix, &slot, count | (trans ? 16 : 0), #name, pc);    \
  }
GS_LDMATRIX(ldmatrix_x4, 4, false)
GS_LDMATRIX(ldmatrix_x2, 2, false)
GS_LDMATRIX(ldmatrix_x4_trans, 4, true)
#undef GS_LDMATRIX

// ---- tensor cores -----------------------------------------------------------------------------------------------------

#define GS_MMA(name, T, body, probe)                                                                              \
  GS_HERE inline void name(T (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {                    \
    void* pc = GS_PC;                                                                                      \
    for (int i = 0; i < 4; ++i)                                                                            \
      if (machine::is_poison(gs::bits_of(d[i]))) machine::uninitialised("an accumulator of " #name, pc);   \
    for (int i = 0; i < 4; ++i)                                                                            \
      if (machine::is_poison(a[i])) machine::uninitialised("an element of A of " #name, pc);               \
    for (int i = 0; i < 2; ++i)                                                                            \
      if (machine::is_poison(b[i])) machine::uninitialised("an element of B of " #name, pc);               \
    probe;                                                                                                 \
    gs::Mma slot = {a, b, d};                                                                              \
    machine::warp_executes(body, &slot, 0, #name, pc);                                                     \
  }
GS_MMA(mma_m16n8k16_f16, float, gs::mma_m16n8k16_f16, gs::probe_m16n8k16(a, b, gs::f32_of_f16, pc))
GS_MMA(mma_m16n8k16_bf16, float, gs::mma_m16n8k16_bf16, gs::probe_m16n8k16(a, b, gs::f32_of_bf16, pc))
GS_MMA(mma_m16n8k32_s8, int32_t, gs::mma_m16n8k32_s8, (void)0)
GS_MMA(mma_m16n8k256_b1, int32_t, gs::mma_m16n8k256_b1, (void)0)
#undef GS_MMA

// ---- barriers and order -------------------------------------------------------------------------------------------------

GS_HERE inline void bar_sync(int id, int threads) { machine::named_barrier((unsigned)id, (unsigned)threads, true, GS_PC); }
GS_HERE inline void bar_arrive(int id, int threads) { machine::named_barrier((unsigned)id, (unsigned)threads, false, GS_PC); }
GS_HERE inline uint32_t atom_inc_acq_rel(uint32_t* at) {
  return gs::update(at, machine::ACQUIRE | machine::RELEASE, [](uint32_t old) GS_UNSEEN { return old + 1; }, GS_PC);
}
GS_HERE inline uint32_t ld_acquire(const uint32_t* at) {
  machine::strong_load(at, 4, machine::ACQUIRE, GS_PC);
  return *at;
}
GS_HERE inline void st_release(uint32_t* at, uint32_t v) {
  machine::strong_store(at, 4, machine::RELEASE, GS_PC);
  *at = v;
}
GS_HERE inline void red_add_f32(float* at, float v) {
  gs::update(at, machine::RELAXED, [v](float old) GS_UNSEEN { return old + v; }, GS_PC);
}

// ---- sm_90a: warpgroups, mbarriers, bulk copies -------------------------------------------------------------------------

GS_HERE inline void mbarrier_init(uint64_t* at, int arrivals) { machine::mbarrier_init(at, (unsigned)arrivals, GS_PC); }
GS_HERE inline void fence_proxy_async() { machine::proxy_fence(); }
GS_HERE inline void mbarrier_arrive_expect(uint64_t* at, int bytes) { machine::mbarrier_arrive(at, (unsigned)bytes, GS_PC); }
GS_HERE inline void mbarrier_wait(uint64_t* at, int parity) {
  machine::mbarrier_wait(at, (unsigned)parity, GS_PC);
}
GS_HERE inline void cp_async_bulk(void* to, const void* from, int bytes, uint64_t* barrier) {
  machine::bulk_copy(to, from, (unsigned)bytes, barrier, GS_PC);
}
GS_HERE inline void wgmma_fence() { machine::wgmma_fence(GS_PC); }
GS_HERE inline void wgmma_commit() { machine::wgmma_commit(GS_PC); }
template <int PENDING> GS_HERE void wgmma_wait() { machine::wgmma_wait(PENDING, GS_PC); }
template <int COUNT> GS_PLAIN void wgmma_hold(float (&)[COUNT]) {}
GS_PLAIN void wgmma_hold(uint32_t (&)[4]) {}
GS_HERE inline uint64_t wgmma_tile(const void* start) {
  return (uint64_t)((machine::tile_start(start, GS_PC) & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
#define GS_WGMMA(name, widen)                                                                                           \
  template <int TOKENS> GS_HERE void name(float (&d)[TOKENS / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) { \
    void* pc = GS_PC;                                                                                                   \
    gs::probe_a(a, widen, pc);                                                                                          \
    machine::wgmma_issue({d, a, b, accumulate, widen}, TOKENS, #name, pc);                                              \
  }
GS_WGMMA(wgmma_m64k16_f16, gs::f32_of_f16)
GS_WGMMA(wgmma_m64k16_bf16, gs::f32_of_bf16)
#undef GS_WGMMA

}  // namespace ptx
