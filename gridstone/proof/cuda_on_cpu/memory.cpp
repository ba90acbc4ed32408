// Every access to memory: where it lies, whether somebody has written there, and in which order.
#include <cstdio>
#include <cstring>

#include "state.h"

namespace machine {
namespace {

std::string bytes_of(const char* verb, long long at, const char* name, size_t bytes) {
  return std::string(verb) + " byte " + std::to_string(at) + " of " + name + ", which has " + std::to_string(bytes);
}

// Shared memory that the kernel declares: each access lies within one variable.
void within_a_variable(size_t at, unsigned bytes, const char* verb, uint32_t pc) {
  const Extent* before = nullptr;
  for (unsigned i = 0; i < M.launch.extent_count; ++i) {
    const Extent& e = M.launch.extents[i];
    if (at >= e.offset && at + bytes <= e.offset + e.bytes) return;
    if (at + bytes > e.offset && (!before || e.offset > before->offset)) before = &e;
  }
  if (!before) fatal("bounds", who() + verb + " in front of the shared memory that the kernel declares", pc);
  fatal("bounds", who() + bytes_of(verb, (long long)at - (long long)before->offset, before->name, before->bytes), pc);
}

// A value that some thread stored without having computed it.
void find_poison(const Memory& memory, const uint8_t* at, size_t where, unsigned bytes, const char* space, uint32_t pc) {
  for (unsigned i = 0; i < bytes; i += 4) {
    uint32_t bits;
    memcpy(&bits, at + i, 4);
    const Epoch* by = is_poison(bits) ? memory.storer(where + i) : nullptr;
    if (by)
      return fault("uninitialised", who() + " reads from" + space + " what " + who(*by) +
                   " stored there without ever giving it a value", pc, by->pc);
  }
}

}  // namespace

Memory* locate(uintptr_t at, unsigned bytes, bool writes, uint32_t pc, size_t& where) {
  const char* verb = writes ? " writes" : " reads";
  if (on_own_stack((void*)at)) return nullptr;
  if (at - (uintptr_t)M.fixed < M.fixed_bytes) {
    where = at - (uintptr_t)M.fixed;
    within_a_variable(where, bytes, verb, pc);
    return &M.block->fixed;
  }
  if (at - (uintptr_t)M.dynamic < MOST_SHARED) {
    where = at - (uintptr_t)M.dynamic;
    if (where + bytes > M.launch.dynamic_shared)
      fatal("bounds", who() + bytes_of(verb, (long long)where, "dynamic shared memory", M.launch.dynamic_shared), pc);
    return &M.block->dynamic;
  }
  for (unsigned i = 0; i < M.launch.count; ++i) {
    const unsigned a = (M.hit + i) % M.launch.count;
    const Allocation& t = M.launch.allocations[a];
    if (at - (uintptr_t)t.base >= t.bytes) continue;
    if (at + bytes > (uintptr_t)t.base + t.bytes) break;
    M.hit = a;
    if (M.launch.traffic) M.launch.traffic[2 * a] += 1, M.launch.traffic[2 * a + 1] += bytes;
    if (!t.writable) {
      if (writes) fatal("bounds", who() + " writes to the input " + t.name, pc);
      return nullptr;
    }
    where = at - (uintptr_t)t.base;
    return &M.global[a];
  }
  if (!writes && at >= M.module && at < M.module_end) return nullptr;  // constants
  const Allocation* nearest = nullptr;
  for (unsigned i = 0; i < M.launch.count; ++i) {
    const Allocation& t = M.launch.allocations[i];
    if (at + 4096 >= (uintptr_t)t.base && at < (uintptr_t)t.base + t.bytes + 4096) nearest = &t;
  }
  if (!nearest) fatal("bounds", who() + verb + " outside every tensor", pc);
  fatal("bounds", who() + bytes_of(verb, (long long)(at - (uintptr_t)nearest->base), nearest->name, nearest->bytes), pc);
}

bool on_own_stack(const void* at) { return (uintptr_t)at - (uintptr_t)M.thread->context.stack < fiber::STACK_BYTES; }

void check(const void* pointer, unsigned bytes, unsigned alignment, Access kind, uint32_t pc) {
  if (!M.running) return;
  if (!on_own_stack(pointer)) return check_as({M.block->index, (uint16_t)M.tid, &M.thread->seen}, pointer, bytes, alignment, kind, pc);
  if (M.thread->fences) touch_register(pointer, bytes, kind.stores, pc);
}

void check_as(const View& view, const void* pointer, unsigned bytes, unsigned alignment, Access kind, uint32_t pc) {
  const uintptr_t at = (uintptr_t)pointer;
  size_t where = 0;
  Memory* memory = locate(at, bytes, kind.stores, pc, where);
  if (alignment > 1 && at % alignment)
    fatal("alignment", who() + " accesses " + std::to_string(bytes) + " bytes at an address that is not a multiple of " +
          std::to_string(alignment), pc);
  if (!memory) return;
  const Found found = memory->access(where, bytes, kind, view, pc);
  const bool shared = memory == &M.block->fixed || memory == &M.block->dynamic;
  const char* space = shared ? " shared memory" : " global memory";
  const std::string verb = kind.stores ? " writes" : " reads";
  switch (found.trouble) {
    case Trouble::NONE:
      if (kind.loads && bytes % 4 == 0 && at % 4 == 0) find_poison(*memory, (const uint8_t*)pointer, where, bytes, space, pc);
      return;
    case Trouble::UNINITIALISED:
#if defined(GS_SANITIZED)  // stores of the kernel itself are not seen there
      return;
#endif
      return fault("uninitialised", who() + " reads" + space + " that nobody has written", pc);
    case Trouble::NOT_DELIVERED:
      return fault("cp.async", who() + verb + space + " before " + (of_agent(found.other) ? "" : "the copy of ") +
                   who(found.other) + " has been waited for", pc, found.other.pc);
    case Trouble::RACE:
      return fault("race", who() + verb + space + " that " + who(found.other) + (found.other.wrote ? " writes" : " reads") +
                   " with nothing to order the two", pc, found.other.pc);
  }
}

void mark(void* at, unsigned bytes, Flag flag, bool on, uint32_t pc) {
  size_t where = 0;
  Memory* memory = locate((uintptr_t)at, bytes, true, pc, where);
  if (memory) memory->mark(where, bytes, flag, on);
}

uint32_t shared_offset(const void* generic, void* at) {
  const uintptr_t p = (uintptr_t)generic;
  if (p - (uintptr_t)M.dynamic <= M.launch.dynamic_shared) return (uint32_t)(p - (uintptr_t)M.dynamic);
  if (p - (uintptr_t)M.fixed < M.fixed_bytes) return (uint32_t)(p - (uintptr_t)M.fixed) + (1u << 24);
  fatal("bounds", who() + " takes an address for one of shared memory, which it is not", offset_of(at));
}

void read(const void* at, unsigned bytes, unsigned alignment, void* pc) { check(at, bytes, alignment, LOAD, offset_of(pc)); }

void read_only(const void* at, unsigned bytes, unsigned alignment, void* pc) {
  check(at, bytes, alignment, LOAD, offset_of(pc));
  for (size_t a = 0; a < M.global.size(); ++a) {
    const Allocation& t = M.launch.allocations[a];
    if (!t.writable || (uintptr_t)at - (uintptr_t)t.base >= t.bytes) continue;
    const Epoch* by = M.global[a].storer((uintptr_t)at - (uintptr_t)t.base);
    if (by) fault("race", who() + " reads past the coherent caches what " + who(*by) + " writes in this launch", offset_of(pc), by->pc);
  }
}

void write(void* at, unsigned bytes, unsigned alignment, void* pc) { check(at, bytes, alignment, STORE, offset_of(pc)); }

void misaligned(const void* at, unsigned alignment, void* pc) {
  fatal("alignment", who() + " takes address " + std::to_string((uintptr_t)at % alignment) + " modulo " +
        std::to_string(alignment) + " for that of a value whose addresses are multiples of it", offset_of(pc));
}

void beyond_array(long long index, void* pc) {
  fatal("bounds", who() + " takes element " + std::to_string(index) + " of an array that has none such", offset_of(pc));
}

bool is_poison(uint32_t bits) { return bits == POISON * 0x01010101u; }

void uninitialised(const char* what, void* pc) {
  fault("uninitialised", who() + " uses " + what + " that was never given a value", offset_of(pc));
}

Probing probing() { return {(Probe)M.launch.probe, M.launch.probe_offset}; }

void misplaced(const char* what, int row, int column, float value, void* at) {
  const char* probes[] = {"", "1 + m % 8 of x", "1 + k % 16 of x", "n % 16 of the weight", "k % 16 of the weight"};
  char text[160];
  snprintf(text, sizeof text, " brings %g where %s[%d][%d] belongs, in a probe with ", value, what, row, column);
  fault("fragment", who() + text + probes[M.launch.probe], offset_of(at));
}

}  // namespace machine
