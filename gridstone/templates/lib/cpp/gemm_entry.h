}  // namespace

extern "C" __attribute__((visibility("default"))) int64_t gs_gemm_scratch(int64_t m, int64_t threads) {
  return packed_bytes(m) + threads * THREAD_BYTES + 4096;
}

extern "C" __attribute__((visibility("default"))) void gs_gemm(
    const X* x, int64_t ldx, const uint8_t* w, const B* bias, const R* residual, int64_t ldr, Y* y, int64_t ldy, int64_t m,
    int64_t threads, uint8_t* scratch) {
  const Call a = {x, ldx, w, bias, residual, ldr, y, ldy, m};
  const Rows rows(m);
  scratch = (uint8_t*)pages((int64_t)scratch);
  Step* packed = (Step*)scratch;
  const int64_t work = SLABS * rows.tiles;
  Share share(BLOCKS, threads);
#pragma omp parallel num_threads(threads)
  {
    const int64_t t = omp_get_thread_num(), count = omp_get_num_threads();
    for (int64_t u = work * t / count; u < work * (t + 1) / count; ++u) {
      const int64_t s = u / rows.tiles, b = u % rows.tiles, row = rows.first(b);
      pack_rows(a, packed + s * (SLAB_K / K_STEP) * m + row * slab_words(s) * STEPS, s, row, rows.count(b));
    }
#pragma omp barrier
    uint8_t* mine = scratch + packed_bytes(m) + t * THREAD_BYTES;
    share.each(t, count, [&](int64_t block) {
      compute_block(a, rows, packed, block, (float*)mine, (Operand*)(mine + RESULT_BYTES));
    });
  }
}

