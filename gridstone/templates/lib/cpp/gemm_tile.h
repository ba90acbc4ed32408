// Where a tile's weight operands come from. The first row tile of a blocked kernel decodes and keeps: its dots hide the panel's stores.
enum From { FETCH_AND_DECODE, DECODE, DECODE_AND_KEEP, PANEL };

// c[ROWS][BLOCK_N] += x . w over one slab, NRT vectors of n from v0. SUMS independent sums hide the dot's latency in small tiles.
template <int ROWS, int NRT, int SUMS, From FROM, bool SCALED>
static __attribute__((noinline)) void tile(const Step* x, Slab slab, float* c, int v0, Operand* panel, int words) {
  if (WHOLE_SLABS) words = SLAB_K / WORD_K;  // a constant trip count
  constexpr bool FETCH = FROM == FETCH_AND_DECODE || FROM == DECODE_AND_KEEP;
  const Decode decode;
  Zero zero[NRT];
  vf acc[SUMS][ROWS][NRT];
#pragma GCC unroll 16
  for (int v = 0; v < NRT; ++v) zero[v] = zero_at(decode, slab.group, v0 + v);
#pragma GCC unroll 4
  for (int p = 0; p < SUMS; ++p)
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
      for (int v = 0; v < NRT; ++v) acc[p][m][v] = vf{};

  if (FETCH && v0 == 0)  // what lies behind a group's codes, as far ahead as they are
    for (int64_t b = SCALES_AT; b < GROUP_BYTES; b += 64) __builtin_prefetch(slab.group + PREFETCH + b, 0, 3);
  const uint8_t* codes = slab.codes + v0 * LANES * 4;
  Operand* w = panel + v0;
  c += v0 * LANES;
  for (int i = 0; i < words; ++i) {
    if (FETCH)
#pragma GCC unroll 4
      for (int b = 0; b < NRT * LANES * 4; b += 64) __builtin_prefetch(codes + PREFETCH + b, 0, 3);
#pragma GCC unroll 8
    for (int s = 0; s < STEPS; ++s) {
      Operand b[NRT];
#pragma GCC unroll 16
      for (int v = 0; v < NRT; ++v) {
        b[v] = FROM == PANEL ? w[s * NV + v] : decode(load<vu>(codes + v * LANES * 4), s, zero[v]);
        if (FROM == DECODE_AND_KEEP) w[s * NV + v] = b[v];
      }
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; ++m) {
        const Operand xm = broadcast(x + s * ROWS + m);
#pragma GCC unroll 16
        for (int v = 0; v < NRT; ++v) acc[s % SUMS][m][v] = dot(acc[s % SUMS][m][v], b[v], xm);
      }
    }
    x += STEPS * ROWS;
    codes += WORD_BYTES;
    w += STEPS * NV;
  }

#pragma GCC unroll 16
  for (int v = 0; v < NRT; ++v) {
    const vf scale = SCALED ? scale_at(slab.group, v0 + v) : vf{};
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m) {
      vf sum = acc[0][m][v];
#pragma GCC unroll 4
      for (int p = 1; p < SUMS; ++p) sum += acc[p][m][v];
      float* to = c + m * BLOCK_N + v * LANES;
      store(to, SCALED ? fma(sum, scale, load<vf>(to)) : load<vf>(to) + sum);
    }
  }
}

typedef void (*Tile)(const Step*, Slab, float*, int, Operand*, int);

