// sm_90a: products of a warpgroup, which go on while its threads do: what they read in shared memory and in registers, and
// the sums that are there when they have been waited for.
#include <algorithm>
#include <cstring>

#include "collectives.h"
#include "state.h"

namespace machine {
namespace {

constexpr unsigned GROUP = 128;  // threads of a warpgroup

// A warpgroup is in one instruction at a time.
void begin(Warpgroup& g, const char* what, uint32_t pc) {
  if (g.waiting.empty()) g.pc = pc, g.what = what;
  else if (strcmp(g.what, what)) fatal("divergence", who() + " calls " + what + " while its warpgroup is in " + g.what, pc, g.pc);
}

// All of its threads come to it; true for the one that comes last.
bool group_meets(Warpgroup& g, const char* what, uint32_t pc) {
  begin(g, what, pc);
  if (g.pc != pc) fault("place", who() + " calls " + what + " in another place than others of its warpgroup", pc, g.pc);
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
  Warpgroup& g = M.block->warpgroups[M.tid / GROUP];
  if (!g.agent) g.agent = new_agent("a product under way");
  return g;
}

Thread* members() { return M.block->threads.data() + M.tid / GROUP * GROUP; }

void meet(Clock& all, const Clock& one) {
  if (one.size() < all.size()) all.resize(one.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = std::min(all[i], one[i]);
}

// What every thread of the warpgroup has seen: each of them reads its part of a tile.
Seen seen_by_all() {
  const Thread* of = members();
  Seen all = {of[0].seen.own, {}, of[0].seen.fenced};
  for (unsigned t = 1; t < GROUP; ++t) meet(all.own, of[t].seen.own), meet(all.fenced, of[t].seen.fenced);
  return all;
}

// The 32 bytes of each token that a descriptor names: rows of 128 bytes, eight rows after eight at the stride, the
// address's bits 4..6 permuted by its bits 7..9 (PTX ISA 9.7.15.5.1). They are read until the product is waited for.
std::vector<uint8_t> tokens_of(uint64_t tile, unsigned tokens, const View& view, uint32_t pc) {
  const uint32_t start = (uint32_t)(tile & 0x3FFF) << 4, stride = (uint32_t)(tile >> 32 & 0x3FFF) << 4;
  if (tile >> 62 != 1) fatal("wgmma", who() + " names a tile that is not permuted over 128 bytes", pc);
  if ((start >> 7 & 7) || (tile >> 49 & 7))
    fatal("alignment", who() + " names a tile whose first row is not at a multiple of 1024 bytes", pc);
  std::vector<uint8_t> bytes(tokens * 32);
  bool told = false;
  for (unsigned r = 0; r < tokens; ++r)
    for (unsigned piece = 0; piece < 2; ++piece) {
      uint32_t at = start + r % 8 * 128 + r / 8 * stride + piece * 16;
      at ^= (at >> 7 & 7) << 4;
      check_as(view, M.dynamic + at, 16, 16, LOAD, pc);
      if (!told) told = find_unfenced(M.dynamic + at, 16, *view.seen, " multiplies what ", pc);
      memcpy(bytes.data() + r * 32 + piece * 16, M.dynamic + at, 16);
    }
  return bytes;
}

// ---- registers: local arrays on a thread's stack ----------------------------------------------------------------------

bool overlap(const uint8_t* a, size_t a_bytes, const uint8_t* b, size_t b_bytes) { return a < b + b_bytes && b < a + a_bytes; }

size_t word_of(const uint8_t* at) { return (size_t)(M.thread->context.stack + fiber::STACK_BYTES - (const char*)at - 1) / 4; }

// Gives a thread's registers to a product. Those of one shape may add to the same sums one after the other.
void claim(const Operand& o, const char* what, bool reads, uint32_t pc) {
  Thread& t = *M.thread;
  bool adds = false;
  for (const Operand& r : t.running) {
    if (!overlap(o.at, o.bytes, r.at, r.bytes) || !(o.sums || r.sums)) continue;
    adds |= o.sums && r.sums;
    if (o.sums && r.sums && o.at == r.at && o.bytes == r.bytes) continue;
    fault("wgmma", who() + " multiplies registers that a product under way " + (r.sums ? "writes" : "reads") + " in another role", pc, r.pc);
  }
  for (unsigned i = 0; on_own_stack(o.at) && i < o.bytes; i += 4) {
    const size_t word = word_of(o.at + i);
    if (word >= t.touched.size() || t.touched[word].fences != t.fences) continue;
    fault("wgmma", who() + " multiplies registers that it has accessed since its last wgmma.fence", pc, t.touched[word].pc);
    break;
  }
  for (unsigned i = 0; reads && !adds && i < o.bytes; i += 4) {
    uint32_t bits;
    memcpy(&bits, o.at + i, 4);
    if (!is_poison(bits)) continue;
    fault("uninitialised", who() + " uses " + (o.sums ? "an accumulator of " : "an element of A of ") + what + " that was never given a value", pc);
    break;
  }
}

}  // namespace

void touch_register(const void* pointer, unsigned bytes, bool writes, uint32_t pc) {
  Thread& t = *M.thread;
  const uint8_t* at = (const uint8_t*)pointer;
  for (const Operand& r : t.running)
    if (overlap(at, bytes, r.at, r.bytes)) {
      fault("wgmma", who() + (writes ? " writes " : " reads ") + (r.sums ? "the sums" : "an operand") +
            " of a product that it has not waited for", pc, r.pc);
      break;
    }
  const size_t last = word_of(at), first = word_of(at + bytes - 1);  // words are counted down from the top
  if (t.touched.size() <= last) t.touched.resize(last + 1);
  for (size_t w = first; w <= last; ++w) t.touched[w] = {t.fences, pc};
}

uint32_t tile_start(const void* start, void* pc) {
  const uint32_t at = shared_offset(start, pc);
  if (at >= MOST_SHARED) fatal("wgmma", who() + " names a tile that is not in dynamic shared memory", offset_of(pc));
  if (at % 16) fatal("alignment", who() + " names a tile at an address that is not a multiple of 16", offset_of(pc));
  return at;
}

void wgmma_fence(void* pc) {
  warpgroup(offset_of(pc));
  ++M.thread->fences;
}

void wgmma_issue(const Wgmma& lane, unsigned tokens, const char* what, void* pc) {
  const uint32_t where = offset_of(pc);
  Warpgroup& g = warpgroup(where);
  if (!M.thread->fences) fault("wgmma", who() + " multiplies without a wgmma.fence before", where);
  const Operand a = {(const uint8_t*)lane.a, 16, false, g.committed, where};
  const Operand sums = {(const uint8_t*)lane.d, tokens * 2, true, g.committed, where};
  claim(a, what, true, where);
  claim(sums, what, lane.accumulate, where);
  M.thread->running.push_back(a);
  M.thread->running.push_back(sums);
  begin(g, what, where);
  if (g.waiting.empty()) g.next = {std::vector<Wgmma>(GROUP), tokens, where, {}, ++g.clock};
  if (g.next.tokens != tokens)
    fatal("divergence", who() + " multiplies by another number of tokens than its warpgroup", where, g.next.pc);
  g.next.lanes[M.tid % GROUP] = lane;
  if (!group_meets(g, what, where)) return;
  for (const Wgmma& l : g.next.lanes)
    if (l.tile != lane.tile || !l.accumulate != !lane.accumulate)
      fatal("divergence", who() + " names another tile than its warpgroup", where);
  Seen seen = seen_by_all();
  raise(seen.own, g.agent, g.clock);
  g.next.bytes = tokens_of(lane.tile, tokens, {M.block->index, (uint16_t)g.agent, &seen}, where);
  gs::probe_tokens(g.next.bytes.data(), tokens, lane.widen, pc);
  g.open.push_back(g.next);
  group_leaves(g);
}

void wgmma_commit(void* pc) {
  Warpgroup& g = warpgroup(offset_of(pc));
  if (!group_meets(g, "wgmma.commit_group", offset_of(pc))) return;
  g.groups.push_back({});
  g.groups.back().swap(g.open);
  ++g.committed;
  group_leaves(g);
}

void wgmma_wait(unsigned pending, void* pc) {
  Warpgroup& g = warpgroup(offset_of(pc));
  if (!group_meets(g, "wgmma.wait_group", offset_of(pc))) return;
  uint32_t done = 0;
  for (; g.groups.size() > pending; ++g.finished) {
    for (const Product& p : g.groups.front()) {
      gs::wgmma(p.lanes.data(), p.bytes.data(), p.tokens);
      done = p.clock;
    }
    g.groups.erase(g.groups.begin());
  }
  for (Thread* t = members(); t < members() + GROUP; ++t) {
    raise(t->seen.own, g.agent, done);
    auto& running = t->running;
    running.erase(std::remove_if(running.begin(), running.end(), [&](const Operand& o) { return o.group < g.finished; }), running.end());
  }
  group_leaves(g);
}

}  // namespace machine
