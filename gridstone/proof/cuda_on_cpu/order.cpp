// Order between threads without barriers: fences and strong accesses, after the PTX ISA, "Memory Consistency Model".
//
// A release pattern is a fence, or .release, before a strong write; an acquire pattern is a strong read before a fence, or
// .acquire. An update that read what a release pattern wrote carries it on; a plain strong store of another thread ends it.
#include <cstring>

#include "state.h"

namespace machine {
namespace {

// An atomic variable; one in shared memory is another one in each block.
Sync& sync_of(const void* at) {
  const uintptr_t p = (uintptr_t)at;
  const bool shared = p - (uintptr_t)M.dynamic < MOST_SHARED || p - (uintptr_t)M.fixed < M.fixed_bytes;
  return M.syncs[shared ? p + ((uintptr_t)(M.block->index + 1) << 48) : p];
}

void hear(Seen& into, const Sync& sync, Scope scope) {
  const auto own = sync.block.find(M.block->index);
  if (own != sync.block.end()) join(into, own->second);
  if (scope == BLOCK || sync.device.empty()) return;
  Others others = sync.device;
  if (M.block->index < others.size() && others[M.block->index]) {
    join(into.own, *others[M.block->index]);
    others[M.block->index] = nullptr;
  }
  join(into.others, others);
}

void publish(Sync& sync, const Seen& seen, Scope scope) {
  join(sync.block[M.block->index], seen);
  if (scope == BLOCK) return;
  Others all = seen.others;
  if (all.size() <= M.block->index) all.resize(M.block->index + 1);
  all[M.block->index] = std::make_shared<Clock>(seen.own);
  join(sync.device, all);
}

void acquire(const Sync& sync, int order) {
  Thread& t = *M.thread;
  if (order & ACQUIRE) return hear(t.seen, sync, DEVICE);
  hear(t.heard[BLOCK], sync, BLOCK);
  hear(t.heard[DEVICE], sync, DEVICE);
}

void release(Sync& sync, int order) {
  Thread& t = *M.thread;
  if (order & RELEASE) {
    publish(sync, t.seen, DEVICE);
    tick(t, M.tid);
    return;
  }
  for (Scope scope : {BLOCK, DEVICE})
    if (!t.fenced[scope].own.empty()) publish(sync, t.fenced[scope], scope);
}

}  // namespace

void fence(Scope scope) {
  Thread& t = *M.thread;
  join(t.seen, t.heard[scope]);
  t.fenced[BLOCK] = t.seen;
  if (scope == DEVICE) t.fenced[DEVICE] = t.seen;
  tick(t, M.tid);
}

void strong_load(const void* at, unsigned bytes, Order order, void* pc) {
  if (on_own_stack(at)) return;
  poll(pc);
  acquire(sync_of(at), order);  // before the access: what its writer published may be read
  check(at, bytes, bytes, STRONG_LOAD, offset_of(pc));
  auto& polled = M.thread->polled;
  uint64_t value = 0;
  memcpy(&value, at, bytes < 8 ? bytes : 8);
  if (polled.at != at || polled.value != value) ++M.progress;  // it found something new
  polled = {at, value};
}

void strong_store(void* at, unsigned bytes, Order order, void* pc) {
  if (on_own_stack(at)) return;
  check(at, bytes, bytes, STRONG_STORE, offset_of(pc));
  Sync& sync = sync_of(at);
  sync = {};
  release(sync, order);
  ++M.progress;
}

void strong_update(void* at, unsigned bytes, int order, void* pc) {
  if (on_own_stack(at)) return;
  Sync& sync = sync_of(at);
  acquire(sync, order);
  check(at, bytes, bytes, UPDATE, offset_of(pc));
  release(sync, order);
}

void updated(bool changed, void* pc) {
  if (changed) ++M.progress;
  else poll(pc);
}

}  // namespace machine
