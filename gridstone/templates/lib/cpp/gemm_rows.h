// M is cut into row tiles of at most M_R rows, as even as possible, so that two heights of tile serve one call.
constexpr int M_R = $(m_r), N_R = $(n_r);
constexpr int64_t M_CHUNK = ($(m_chunk) + M_R - 1) / M_R;  // row tiles whose results stay in cache while all of K passes by
static_assert(M_R <= 14 && NV % N_R == 0, "tile_of has 14 heights");

struct Rows {
  int64_t tiles, base, rest;  // the first `rest` tiles have base + 1 rows
  explicit Rows(int64_t m) : tiles((m + M_R - 1) / M_R), base(m / tiles), rest(m % tiles) {}
  int64_t first(int64_t t) const { return t * base + (t < rest ? t : rest); }
  int count(int64_t t) const { return (int)(base + (t < rest)); }
};

template <From FROM, bool SCALED, int R> constexpr Tile height() {
  if constexpr (R <= M_R) return tile<R, N_R, 1, FROM, SCALED>;
  else return nullptr;
}
template <From FROM, bool SCALED> static Tile tile_of(int rows) {
  static const Tile table[15] = {nullptr, height<FROM, SCALED, 1>(), height<FROM, SCALED, 2>(), height<FROM, SCALED, 3>(),
    height<FROM, SCALED, 4>(), height<FROM, SCALED, 5>(), height<FROM, SCALED, 6>(), height<FROM, SCALED, 7>(),
    height<FROM, SCALED, 8>(), height<FROM, SCALED, 9>(), height<FROM, SCALED, 10>(), height<FROM, SCALED, 11>(),
    height<FROM, SCALED, 12>(), height<FROM, SCALED, 13>(), height<FROM, SCALED, 14>()};
  return table[rows];
}

// Scratch: [packed x][per thread: result tile, panel]. All sizes in bytes, pieces on pages of their own.
INLINE int64_t pages(int64_t bytes) { return (bytes + 4095) & ~(int64_t)4095; }
// Prefetchers run past an end: what one thread writes lies this far from what another reads. One page is too little: a tenth of the time.
constexpr int64_t APART = 4 * 4096;
INLINE int64_t packed_bytes(int64_t m) { return pages(m * SLABS * SLAB_K / K_STEP * (int64_t)sizeof(Step)) + APART; }
constexpr int64_t RESULT_BYTES = M_CHUNK * M_R * BLOCK_N * (int64_t)sizeof(float);
constexpr int64_t PANEL_BYTES = SLAB_K / K_STEP * BLOCK_N * (int64_t)sizeof(float);
constexpr int64_t THREAD_BYTES = ((RESULT_BYTES + PANEL_BYTES + 4095) & ~(int64_t)4095) + APART;

