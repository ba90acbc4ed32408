// sm_90a: mbarriers, and bulk copies that go on while the threads do; what passes between the two proxies.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace machine {
namespace {

constexpr unsigned MOST_COUNT = (1u << 20) - 1;  // arrivals, and bytes, that a phase of an mbarrier counts

// ---- proxies ----------------------------------------------------------------------------------------------------------

// Whether a store may be unseen by the asynchronous proxy: no proxy fence lies between it and whoever has seen this. A bulk
// copy's is of that proxy itself.
bool unfenced(const Epoch& store, const Seen& seen) { return !of_agent(store) && known(seen.fenced, store.thread) < store.clock; }

// ---- mbarriers --------------------------------------------------------------------------------------------------------

Mbarrier& mbarrier(void* at, const char* doing, uint32_t pc) {
  const auto found = M.block->mbarriers.find(at);
  if (found == M.block->mbarriers.end()) fatal("barrier", who() + " " + doing + " what is no mbarrier", pc);
  check(at, 8, 8, UPDATE, pc);
  return found->second;
}

void end_phase(Mbarrier& m) {
  if (m.pending || m.bytes) return;
  m.done = m.arriving;
  m.pending = m.expected;
  ++m.phase;
  ++M.progress;
}

void deliver(Mbarrier& m, uint32_t pc) {
  std::vector<BulkCopy> copies;
  copies.swap(m.copies);
  std::shuffle(copies.begin(), copies.end(), M.draw);
  for (const BulkCopy& b : copies) {
    mark(b.copy.to, b.copy.bytes, PENDING, false, b.copy.pc);
    memcpy(b.copy.to, b.copy.from, b.copy.bytes);
    mark(b.copy.to, b.copy.bytes, COPIED, true, b.copy.pc);
    raise(m.arriving.own, m.agent, b.clock);
    m.bytes -= b.copy.bytes;
  }
  if (m.bytes < 0) fatal("barrier", who() + " waits for an mbarrier that more bytes came to than were announced", pc);
  end_phase(m);
}

}  // namespace

unsigned new_agent(const char* name) {
  M.block->agents.push_back(name);
  return (unsigned)(M.block->threads.size() + M.block->agents.size() - 1);
}

bool find_unfenced(const void* at, unsigned bytes, const Seen& seen, const char* doing, uint32_t pc) {
  size_t where = 0;
  const Memory* memory = locate((uintptr_t)at, bytes, false, pc, where);
  for (unsigned i = 0; memory && i < bytes; ++i) {
    const Epoch* by = memory->writer(where + i);
    if (!by || !unfenced(*by, seen)) continue;
    fault("proxy", who() + doing + who(*by) + " wrote, without a proxy fence between", pc, by->pc);
    return true;
  }
  return false;
}

// What the block's last thread leaves under way.
void find_unfinished() {
  for (const auto& [at, m] : M.block->mbarriers)
    if (!m.copies.empty()) fault("cp.async", "a bulk copy was never waited for", m.copies[0].copy.pc);
  for (const auto& [at, g] : M.block->warpgroups)
    if (!g.open.empty() || !g.groups.empty())
      fault("wgmma", "a product was never waited for", (g.open.empty() ? g.groups[0][0] : g.open[0]).pc);
}

void mbarrier_init(void* at, unsigned arrivals, void* pc) {
  const uint32_t where = offset_of(pc);
  shared_offset(at, pc);
  check(at, 8, 8, STORE, where);
  if (!arrivals || arrivals > MOST_COUNT) fatal("barrier", who() + " makes an mbarrier for " + std::to_string(arrivals) + " arrivals", where);
  Mbarrier& m = M.block->mbarriers[at];
  const unsigned agent = m.agent ? m.agent : new_agent("a bulk copy");
  m = {};
  m.agent = agent;
  m.expected = m.pending = arrivals;
  m.made = {M.thread->seen.own[M.tid], where, M.block->index, (uint16_t)M.tid, false, true};
  memset(at, 0, 8);
}

void mbarrier_arrive(void* at, unsigned expect_bytes, void* pc) {
  const uint32_t where = offset_of(pc);
  Mbarrier& m = mbarrier(at, "arrives at", where);
  if (!m.pending) fatal("barrier", who() + " arrives at an mbarrier that expects nobody more in this phase", where);
  m.bytes += expect_bytes;
  if (m.bytes > MOST_COUNT) fatal("barrier", who() + " announces " + std::to_string(m.bytes) + " bytes, more than an mbarrier counts", where);
  join(m.arriving, M.thread->seen);
  tick(*M.thread, M.tid);
  --m.pending;
  end_phase(m);
}

void mbarrier_wait(void* at, unsigned parity, void* pc) {
  const uint32_t where = offset_of(pc);
  Mbarrier& m = mbarrier(at, "waits for", where);
  for (;;) {
    if ((m.phase & 1) == parity && !m.pending) deliver(m, where);  // only bytes are missing: they come now
    if ((m.phase & 1) != parity) return join(M.thread->seen, m.done);
    poll(pc, m.pending ? "arrivals at an mbarrier" : "bytes that an mbarrier was told of");
  }
}

void bulk_copy(void* shared, const void* global, unsigned bytes, void* at, void* pc) {
  const uint32_t where = offset_of(pc);
  Mbarrier& m = mbarrier(at, "names for a copy", where);
  if (unfenced(m.made, M.thread->seen))
    fault("proxy", who() + " names an mbarrier that was made without a proxy fence since", where, m.made.pc);
  if (bytes % 16) fatal("alignment", who() + " copies " + std::to_string(bytes) + " bytes, not a multiple of 16", where);
  if (!bytes) return;
  check(global, bytes, 16, LOAD, where);
  shared_offset(shared, pc);
  find_unfenced(shared, bytes, M.thread->seen, " copies over what ", where);
  Seen seen = M.thread->seen;
  raise(seen.own, m.agent, ++m.clock);
  check_as({M.block->index, (uint16_t)m.agent, &seen}, shared, bytes, 16, STORE, where);
  memset(shared, 0xFF, bytes);
  mark(shared, bytes, PENDING, true, where);
  m.copies.push_back({{(uint8_t*)shared, (const uint8_t*)global, bytes, bytes, where}, m.clock});
}

void proxy_fence() {
  join(M.thread->seen.fenced, M.thread->seen.own);
  tick(*M.thread, M.tid);
}

}  // namespace machine
