// Decoding: stored codes u of one 16x16 tile to the exact integers u - zero in the four registers of an A operand of
// mma.m16n8k16. Registers 0 and 2 are the upper eight rows, 1 and 3 the lower eight.
//
// A code is put into the mantissa of a float whose exponent makes its last bit worth one; subtracting that float with the
// zero point added leaves the integer. Kim et al., "Who Says Elephants Can't Run", 2022, section 3, describe the idea.
template <class A, int BITS> struct Decode;

template <> struct Decode<f16, 4> {
  static constexpr int WORDS = 1;           // words of a lane for one tile
  struct Zero { uint32_t one, sixteen; };   // 1024 + z, and -(64 + z), twice each
  static DEVICE Zero zero(uint32_t z) { return {(0x6400u | z) * 0x10001u, (0xD400u | z << 4) * 0x10001u}; }
  static DEVICE void tile(uint32_t (&r)[4], const uint32_t* q, const Zero (&z)[2]) {
    const uint32_t near = q[0], far = q[0] >> 8;
    r[0] = ptx::sub_f16x2(low(near), z[0].one);                           // 1024 + u
    r[1] = ptx::fma_f16x2(high(near), 0x2C002C00u, z[1].sixteen);         // (1024 + 16 u) / 16
    r[2] = ptx::sub_f16x2(low(far), z[0].one);
    r[3] = ptx::fma_f16x2(high(far), 0x2C002C00u, z[1].sixteen);
  }
  static DEVICE uint32_t low(uint32_t q) { return ptx::lop3<0xEA>(q, 0x000F000Fu, 0x64006400u); }   // (q & mask) | magic
  static DEVICE uint32_t high(uint32_t q) { return ptx::lop3<0xEA>(q, 0x00F000F0u, 0x64006400u); }
};

template <> struct Decode<bf16, 4> {
  static constexpr int WORDS = 1;
  typedef uint32_t Zero;                    // -(128 + z), twice
  static DEVICE Zero zero(uint32_t z) { return (0xC300u | z) * 0x10001u; }
  static DEVICE void tile(uint32_t (&r)[4], const uint32_t* q, const Zero (&z)[2]) {
    for (int i = 0; i < 4; ++i)             // bfloat16 has no room for 16 u: each register's codes are shifted down
      r[i] = ptx::fma_bf16x2(ptx::lop3<0xEA>(q[0] >> 4 * i, 0x000F000Fu, 0x43004300u), 0x3F803F80u, z[i % 2]);
  }
};

template <> struct Decode<f16, 8> {
  static constexpr int WORDS = 2;
  typedef uint32_t Zero;                    // 1024 + z, twice
  static DEVICE Zero zero(uint32_t z) { return (0x6400u | z) * 0x10001u; }
  static DEVICE void tile(uint32_t (&r)[4], const uint32_t* q, const Zero (&z)[2]) {
    for (int i = 0; i < 4; ++i)             // two bytes of the word under two bytes 0x64
      r[i] = ptx::sub_f16x2(ptx::prmt(q[i / 2], 0x64646464u, i % 2 ? 0x4342u : 0x4140u), z[i % 2]);
  }
};

template <> struct Decode<bf16, 8> {
  static constexpr int WORDS = 2;
  typedef float Zero;                       // 2^23 + z: eight bits do not fit beside bfloat16's leading one
  static DEVICE Zero zero(uint32_t z) { return __uint_as_float(0x4B000000u | z); }
  static DEVICE void tile(uint32_t (&r)[4], const uint32_t* q, const Zero (&z)[2]) {
    for (int i = 0; i < 4; ++i) {
      const float a = __uint_as_float(ptx::prmt(q[i / 2], 0x4B000000u, 0x7650u + i % 2 * 2));
      const float b = __uint_as_float(ptx::prmt(q[i / 2], 0x4B000000u, 0x7651u + i % 2 * 2));
      r[i] = ptx::cvt_bf16x2(a - z[i % 2], b - z[i % 2]);
    }
  }
};
