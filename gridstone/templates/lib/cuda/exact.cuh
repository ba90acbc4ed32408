// Decoding to float32: the codes of a lane's eight elements of a 16x16 tile, two for each register of an A operand, as the
// exact numbers u - zero.
template <int BITS> struct Exact;

template <> struct Exact<4> {
  static constexpr int WORDS = 1;
  typedef Decode<bf16, 4>::Zero Zero;
  static DEVICE Zero zero(uint32_t z) { return Decode<bf16, 4>::zero(z); }
  static DEVICE void tile(float (&u)[8], const uint32_t* q, const Zero (&z)[2]) {
    uint32_t r[4];
    Decode<bf16, 4>::tile(r, q, z);
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // a bfloat16 is the upper half of a float
      u[2 * i] = __uint_as_float(r[i] << 16);
      u[2 * i + 1] = __uint_as_float(r[i] & 0xFFFF0000u);
    }
  }
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
