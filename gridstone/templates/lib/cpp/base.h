// Vectors of VEC_BYTES bytes: types, loads, stores, conversions. Compiler extensions only, so that every target reads the same text.
constexpr int LANES = VEC_BYTES / 4;  // fp32 lanes of one vector

#define INLINE static inline __attribute__((always_inline))
#define MEMBER __attribute__((always_inline))

typedef float vf __attribute__((vector_size(VEC_BYTES)));
typedef uint32_t vu __attribute__((vector_size(VEC_BYTES)));
typedef int32_t vi __attribute__((vector_size(VEC_BYTES)));
typedef uint16_t vu16 __attribute__((vector_size(VEC_BYTES / 2)));  // one 16-bit value for each fp32 lane
typedef uint8_t vu8 __attribute__((vector_size(VEC_BYTES / 4)));    // one byte for each fp32 lane

INLINE vf splat(float a) { return vf{} + a; }
INLINE vu splat_u(uint32_t a) { return vu{} + a; }
INLINE vf splat_bits(uint32_t a) { return (vf)splat_u(a); }

// Unaligned loads and stores; memcpy keeps the aliasing rules and compiles to one move.
template <class V> INLINE V load(const void* p) { V v; memcpy(&v, p, sizeof v); return v; }
template <class V> INLINE void store(void* p, V v) { memcpy(p, &v, sizeof v); }

INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }  // contracted: needs -ffp-contract=fast under -std=c++17
INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
// The bound comes first: where x is NaN the comparison is false and x, the NaN, is kept.
INLINE vf at_most(vf bound, vf x) { return select(bound < x, bound, x); }
INLINE vf at_least(vf bound, vf x) { return select(bound > x, bound, x); }
INLINE vf abs(vf a) { return (vf)((vu)a & 0x7fffffffu); }
INLINE vf copysign(vf magnitude, vf sign) { return (vf)(((vu)magnitude & 0x7fffffffu) | ((vu)sign & 0x80000000u)); }

// Element types of x, y, scales. `widen` gives fp32 lanes, `narrow` rounds to nearest even.
struct f16 { uint16_t bits; };
struct bf16 { uint16_t bits; };

// gcc 12 widens 16 x u16 in two halves and an insert: name the instruction.
INLINE vu widen_halves(vu16 a) {
#if VEC_BYTES == 64
  vu r;
  asm("vpmovzxwd %1, %0" : "=v"(r) : "vm"(a));
  return r;
#else
  return __builtin_convertvector(a, vu);
#endif
}
INLINE vf widen(const float* p) { return load<vf>(p); }
INLINE vf widen(const bf16* p) { return (vf)(widen_halves(load<vu16>(p)) << 16); }
INLINE vf widen(const f16* p) {
#if defined(__F16C__) && VEC_BYTES == 64
  return (vf)_mm512_cvtph_ps((__m256i)load<vu16>(p));
#elif defined(__F16C__) && VEC_BYTES == 32
  return (vf)_mm256_cvtph_ps((__m128i)load<vu16>(p));
#endif
  // Integer route: subnormals through int -> float (exact, 24 bits), so that a flush-to-zero mode cannot lose them.
  vu h = widen_halves(load<vu16>(p));
  vu e = h & 0x7c00u, m = h & 0x3ffu;
  vf normal = (vf)(((h & 0x7fffu) << 13) + (112u << 23));
  vf special = (vf)(((h & 0x7fffu) << 13) + (224u << 23));
  vf tiny = __builtin_convertvector((vi)m, vf) * 0x1p-24f;
  vf a = select((vi)(e == 0u), tiny, select((vi)(e == 0x7c00u), special, normal));
  return (vf)((vu)a | ((h & 0x8000u) << 16));
}
INLINE vf widen(const uint8_t* p) { return __builtin_convertvector((vi)__builtin_convertvector(load<vu8>(p), vu), vf); }
INLINE vu widen_u(const uint8_t* p) { return __builtin_convertvector(load<vu8>(p), vu); }

INLINE uint32_t bf16_bits(float a) {  // round to nearest even, NaN stays NaN
  uint32_t u; memcpy(&u, &a, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40u;
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}
INLINE void narrow(float* p, vf a) { store(p, a); }
INLINE void narrow(bf16* p, vf a) {  // not by vcvtneps2bf16, which takes subnormals for zero
  vu u = (vu)a;
  vu even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  vi nan = (vi)((u & 0x7fffffffu) > 0x7f800000u);
  vu r = ((vu)nan & ((u >> 16) | 0x40u)) | (~(vu)nan & even);
  store(p, __builtin_convertvector(r, vu16));
}
INLINE void narrow(f16* p, vf a) {
#if defined(__F16C__) && VEC_BYTES == 64
  store(p, (vu16)_mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT));
  return;
#elif defined(__F16C__) && VEC_BYTES == 32
  store(p, (vu16)_mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT));
  return;
#endif
  const vu u = (vu)a, m = u & 0x7fffffffu;
  const vu normal = (m - 0x38000000u + 0xfffu + ((m >> 13) & 1u)) >> 13;
  const vu tiny = (vu)((vf)m + 0.5f) - 0x3f000000u;  // 0.5 has the spacing of the subnormals: the sum rounds to a multiple of it
  vu r = (vu)select((vi)(m < 0x38800000u), (vf)tiny, (vf)normal);
  r = (vu)select((vi)(m >= 0x477ff000u), splat_bits(0x7c00u), (vf)r);  // 65520 and above: infinity
  r = (vu)select((vi)(m > 0x7f800000u), splat_bits(0x7e00u), (vf)r);
  store(p, __builtin_convertvector(r | ((u >> 16) & 0x8000u), vu16));
}
INLINE float widen1(const float* p) { return *p; }
INLINE float widen1(const bf16* p) { uint32_t u = (uint32_t)p->bits << 16; float f; memcpy(&f, &u, 4); return f; }
INLINE float widen1(const f16* p) {
  uint32_t h = p->bits, e = h & 0x7c00u, u;
  float f;
  if (e == 0) { f = (float)(h & 0x3ffu) * 0x1p-24f; memcpy(&u, &f, 4); }
  else u = ((h & 0x7fffu) << 13) + (e == 0x7c00u ? 224u << 23 : 112u << 23);
  u |= (h & 0x8000u) << 16;
  memcpy(&f, &u, 4);
  return f;
}

