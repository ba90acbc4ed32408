// What a lane does with 16 rows of the weight by 16 k, for each type of x. Its sums d[h * TOKENS + r] are of row
// lane / 4 + 8 h and of token(lane, r), over the k that it has seen.

// x of 16 bits: the tensor cores multiply. The weight is the A operand; of the eight tokens of the B operand those from
// BLOCK_M on are zeros.
template <class T> struct Lane {
  typedef Decode<T, BITS> Decoder;
  static constexpr int TOKENS = 2;
  uint32_t b[4];  // B operands of two tiles

  static DEVICE int token(int lane, int r) { return lane % 4 * 2 + r; }
  // Byte of x at which a lane begins, and how far it goes for one k: lane l brings token l % 8 of the k that follow 8 (l / 8).
  static DEVICE int begin(int lane) { return lane % 8 < BLOCK_M ? lane % 8 * X_STRIDE + lane / 8 * 16 : NOTHING_AT; }
  static DEVICE int stride(int lane) { return lane % 8 < BLOCK_M ? (int)sizeof(T) : 0; }
  DEVICE void take(const uint8_t* at) { ptx::ldmatrix_x4(b, at); }
  DEVICE void multiply(float (&d)[4], int tile, const uint32_t* q, const typename Decoder::Zero (&zero)[2]) const {
    const uint32_t x[2] = {b[tile % 2 * 2], b[tile % 2 * 2 + 1]};
    uint32_t a[4];
    Decoder::tile(a, q, zero);
    Operand<T>::mma(d, a, x);
  }
  static DEVICE float whole(float v) { return v; }
};

// x of 32 bits: exact products outside the tensor cores, which would round x. The four lanes of a row have a quarter of k each.
template <> struct Lane<float> {
  typedef Exact<BITS> Decoder;
  static constexpr int TOKENS = BLOCK_M;
  float2 x[BLOCK_M][4];  // of two tiles: k 2 (lane % 4) and the next, and eight after these

  static DEVICE int token(int lane, int r) { return lane % 4 ? BLOCK_M : r; }  // the four have the same sums in the end
  static DEVICE int begin(int lane) { return lane % 4 * 8; }
  static DEVICE int stride(int) { return (int)sizeof(float); }
  DEVICE void take(const uint8_t* at) {
#pragma unroll
    for (int i = 0; i < BLOCK_M * 4; ++i) x[i / 4][i % 4] = *(const float2*)(at + i / 4 * X_STRIDE + i % 4 * 32);
  }
  DEVICE void multiply(float (&d)[2 * BLOCK_M], int tile, const uint32_t* q, const Decoder::Zero (&zero)[2]) const {
    float u[8];  // register by register of an A operand: (row + 8 (i % 2), k pair i / 2)
    Decoder::tile(u, q, zero);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int r = 0; r < BLOCK_M; ++r) {
        const float2 pair = x[r][tile % 2 * 2 + i / 2];
        d[i % 2 * BLOCK_M + r] += u[2 * i] * pair.x;
        d[i % 2 * BLOCK_M + r] += u[2 * i + 1] * pair.y;
      }
  }
  static DEVICE float whole(float v) {
    v += __shfl_xor_sync(0xFFFFFFFFu, v, 1);
    return v + __shfl_xor_sync(0xFFFFFFFFu, v, 2);
  }
};
