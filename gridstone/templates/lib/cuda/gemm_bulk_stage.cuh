constexpr int THREADS = 32 * WARPS_N, BLOCK_N = 16 * TILES_N * WARPS_N;
constexpr int CHUNKS = BLOCK_K / CHUNK_K, CHUNKS_N = BLOCK_N / 16, CHUNK_TILES = CHUNK_K / 16;
constexpr int AHEAD = STAGES - 2;  // stages under way; one is decoded while the one before it may still be multiplied
constexpr bool GROUPED = GROUPS > 1;
constexpr int FLUSH_K = GROUP_K < BLOCK_K ? GROUP_K : BLOCK_K;  // k between two uses of a scale
constexpr int STAGE_GROUPS = GROUPED && GROUP_K < BLOCK_K ? BLOCK_K / GROUP_K : 1;
constexpr int STEPS = (PADDED_K + BLOCK_K - 1) / BLOCK_K;

// One stage in shared memory, in bytes: [weights][x][scales][zero points], from a multiple of 1024 on.
constexpr int ROW_BYTES = 128;                                  // k of one token that lie together: 64
constexpr int X_AT = BLOCK_N * BLOCK_K * BITS / 8, S_AT = X_AT + BLOCK_M * BLOCK_K * 2;
constexpr int S_BYTES = (int)GROUPED * STAGE_GROUPS * BLOCK_N * (int)sizeof(S), Z_AT = S_AT + S_BYTES;
constexpr int Z_BYTES = ZERO ? STAGE_GROUPS * BLOCK_N : 0, STAGE_BYTES = (Z_AT + Z_BYTES + 1023) / 1024 * 1024;
static_assert(X_AT % 1024 == 0, "wgmma reads tokens from multiples of 1024 bytes on");

typedef Decode<A, BITS> Decoder;
typedef typename Decoder::Zero Zero;

template <class T> struct Wgmma;
template <> struct Wgmma<f16> {
  template <int M> static DEVICE void multiply(float (&d)[M / 2], const uint32_t (&a)[4], uint64_t x, int accumulate) {
    ptx::wgmma_m64k16_f16<M>(d, a, x, accumulate);
  }
};
template <> struct Wgmma<bf16> {
  template <int M> static DEVICE void multiply(float (&d)[M / 2], const uint32_t (&a)[4], uint64_t x, int accumulate) {
    ptx::wgmma_m64k16_bf16<M>(d, a, x, accumulate);
  }
};

// Byte of the tokens' k in a stage's x: tiles of [BLOCK_M][64], whose 16-byte pieces are permuted by the token.
DEVICE int x_tile(int k) { return k / 64 * BLOCK_M * ROW_BYTES + k % 64 * 2; }
DEVICE int x_place(int row, int k) {
  return k / 64 * BLOCK_M * ROW_BYTES + row * ROW_BYTES + (k % 64 / 8 ^ row % 8) * 16 + k % 8 * 2;
}

// Place of a k's group among a stage's scales or zero points.
DEVICE int group_at(int k) { return GROUPED && GROUP_K < BLOCK_K ? k / GROUP_K * BLOCK_N : 0; }

struct Share {      // what one block multiplies
  int64_t m0;       // rows of x from here on
  int n0;           // and of the weight
  int first, last;  // steps along K
  bool pieces;      // rows of x start at multiples of 16 bytes
};

// Asks for what step `step` multiplies.
DEVICE void fetch(const Call& c, uint8_t* stage, uint64_t* full, int step, const Share& of) {
  const int t = threadIdx.x, n0 = of.n0, k0 = step * BLOCK_K, rows = min(BLOCK_N, PADDED_N - n0);
  const int64_t m0 = of.m0;
  if (t == 0) {
    const int chunks = min(BLOCK_K, PADDED_K - k0) / CHUNK_K, groups = !GROUPED ? 1 : min(STAGE_GROUPS, GROUPS - k0 / GROUP_K);
    const int run = rows / 16 * 512, scales = GROUPED ? rows * (int)sizeof(S) : 0, zeros = ZERO ? rows : 0;
    ptx::mbarrier_arrive_expect(full, chunks * run + groups * (scales + zeros));
    for (int i = 0; i < chunks; ++i)
      ptx::cp_async_bulk(stage + i * CHUNKS_N * 512, c.w + ((int64_t)(k0 / CHUNK_K + i) * (PADDED_N / 16) + n0 / 16) * 512, run, full);
    for (int i = 0; i < groups; ++i) {
      const int64_t at = (int64_t)(GROUPED ? k0 / GROUP_K + i : 0) * PADDED_N + n0;
      if (GROUPED) ptx::cp_async_bulk(stage + S_AT + i * BLOCK_N * (int)sizeof(S), c.w + SCALES_AT + at * (int)sizeof(S), scales, full);
      if (ZERO) ptx::cp_async_bulk(stage + Z_AT + i * BLOCK_N, c.w + ZEROS_AT + at, zeros, full);
    }
  }
  for (int i = t; i < BLOCK_M * (BLOCK_K / 8); i += THREADS) {  // x, zero beyond M and K
    const int row = i / (BLOCK_K / 8), k = k0 + i % (BLOCK_K / 8) * 8;
    const int left = m0 + row < c.m && k < K ? min(K - k, 8) : 0;
    const X* from = left ? c.x + (m0 + row) * c.ldx + k : c.x;
    uint8_t* to = stage + X_AT + x_place(row, k - k0);
    if (sizeof(X) == 2 && of.pieces) {
      ptx::cp_async_16(to, from, left * 2);
    } else {
      for (int e = 0; e < 8; ++e) ((uint16_t*)to)[e] = e < left ? Operand<A>::bits(widen(from[e])) : (uint16_t)0;
    }
  }
}
