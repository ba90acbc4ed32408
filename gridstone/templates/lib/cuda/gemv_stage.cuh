constexpr int THREADS = 32 * WARPS_N * WARPS_K, BLOCK_N = 16 * TILES_N * WARPS_N;
constexpr int CHUNKS = PADDED_K / CHUNK_K, CHUNK_TILES = CHUNK_K / 16, LOADS = BLOCK_K / CHUNK_K;
constexpr int STEPS = (CHUNKS + LOADS - 1) / LOADS, MOST_STEPS = (STEPS + SPLITS - 1) / SPLITS;  // of all, and of a block
constexpr bool GROUPED = GROUPS > 1;
constexpr int FLUSH_K = GROUP_K < BLOCK_K ? GROUP_K : BLOCK_K;  // k between two uses of a scale

// Groups that the steps of a block can meet, wherever the first of them begins.
constexpr int GROUP_STEPS = GROUP_K > BLOCK_K ? GROUP_K / BLOCK_K : 1, STEP_GROUPS = GROUP_K < BLOCK_K ? BLOCK_K / GROUP_K : 1;
constexpr int MET_GROUPS = ((MOST_STEPS + GROUP_STEPS - 2) / GROUP_STEPS + 1) * STEP_GROUPS;
constexpr int BLOCK_GROUPS = MET_GROUPS < GROUPS ? MET_GROUPS : GROUPS;

// Shared memory of a block, in bytes: [x, a row after the other][zeros, read as tokens beyond them][scales][zero points].
// Rows of x begin in different banks.
constexpr int X_STRIDE = MOST_STEPS * BLOCK_K * (int)sizeof(X) + 16, NOTHING_AT = BLOCK_M * X_STRIDE;
constexpr int NOTHING_BYTES = sizeof(X) == 2 ? BLOCK_K * 2 : 0, S_AT = NOTHING_AT + NOTHING_BYTES;
constexpr int Z_AT = S_AT + (GROUPED ? BLOCK_GROUPS * BLOCK_N * (int)sizeof(S) : 0);

// Rows of scales or zero points from `group` on, `bytes` an element.
DEVICE void fetch_groups(uint8_t* to, const uint8_t* from, int first, int n0, int bytes) {
  for (int i = threadIdx.x * 16; i < BLOCK_GROUPS * BLOCK_N * bytes; i += THREADS * 16) {
    const int n = n0 + i / bytes % BLOCK_N, group = first + i / bytes / BLOCK_N;
    const bool inside = n < PADDED_N && group < GROUPS;
    ptx::cp_async_16(to + i, from + (inside ? ((int64_t)group * PADDED_N + n) * bytes : 0), inside ? 16 : 0);
  }
}

// Asks for all but the codes of steps [first, last). Rows of x that start at multiples of 16 bytes are copied in pieces.
DEVICE void fetch(const Call& c, uint8_t* to, int first, int last, int64_t m0, int n0) {
  constexpr int PIECE = 16 / (int)sizeof(X);
  const bool pieces = ((uint64_t)c.x | (uint64_t)c.ldx * sizeof(X)) % 16 == 0;
  for (int row = 0; row < BLOCK_M; ++row)
    for (int i = threadIdx.x * PIECE; i < (last - first) * BLOCK_K; i += THREADS * PIECE) {
      const int k = first * BLOCK_K + i, left = m0 + row < c.m && k < K ? min(K - k, PIECE) : 0;
      const X* from = left ? c.x + (m0 + row) * c.ldx + k : c.x;
      X* place = (X*)(to + row * X_STRIDE) + i;
      if (pieces) {
        ptx::cp_async_16(place, from, left * (int)sizeof(X));
      } else {
        for (int e = 0; e < PIECE; ++e) place[e] = e < left ? from[e] : X();
      }
    }
  for (int i = threadIdx.x; i < NOTHING_BYTES / 4; i += THREADS) ((uint32_t*)(to + NOTHING_AT))[i] = 0;
  if (GROUPED) fetch_groups(to + S_AT, c.w + SCALES_AT, first * BLOCK_K / GROUP_K, n0, (int)sizeof(S));
  if (ZERO) fetch_groups(to + Z_AT, c.w + ZEROS_AT, first * BLOCK_K / GROUP_K, n0, 1);
}
