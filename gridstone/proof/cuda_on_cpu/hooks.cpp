// What the compiler calls: the hooks of -fsanitize=thread at every access, and those of -fsanitize=alignment,bounds.
#include <cstdint>

#include "machine.h"

#define HERE __builtin_return_address(0)
#define ACCESS(bytes)                                                                                                    \
  extern "C" void __tsan_read##bytes(void* a) { machine::read(a, bytes, 1, HERE); }                                      \
  extern "C" void __tsan_write##bytes(void* a) { machine::write(a, bytes, 1, HERE); }                                    \
  extern "C" void __tsan_volatile_read##bytes(void* a) { machine::strong_load(a, bytes, machine::RELAXED, HERE); }       \
  extern "C" void __tsan_volatile_write##bytes(void* a) { machine::strong_store(a, bytes, machine::RELAXED, HERE); }
#define UNALIGNED(bytes)                                                                                                 \
  extern "C" void __tsan_unaligned_read##bytes(void* a) { machine::read(a, bytes, 1, HERE); }                            \
  extern "C" void __tsan_unaligned_write##bytes(void* a) { machine::write(a, bytes, 1, HERE); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
UNALIGNED(2) UNALIGNED(4) UNALIGNED(8) UNALIGNED(16)
extern "C" void __tsan_read_range(void* a, unsigned long bytes) { machine::read(a, (unsigned)bytes, 1, HERE); }
extern "C" void __tsan_write_range(void* a, unsigned long bytes) { machine::write(a, (unsigned)bytes, 1, HERE); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

#if !defined(GS_SANITIZED)  // the sanitised program brings its own
struct Mismatch { const char* file; uint32_t line, column; const void* type; uint8_t log_alignment, kind; };
extern "C" void __ubsan_handle_type_mismatch_v1(Mismatch* m, void* at) { machine::misaligned(at, 1u << m->log_alignment, HERE); }
extern "C" void __ubsan_handle_out_of_bounds(void*, void* index) { machine::beyond_array((long long)(intptr_t)index, HERE); }
#endif
