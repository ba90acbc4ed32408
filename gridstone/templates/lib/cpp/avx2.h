// Vocabulary of AVX2 with FMA and F16C.
#define VEC_BYTES 32
constexpr int VEC_REGISTERS = 16;
//% include "lib/cpp/base.h"

//% include "lib/cpp/fp32.h"

