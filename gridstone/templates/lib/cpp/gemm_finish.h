template <class T> INLINE vf load_some(const T* p, int count) {  // count <= LANES lanes, the rest zero
  T t[LANES];
  memset(t, 0, sizeof t);
  memcpy(t, p, count * sizeof(T));
  return widen(t);
}

INLINE vf finish_vector(vf a, vf bias, vf residual) {
//% for step in steps
  a = $(step);
//% endfor
  return a;
}

// Columns n0 .. of rows row0 .. row0 + rows: c[rows][BLOCK_N] through the epilogue into y. Rows outside, vectors inside: y's rows are far
// apart, often by a power of two, so a line is finished while it is in L1.
static void finish(const Call& a, const float* c, int64_t row0, int64_t rows, int64_t n0) {
  const int64_t left = N - n0;
  vf bias[NV];
  for (int v = 0; v < NV; ++v) {
//% if "bias" in steps|join
    const int64_t count = left - v * LANES;
    const B* from = a.bias + n0 + v * LANES;
    bias[v] = count <= 0 ? vf{} : count >= LANES ? widen(from) : load_some(from, (int)count);
//% else
    bias[v] = vf{};
//% endif
  }
  for (int64_t m = 0; m < rows; ++m) {
    const float* from = c + m * BLOCK_N;
//% if "residual" in steps|join
    const R* residual = a.residual + (row0 + m) * a.ldr + n0;
//% endif
    Y* to = a.y + (row0 + m) * a.ldy + n0;
    if (left >= BLOCK_N) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v)
        narrow(to + v * LANES, finish_vector(load<vf>(from + v * LANES), bias[v], $('widen(residual + v * LANES)' if 'residual' in steps|join else 'vf{}')));
    } else {
      for (int v = 0; v * LANES < left; ++v) {
        const int count = left - v * LANES < LANES ? (int)(left - v * LANES) : LANES;
        const vf r = $('load_some(residual + v * LANES, count)' if 'residual' in steps|join else 'vf{}');
        Y t[LANES];
        narrow(t, finish_vector(load<vf>(from + v * LANES), bias[v], r));
        memcpy(to + v * LANES, t, count * sizeof(Y));
      }
    }
  }
}

// y's lines are written once, far apart: ask for them while the last slab is being computed.
INLINE void fetch_y(const Call& a, int64_t row, int rows, int64_t n0) {
  for (int m = 0; m < rows; ++m)
    for (int b = 0; b < BLOCK_N * (int)sizeof(Y); b += 64)
      __builtin_prefetch((const uint8_t*)(a.y + (row + m) * a.ldy + n0) + b, 1, 3);
}

