// sm_90a: mbarriers, bulk copies, and products of a warpgroup, all of which go on while the threads do.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace machine {
namespace {

constexpr unsigned GROUP = 128;  // threads of a warpgroup

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
    mark(b.copy.to, b.copy.bytes, BULK, true, b.copy.pc);
    join(m.arriving, b.seen);
    m.bytes -= b.copy.bytes;
  }
  if (m.bytes < 0) fatal("barrier", who() + " waits for an mbarrier that more bytes came to than were announced", pc);
  end_phase(m);
}

// All threads of a warpgroup come to one instruction; true for the one that comes last.
bool group_meets(Warpgroup& g, const char* what, uint32_t pc) {
  if (g.waiting.empty()) g.pc = pc, g.what = what;
  else if (strcmp(g.what, what)) fatal("divergence", who() + " calls " + what + " while its warpgroup is in " + g.what, pc, g.pc);
  if (g.waiting.size() + 1 == GROUP) return true;
  g.waiting.push_back(M.tid);
  wait_here(what, pc);
  return false;
}

void group_leaves(Warpgroup& g) {
  std::vector<unsigned> waiting;
  waiting.swap(g.waiting);
  for (unsigned t : waiting) wake(t);
}

Warpgroup& warpgroup(uint32_t pc) {
  if (M.tid / GROUP * GROUP + GROUP > M.block->threads.size()) fatal("divergence", who() + " is in no whole warpgroup", pc);
  return M.block->warpgroups[M.tid / GROUP];
}

// Where the 32 bytes of each token lie that a descriptor names: rows of 128 bytes, eight rows after eight at the stride,
// the address's bits 4..6 permuted by its bits 7..9 (PTX ISA 9.7.15.5.1).
std::vector<const uint8_t*> tokens_of(uint64_t tile, unsigned tokens, uint32_t pc, std::vector<uint8_t>& bytes) {
  const uint32_t start = (uint32_t)(tile & 0x3FFF) << 4, stride = (uint32_t)(tile >> 32 & 0x3FFF) << 4;
  if (tile >> 62 != 1) fatal("wgmma", who() + " names a tile that is not permuted over 128 bytes", pc);
  bytes.resize(tokens * 32);
  std::vector<const uint8_t*> rows;
  for (unsigned r = 0; r < tokens; ++r) {
    for (unsigned piece = 0; piece < 2; ++piece) {
      uint32_t at = start + r % 8 * 128 + r / 8 * stride + piece * 16;
      at ^= (at >> 7 & 7) << 4;
      const uint8_t* from = M.dynamic + at;
      check(from, 16, 16, LOAD, pc);
      for (unsigned i = 0; i < 16; ++i) {
        const Epoch* by = M.block->dynamic.generic_store(at + i);
        if (!by || by->block != M.block->index || by->clock <= M.block->threads[by->thread].proxied) continue;
        fault("proxy", who() + " multiplies what " + who(*by) + " wrote without a proxy fence since", pc, by->pc);
        break;
      }
      memcpy(bytes.data() + r * 32 + piece * 16, from, 16);
    }
    rows.push_back(bytes.data() + r * 32);
  }
  return rows;
}

void perform(const Product& p) {
  std::vector<uint8_t> bytes;
  const auto rows = tokens_of(p.lanes[0].tile, p.tokens, p.pc, bytes);
  p.body(p.lanes.data(), rows.data(), p.tokens);
}

}  // namespace

// What the block's last thread leaves under way.
void find_unfinished() {
  for (const auto& [at, m] : M.block->mbarriers)
    if (!m.copies.empty()) fault("cp.async", "a bulk copy was never waited for", m.copies[0].copy.pc);
  for (const auto& [at, g] : M.block->warpgroups)
    if (!g.open.empty() || !g.groups.empty())
      fault("wgmma", "a product was never waited for", (g.open.empty() ? g.groups[0][0] : g.open[0]).pc);
}

void mbarrier_init(void* at, unsigned arrivals, void* pc) {
  check(at, 8, 8, STORE, offset_of(pc));
  Mbarrier m;
  m.expected = m.pending = arrivals;
  M.block->mbarriers[at] = m;
  memset(at, 0, 8);
}

void mbarrier_arrive(void* at, unsigned expect_bytes, void* pc) {
  const uint32_t where = offset_of(pc);
  Mbarrier& m = mbarrier(at, "arrives at", where);
  if (!m.pending) fatal("barrier", who() + " arrives at an mbarrier that expects nobody more in this phase", where);
  join(m.arriving, M.thread->seen);
  tick(*M.thread, M.tid);
  m.bytes += expect_bytes;
  --m.pending;
  end_phase(m);
}

bool mbarrier_try(void* at, unsigned parity, void* pc) {
  const uint32_t where = offset_of(pc);
  Mbarrier& m = mbarrier(at, "waits for", where);
  if ((m.phase & 1) == parity && !m.pending) deliver(m, where);  // only bytes are missing: they come now
  if ((m.phase & 1) == parity) return false;
  join(M.thread->seen, m.done);
  return true;
}

void bulk_copy(void* shared, const void* global, unsigned bytes, void* at, void* pc) {
  const uint32_t where = offset_of(pc);
  Mbarrier& m = mbarrier(at, "names for a copy", where);
  if (bytes % 16) fatal("alignment", who() + " copies " + std::to_string(bytes) + " bytes, not a multiple of 16", where);
  if (!bytes) return;
  check(global, bytes, 16, LOAD, where);
  shared_offset(shared, pc);
  check(shared, bytes, 16, STORE, where);
  memset(shared, 0xFF, bytes);
  mark(shared, bytes, PENDING, true, where);
  m.copies.push_back({{(uint8_t*)shared, (const uint8_t*)global, bytes, bytes, where}, M.thread->seen});
}

void proxy_fence() {
  M.thread->proxied = M.thread->seen.own[M.tid];
  tick(*M.thread, M.tid);
}

void wgmma_fence(void* pc) { warpgroup(offset_of(pc)).fenced = true; }

void wgmma_issue(Multiply body, const Wgmma& lane, unsigned tokens, const char* what, void* pc) {
  const uint32_t where = offset_of(pc);
  Warpgroup& g = warpgroup(where);
  if (!g.fenced && g.open.empty()) fault("wgmma", who() + " multiplies without a wgmma.fence before", where);
  if (g.waiting.empty()) g.next = {body, std::vector<Wgmma>(GROUP), tokens, where};
  if (g.next.tokens != tokens)
    fatal("divergence", who() + " multiplies by another number of tokens than its warpgroup", where, g.next.pc);
  g.next.lanes[M.tid % GROUP] = lane;
  if (!group_meets(g, what, where)) return;
  for (const Wgmma& l : g.next.lanes)
    if (l.tile != lane.tile || l.accumulate != lane.accumulate)
      fatal("divergence", who() + " names another tile than its warpgroup", where);
  std::vector<uint8_t> bytes;
  tokens_of(lane.tile, tokens, where, bytes);  // the tile must be there from now on, and still when it is multiplied
  g.open.push_back(g.next);
  group_leaves(g);
}

void wgmma_commit(void* pc) {
  Warpgroup& g = warpgroup(offset_of(pc));
  if (!group_meets(g, "wgmma.commit_group", offset_of(pc))) return;
  g.groups.push_back({});
  g.groups.back().swap(g.open);
  g.fenced = false;
  group_leaves(g);
}

void wgmma_wait(unsigned pending, void* pc) {
  Warpgroup& g = warpgroup(offset_of(pc));
  if (!group_meets(g, "wgmma.wait_group", offset_of(pc))) return;
  while (g.groups.size() > pending) {
    for (const Product& p : g.groups.front()) perform(p);
    g.groups.erase(g.groups.begin());
  }
  group_leaves(g);
}

}  // namespace machine
