// What a warpgroup does with a stage: its codes become operands, which are multiplied by the tokens, group after group.
typedef float Sums[TILES_N][BLOCK_M / 2];
typedef uint32_t Operands[CHUNK_TILES][TILES_N][4];

// Row of a thread's first element among the weight's of the block.
DEVICE int own_row() {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  return warp / 4 * TILES_N * 64 + warp % 4 * 16 + lane / 4;
}

// Waits for a step's stage.
DEVICE const uint8_t* next_stage(const uint8_t* pipeline, uint64_t* full, const Share& of, int step) {
  const int slot = (step - of.first) % STAGES;
  ptx::cp_async_wait<AHEAD - 1>();
  ptx::mbarrier_wait(&full[slot], (step - of.first) / STAGES % 2);
  ptx::fence_proxy_async();  // wgmma reads x through another proxy than cp.async wrote it
  __syncthreads();           // the stage has come for everybody; nobody multiplies the last but one any more
  return pipeline + slot * STAGE_BYTES;
}

// Asks for the stage of a step.
DEVICE void ask(const Call& c, uint8_t* pipeline, uint64_t* full, const Share& of, int step) {
  const int slot = (step - of.first) % STAGES;
  if (step < of.last) fetch(c, pipeline + slot * STAGE_BYTES, &full[slot], step, of);
  ptx::cp_async_commit();
}

// A chunk of a stage as operands; the one before may be multiplied meanwhile.
DEVICE void decode(Operands& a, Zero (&zero)[TILES_N][2], const uint8_t* stage, int chunk) {
  const int k = chunk * CHUNK_K, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < TILES_N; ++i) {
    if (ZERO && k % FLUSH_K == 0)
      for (int h = 0; h < 2; ++h) zero[i][h] = Decoder::zero(stage[Z_AT + group_at(k) + own_row() + i * 64 + h * 8]);
    const int at = chunk * CHUNKS_N + (warp / 4 * TILES_N + i) * 4 + warp % 4;
    const uint4 v = *(const uint4*)(stage + (at * 32 + lane) * 16);
    const uint32_t q[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int tile = 0; tile < CHUNK_TILES; ++tile) {
      Decoder::tile(a[tile][i], q + tile * Decoder::WORDS, zero[i]);
      ptx::wgmma_hold(a[tile][i]);
    }
  }
}

// Has a chunk multiplied; until the next call. `scale` becomes that of the group which ends here.
DEVICE void multiply(Sums& sums, float (&scale)[TILES_N][2], const Operands& a, const uint8_t* stage, int chunk) {
  const int k = chunk * CHUNK_K;
  const uint64_t x = ptx::wgmma_tile(stage + X_AT);
  ptx::wgmma_fence();
#pragma unroll
  for (int tile = 0; tile < CHUNK_TILES; ++tile) {
    const uint64_t tokens = x + x_tile(k + tile * 16) / 16;  // a descriptor counts in 16 bytes
#pragma unroll
    for (int i = 0; i < TILES_N; ++i)
      Wgmma<A>::multiply<BLOCK_M>(sums[i], a[tile][i], tokens, !GROUPED || (k + tile * 16) % FLUSH_K != 0);
  }
  ptx::wgmma_commit();
  if (GROUPED && (k + CHUNK_K) % FLUSH_K == 0)
#pragma unroll
    for (int i = 0; i < TILES_N; ++i)
      for (int h = 0; h < 2; ++h) scale[i][h] = widen(((const S*)(stage + S_AT))[group_at(k) + own_row() + i * 64 + h * 8]);
  ptx::wgmma_wait<1>();  // what was multiplied before: its operands are free
}

// Waits for all that is multiplied, and adds the sums of a group, times its rows' scales, to those of everything before.
DEVICE void flush(Sums& acc, Sums& part, const float (&scale)[TILES_N][2]) {
  ptx::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < TILES_N; ++i) {
    ptx::wgmma_hold(part[i]);
#pragma unroll
    for (int e = 0; e < BLOCK_M / 2; ++e) acc[i][e] += scale[i][e / 2 % 2] * part[i][e];
    ptx::wgmma_hold(acc[i]);
  }
}
