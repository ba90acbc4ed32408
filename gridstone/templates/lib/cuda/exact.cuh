// Decoding to float32: the codes of a lane's eight elements of a 16x16 tile, two for each register of an A operand, as the
// exact numbers u - zero.
template <int BITS> struct Exact;

template <> struct Exact<4> {
  static constexpr int WORDS = 1;
  struct Zero { float at[4]; };  // 2^(23 - 4 i) + z: floats whose bit 4 i is worth one, for the i-th code of a half word
  static DEVICE Zero zero(uint32_t z) {
    Zero all;
#pragma unroll
    for (int i = 0; i < 4; ++i) all.at[i] = __uint_as_float(one_at(i) | z << 4 * i);
    return all;
  }
  static DEVICE void tile(float (&u)[8], const uint32_t* q, const Zero (&z)[2]) {
#pragma unroll
    for (int e = 0; e < 8; ++e)  // a code stays where it lies: no shift but that of the upper half word
      u[e] = __uint_as_float(ptx::lop3<0xEA>(e % 2 ? q[0] >> 16 : q[0], 0xFu << e / 2 * 4, one_at(e / 2))) - z[e / 2 % 2].at[e / 2];
  }
  static DEVICE uint32_t one_at(int i) { return 0x4B000000u - (i << 25); }  // 2^(23 - 4 i)
};

template <> struct Exact<8> {
  static constexpr int WORDS = 2;
  typedef float Zero;  // 2^23 + z
  static DEVICE Zero zero(uint32_t z) { return __uint_as_float(0x4B000000u | z); }
  static DEVICE void tile(float (&u)[8], const uint32_t* q, const Zero (&z)[2]) {
#pragma unroll
    for (int e = 0; e < 8; ++e)  // one byte of the word below the bytes of 2^23
      u[e] = __uint_as_float(ptx::prmt(q[e / 4], 0x4B000000u, 0x7650u + e % 4)) - z[e / 2 % 2];
  }
};
