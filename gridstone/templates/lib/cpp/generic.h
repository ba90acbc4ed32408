// Vocabulary of any target: no intrinsics, no fused multiply-add assumed.
#define VEC_BYTES 16
constexpr int VEC_REGISTERS = 16;
//% include "lib/cpp/base.h"

//% include "lib/cpp/fp32.h"

