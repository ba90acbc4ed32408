// What the lanes of a warp do together. Compiled apart from the kernel, so that these accesses are not watched.
#pragma once
#include <stdint.h>

#include "half_floats.h"
#include "machine.h"

namespace gs {

struct Word { uint64_t in, out; int arg; };  // a lane's operand, result, and lane to read from
enum Shuffle { IDX, UP, DOWN, XOR };
enum Reduction { ADD, MIN, MAX, AND, OR, XOR_BITS, SMIN, SMAX };
void shuffle(void* const* slots, uint32_t mask, uint32_t kind_and_width);  // kind + 4 * width
void ballot(void* const* slots, uint32_t mask, uint32_t);
void reduce(void* const* slots, uint32_t mask, uint32_t kind);

struct Mma { const uint32_t* a; const uint32_t* b; void* d; };
void mma_m16n8k16_f16(void* const* slots, uint32_t, uint32_t);
void mma_m16n8k16_bf16(void* const* slots, uint32_t, uint32_t);
void mma_m16n8k32_s8(void* const* slots, uint32_t, uint32_t);
void mma_m16n8k256_b1(void* const* slots, uint32_t, uint32_t);

// Holds one lane's 16-bit registers against the probe that is running, if any.
void probe_m16n8k16(const uint32_t* a, const uint32_t* b, float (*widen)(uint16_t), void* pc);

void probe_a(const uint32_t* a, float (*widen)(uint16_t), void* pc);  // of wgmma too: each warp has sixteen of its rows

// d += a * tokens for the 64 rows of a warpgroup: lane l % 32 of warp l / 32 holds rows 16 (l / 32) and on of A; a token's
// sixteen elements are 32 bytes.
void wgmma(const machine::Wgmma* lanes, const uint8_t* tokens, unsigned count);
void probe_tokens(const uint8_t* tokens, unsigned count, float (*widen)(uint16_t), void* pc);

struct Ldmatrix { const void* row; uint32_t* r; };
void ldmatrix(void* const* slots, uint32_t, uint32_t matrices);            // 1, 2 or 4, plus 16 for .trans

}  // namespace gs
