constexpr int THREADS = 32 * WARPS_N * WARPS_K, BLOCK_N = 16 * TILES_N * WARPS_N, TILES_M = BLOCK_M / 8;
constexpr int WARP_K = BLOCK_K / WARPS_K;                      // k of one stage that one warp multiplies
constexpr int CHUNKS_N = BLOCK_N / 16, CHUNK_TILES = CHUNK_K / 16;
constexpr bool GROUPED = GROUPS > 1;
constexpr int FLUSH_K = GROUP_K < WARP_K ? GROUP_K : WARP_K;   // k between two uses of a scale
constexpr int STAGE_GROUPS = !GROUPED ? 1 : GROUP_K < BLOCK_K ? BLOCK_K / GROUP_K : 1;
constexpr int STEPS = (PADDED_K + BLOCK_K - 1) / BLOCK_K;

// One stage in shared memory, in bytes: [weights][x][scales][zero points].
constexpr int X_AT = BLOCK_N * BLOCK_K * BITS / 8, S_AT = X_AT + BLOCK_M * BLOCK_K * 2;
constexpr int S_BYTES = (int)GROUPED * STAGE_GROUPS * BLOCK_N * (int)sizeof(S), Z_AT = S_AT + S_BYTES;
constexpr int Z_BYTES = ZERO ? STAGE_GROUPS * BLOCK_N : 0, STAGE_BYTES = Z_AT + Z_BYTES;

typedef Decode<A, BITS> Decoder;
typedef typename Decoder::Zero Zero;

// Byte of x[row][k] in a stage. Rows are cut into pieces of 16 bytes, permuted so that the eight rows that one ldmatrix
// reads at once lie in different banks.
DEVICE int x_place(int row, int k) {
  const int piece = k / 8;
  return (row * (BLOCK_K / 8) + (piece ^ (row & $(swizzle_mask)))) * 16 + k % 8 * 2;
}

// Rows of scales or zero points that a stage needs, `bytes` an element.
DEVICE void fetch_groups(uint8_t* to, const uint8_t* from, int k0, int n0, int bytes) {
  for (int i = threadIdx.x * 16; i < STAGE_GROUPS * BLOCK_N * bytes; i += THREADS * 16) {
    const int n = n0 + i / bytes % BLOCK_N, group = k0 / GROUP_K + i / bytes / BLOCK_N;
    const bool inside = n < PADDED_N && group < GROUPS;
    ptx::cp_async_16(to + i, from + (inside ? ((int64_t)group * PADDED_N + n) * bytes : 0), inside ? 16 : 0);
  }
}

// Asks for what step `step` multiplies. `pieces`: rows of x start at multiples of 16 bytes.
DEVICE void fetch(const Call& c, uint8_t* stage, int step, int64_t m0, int n0, bool pieces) {
  const int t = threadIdx.x, k0 = step * BLOCK_K;
  for (int i = t; i < X_AT / 16; i += THREADS) {  // weights: what a lane will read, in its own place
    const int chunk = i / 32, n = n0 / 16 + chunk % CHUNKS_N, k = k0 / CHUNK_K + chunk / CHUNKS_N;
    const bool inside = n < PADDED_N / 16 && k < PADDED_K / CHUNK_K;
    const int64_t at = inside ? ((int64_t)k * (PADDED_N / 16) + n) * 512 + i % 32 * 16 : 0;
    ptx::cp_async_16(stage + i * 16, c.w + at, inside ? 16 : 0);
  }
  for (int i = t; i < BLOCK_M * (BLOCK_K / 8); i += THREADS) {  // x, zero beyond M and K
    const int row = i / (BLOCK_K / 8), k = k0 + i % (BLOCK_K / 8) * 8;
    const int left = m0 + row < c.m && k < K ? min(K - k, 8) : 0;
    const X* from = left ? c.x + (m0 + row) * c.ldx + k : c.x;
    uint8_t* to = stage + X_AT + x_place(row, k - k0);
    if (sizeof(X) == 2 && pieces) {
      ptx::cp_async_16(to, from, left * 2);
    } else {
      for (int e = 0; e < 8; ++e) ((uint16_t*)to)[e] = e < left ? Operand<A>::bits(widen(from[e])) : (uint16_t)0;
    }
  }
  if (GROUPED) fetch_groups(stage + S_AT, c.w + SCALES_AT, k0, n0, (int)sizeof(S));
  if (ZERO) fetch_groups(stage + Z_AT, c.w + ZEROS_AT, k0, n0, 1);
}
