// Adds up sums[WARPS_K][BLOCK_M][BLOCK_N], then what the SPLITS blocks of a tile have, and finishes the tile. The block that
// comes last to the tile's ticket does it: nobody waits. Sums are taken in the order of k, whoever comes last, or, if
// not ORDERED, as the memory adds them. Tickets and unordered sums are left zero, as the next launch must find them.
DEVICE void reduce_and_finish(const Call& c, const float* sums, float* parts, uint32_t* tickets, int64_t m0, int n0) {
  const int t = threadIdx.x, split = blockIdx.z;
  const int tile = blockIdx.y * gridDim.x + blockIdx.x;
  parts += (int64_t)tile * BLOCK_M * BLOCK_N * (ORDERED ? SPLITS : 1);
  if (SPLITS > 1) {
    for (int i = t; i < BLOCK_M * BLOCK_N; i += THREADS) {
      float v = sums[i];
      for (int s = 1; s < WARPS_K; ++s) v += sums[s * BLOCK_M * BLOCK_N + i];
      if (ORDERED) parts[split * BLOCK_M * BLOCK_N + i] = v;
      else ptx::red_add_f32(parts + i, v);
    }
    __shared__ uint32_t before;  // blocks of this tile that were done
    __syncthreads();
    if (t == 0) before = ptx::atom_inc_acq_rel(tickets + tile);
    __syncthreads();
    if (before != SPLITS - 1) return;
    if (t == 0) tickets[tile] = 0;  // as the next launch must find it
  }
  for (int i = t; i < BLOCK_M * BLOCK_N; i += THREADS) {
    const int n = n0 + i % BLOCK_N;
    float v = 0.f;
    if (SPLITS == 1) {
      for (int s = 0; s < WARPS_K; ++s) v += sums[s * BLOCK_M * BLOCK_N + i];
    } else if (ORDERED) {
      for (int s = 0; s < SPLITS; ++s) v += parts[s * BLOCK_M * BLOCK_N + i];
    } else {
      v = parts[i];
      parts[i] = 0.f;
    }
    if (m0 + i / BLOCK_N >= c.m || n >= N) continue;
    if (!GROUPED) v *= widen(((const S*)(c.w + SCALES_AT))[n]);
    finish(c, m0 + i / BLOCK_N, n, v);
  }
}
