// What the lanes of a warp do together, lane by lane, with the positions that the PTX ISA writes down. Nothing here is
// derived from Gridstone's own layout tables, so that the two cannot be wrong together.
#include "collectives.h"

#include "machine.h"

namespace gs {

// shfl.sync (PTX ISA 9.7.9.6) within segments of `width` lanes. A source beyond the segment gives a lane its own value;
// xor may reach into earlier segments, as the CUDA programming guide says of __shfl_xor_sync.
void shuffle(void* const* slots, uint32_t mask, uint32_t immediate) {
  const int kind = (int)(immediate & 3), width = (int)(immediate >> 2);
  for (int l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    Word& w = *(Word*)slots[l];
    const int base = l & ~(width - 1);
    int from = kind == IDX ? base + (w.arg & (width - 1)) : kind == UP ? l - w.arg : kind == DOWN ? l + w.arg : l ^ w.arg;
    if (from < (kind == XOR ? 0 : base) || from >= base + width) from = l;
    // A lane that does not take part brings nothing: its value is poison, and stays visible as such.
    w.out = mask >> from & 1 ? ((Word*)slots[from])->in : 0xFEFEFEFEFEFEFEFEull;
  }
}
void ballot(void* const* slots, uint32_t mask, uint32_t) {
  uint32_t all = 0;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) all |= (uint32_t)(((Word*)slots[l])->in != 0) << l;
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) ((Word*)slots[l])->out = all;
}
void reduce(void* const* slots, uint32_t mask, uint32_t kind) {
  bool first = true;
  uint32_t r = 0;
  for (int l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    const uint32_t v = (uint32_t)((Word*)slots[l])->in;
    if (first) r = v, first = false;
    else switch (kind) {
      case ADD: r += v; break;
      case MIN: r = v < r ? v : r; break;
      case MAX: r = v > r ? v : r; break;
      case AND: r &= v; break;
      case OR: r |= v; break;
      case XOR_BITS: r ^= v; break;
      case SMIN: r = (int)v < (int)r ? v : r; break;
      default: r = (int)v > (int)r ? v : r;
    }
  }
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) ((Word*)slots[l])->out = r;
}
// d += a * b over sixteen-bit floats, m16n8k16.
template <float (*WIDEN)(uint16_t)> static void mma_m16n8k16(void* const* slots) {
  static float A[16][16], B[16][8];
  for (int l = 0; l < 32; ++l) {
    const Mma& m = *(const Mma*)slots[l];
    const int group = l >> 2, in_group = l % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      A[row][column] = WIDEN((uint16_t)(m.a[i / 2] >> (16 * (i & 1))));
    }
    for (int i = 0; i < 4; ++i) {
      const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
      B[row][group] = WIDEN((uint16_t)(m.b[i / 2] >> (16 * (i & 1))));
    }
  }
  for (int l = 0; l < 32; ++l) {
    const Mma& m = *(const Mma*)slots[l];
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? l >> 2 : (l >> 2) + 8, column = (l % 4) * 2 + (i & 1);
      double sum = 0;
      for (int k = 0; k < 16; ++k) sum += (double)A[row][k] * (double)B[k][column];
      float& d = ((float*)m.d)[i];
      d = (float)((double)d + sum);
    }
  }
}

void mma_m16n8k16_f16(void* const* slots, uint32_t, uint32_t) { mma_m16n8k16<f32_of_f16>(slots); }
void mma_m16n8k16_bf16(void* const* slots, uint32_t, uint32_t) { mma_m16n8k16<f32_of_bf16>(slots); }

void probe_a(const uint32_t* a, float (*widen)(uint16_t), void* pc) {
  const machine::Probing p = machine::probing();
  if (p.what != machine::W_ROW && p.what != machine::W_K) return;
  const int group = (int)machine::lane() >> 2, in_group = (int)machine::lane() % 4;
  for (int i = 0; i < 8; ++i) {
    const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8, column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    const float value = widen((uint16_t)(a[i / 2] >> (16 * (i & 1))));
    const int want = (p.what == machine::W_ROW ? row : column) + p.offset;
    if (value != (float)want && value != (float)p.offset) machine::misplaced("A", row, column, value, pc);
  }
}

void probe_m16n8k16(const uint32_t* a, const uint32_t* b, float (*widen)(uint16_t), void* pc) {
  probe_a(a, widen, pc);
  const machine::Probing p = machine::probing();
  if (p.what != machine::X_ROW && p.what != machine::X_K) return;
  const int group = (int)machine::lane() >> 2, in_group = (int)machine::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    const float value = widen((uint16_t)(b[i / 2] >> (16 * (i & 1))));
    if (value != 0 && value != 1.f + (float)(p.what == machine::X_ROW ? group : row)) machine::misplaced("B", row, group, value, pc);
  }
}

static float element(const uint8_t* tokens, unsigned token, int k, float (*widen)(uint16_t)) {
  uint16_t h;
  memcpy(&h, tokens + token * 32 + 2 * (unsigned)k, 2);
  return widen(h);
}

void probe_tokens(const uint8_t* tokens, unsigned count, float (*widen)(uint16_t), void* pc) {
  const machine::Probing p = machine::probing();
  if (p.what != machine::X_ROW && p.what != machine::X_K) return;
  for (unsigned token = 0; token < count; ++token)
    for (int k = 0; k < 16; ++k) {
      const float value = element(tokens, token, k, widen);
      if (value != 0 && value != 1.f + (float)(p.what == machine::X_ROW ? (int)token % 8 : k))
        machine::misplaced("B", k, (int)token, value, pc);
    }
}

void mma_m16n8k32_s8(void* const* slots, uint32_t, uint32_t) {
  static int A[16][32], B[32][8];
  for (int l = 0; l < 32; ++l) {
    const Mma& m = *(const Mma*)slots[l];
    const int group = l >> 2, in_group = l % 4;
    for (int i = 0; i < 16; ++i) {
      const int row = (i < 4 || (i >= 8 && i < 12)) ? group : group + 8;
      const int column = in_group * 4 + (i & 3) + (i >= 8 ? 16 : 0);
      A[row][column] = (int8_t)(m.a[i / 4] >> (8 * (i & 3)));
    }
    for (int i = 0; i < 8; ++i) {
      const int row = in_group * 4 + (i & 3) + (i >= 4 ? 16 : 0);
      B[row][group] = (int8_t)(m.b[i / 4] >> (8 * (i & 3)));
    }
  }
  for (int l = 0; l < 32; ++l) {
    const Mma& m = *(const Mma*)slots[l];
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? l >> 2 : (l >> 2) + 8, column = (l % 4) * 2 + (i & 1);
      for (int k = 0; k < 32; ++k) ((int32_t*)m.d)[i] += A[row][k] * B[k][column];
    }
  }
}

void mma_m16n8k256_b1(void* const* slots, uint32_t, uint32_t) {
  static uint8_t A[16][256], B[256][8];
  for (int l = 0; l < 32; ++l) {
    const Mma& m = *(const Mma*)slots[l];
    const int group = l >> 2, in_group = l % 4;
    for (int i = 0; i < 128; ++i) {
      const int row = (i < 32 || (i >= 64 && i < 96)) ? group : group + 8;
      const int column = in_group * 32 + (i & 31) + (i >= 64 ? 128 : 0);
      A[row][column] = m.a[i / 32] >> (i & 31) & 1;
    }
    for (int i = 0; i < 64; ++i) {
      const int row = in_group * 32 + (i & 31) + (i >= 32 ? 128 : 0);
      B[row][group] = m.b[i / 32] >> (i & 31) & 1;
    }
  }
  for (int l = 0; l < 32; ++l) {
    const Mma& m = *(const Mma*)slots[l];
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? l >> 2 : (l >> 2) + 8, column = (l % 4) * 2 + (i & 1);
      for (int k = 0; k < 256; ++k) ((int32_t*)m.d)[i] += A[row][k] & B[k][column];
    }
  }
}

// immediate: number of matrices, plus 16 for .trans. The lanes' rows have been checked as reads already.
void ldmatrix(void* const* slots, uint32_t, uint32_t immediate) {
  const int matrices = (int)(immediate & 15);
  for (int x = 0; x < matrices; ++x) {
    uint16_t M[8][8];
    for (int row = 0; row < 8; ++row) memcpy(M[row], ((const Ldmatrix*)slots[8 * x + row])->row, 16);
    for (int l = 0; l < 32; ++l) {
      const int row = l / 4, column = 2 * (l % 4);
      ((const Ldmatrix*)slots[l])->r[x] =
          immediate & 16 ? pair(M[column][row], M[column + 1][row]) : pair(M[row][column], M[row][column + 1]);
    }
  }
}

// wgmma.m64nNk16: the sixteen rows of each warp as in mma.m16n8k16, for N / 8 blocks of eight columns.
void wgmma(const machine::Wgmma* lanes, const uint8_t* tokens, unsigned count) {
  static float A[64][16], B[256][16];
  for (int l = 0; l < 128; ++l) {
    const int warp = l / 32, group = l % 32 >> 2, in_group = l % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = 16 * warp + ((i < 2 || (i >= 4 && i < 6)) ? group : group + 8);
      const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      A[row][column] = lanes[l].widen((uint16_t)(lanes[l].a[i / 2] >> (16 * (i & 1))));
    }
  }
  for (unsigned token = 0; token < count; ++token)
    for (int k = 0; k < 16; ++k) B[token][k] = element(tokens, token, k, lanes[0].widen);
  for (int l = 0; l < 128; ++l) {
    const int warp = l / 32;
    for (unsigned i = 0; i < count / 2; ++i) {
      const unsigned e = i % 4;
      const int row = 16 * warp + (l % 32 >> 2) + (e < 2 ? 0 : 8);
      const unsigned column = i / 4 * 8 + (unsigned)(l % 4) * 2 + e % 2;
      double sum = lanes[l].accumulate ? lanes[l].d[i] : 0.0;
      for (int k = 0; k < 16; ++k) sum += (double)A[row][k] * (double)B[column][k];
      lanes[l].d[i] = (float)sum;
    }
  }
}

}  // namespace gs
