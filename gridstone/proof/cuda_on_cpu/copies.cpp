// cp.async: bytes arrive when the thread that asked for them waits, and not before.
#include <cstring>

#include "state.h"

namespace machine {
namespace {

void deliver(const Copy& c) {
  mark(c.to, c.bytes, PENDING, false, c.pc);
  memcpy(c.to, c.from, c.valid);
  memset(c.to + c.valid, 0, c.bytes - c.valid);
  check(c.to, c.bytes, 1, STORE, c.pc);
  mark(c.to, c.bytes, COPIED, true, c.pc);
}

}  // namespace

void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid, void* at) {
  const uint32_t pc = offset_of(at);
  if (valid > bytes)
    fatal("cp.async", who() + " copies " + std::to_string(valid) + " of " + std::to_string(bytes) + " bytes", pc);
  if ((uintptr_t)global % bytes)
    fatal("alignment", who() + " copies " + std::to_string(bytes) + " bytes from an address that is not a multiple of it", pc);
  if (valid) check(global, valid, 1, LOAD, pc);
  shared_offset(shared, at);
  check(shared, bytes, bytes, STORE, pc);
  memset(shared, 0xFF, bytes);  // whatever was there is gone from now on
  mark(shared, bytes, PENDING, true, pc);
  M.thread->open.push_back({(uint8_t*)shared, (const uint8_t*)global, bytes, valid, pc});
}

void copy_commit() {
  M.thread->groups.push_back({});
  M.thread->groups.back().swap(M.thread->open);
}

void copy_wait(unsigned pending) {
  auto& groups = M.thread->groups;
  const size_t arrived = groups.size() > pending ? groups.size() - pending : 0;
  for (size_t g = 0; g < arrived; ++g)
    for (const Copy& c : groups[g]) deliver(c);
  groups.erase(groups.begin(), groups.begin() + (long)arrived);
}

void copy_wait_all() {
  copy_commit();
  copy_wait(0);
}

}  // namespace machine
