// What threads do together: warp collectives, barriers of a block, of a warp, and named ones.
#include <cstring>

#include "state.h"

namespace machine {
namespace {

// Makes what any member has seen seen by all of them.
void synchronise(const std::vector<unsigned>& members, const Seen& seen) {
  for (unsigned t : members) {
    Thread& thread = M.block->threads[t];
    join(thread.seen, seen);
    tick(thread, t);
  }
}

Meeting* meeting_of(Warp& w, uint32_t mask, const char* what, uint32_t pc) {
  for (Meeting& m : w.open) {
    if (m.mask == mask) return &m;
    if (m.mask & mask)
      fatal("divergence", who() + " calls " + what + " while lanes that it names are in " + m.what + " with another mask", pc, m.pc);
  }
  w.open.push_back({mask, 0, nullptr, 0, pc, what, false, {}});
  return &w.open.back();
}

// Completes a meeting when all lanes of its mask have come or have ended.
bool complete(Warp& w, Meeting* m, unsigned first_thread, unsigned self) {
  if ((m->arrived | (w.ended & m->mask)) != m->mask) return false;
  if (m->aligned && m->arrived != m->mask)
    fatal("divergence", std::string("lanes of a warp end while others wait in ") + m->what, m->pc);
  const Meeting done = *m;
  w.open.erase(w.open.begin() + (m - w.open.data()));
  done.body(done.slots, done.arrived, done.immediate);
  for (unsigned l = 0; l < WARP; ++l)
    if ((done.arrived >> l & 1) && first_thread + l != self) wake(first_thread + l);
  return true;
}

void meet(uint32_t mask, Body body, void* slot, uint32_t immediate, const char* what, uint32_t pc, bool aligned) {
  Warp& w = M.block->warps[warp()];
  const uint32_t bit = 1u << lane();
  Meeting* m = meeting_of(w, mask, what, pc);
  if (!m->arrived) m->body = body, m->immediate = immediate, m->aligned = aligned;
  if (m->body != body || m->immediate != immediate)
    fatal("divergence", who() + " calls " + what + " while other lanes of its warp are in " + m->what, pc, m->pc);
  if (aligned && m->pc != pc)
    fault("place", who() + " calls " + what + " in another place than other lanes of its warp", pc, m->pc);
  m->arrived |= bit;
  m->slots[lane()] = slot;
  if (!complete(w, m, warp() * WARP, M.tid)) wait_here(what, pc);
}

// Ends a barrier that all have come to; `self` is running already.
void open_barrier(Barrier& b) {
  std::vector<unsigned> waiting;
  waiting.swap(b.waiting);
  synchronise(waiting, b.seen);
  b.came.clear();
  b.places.clear();
  b.seen = {};
  for (unsigned t : waiting)
    if (t != M.tid) wake(t);
}

// bar.sync and its kin are .aligned: a warp comes as a whole, and from one place.
void whole_warps(const Barrier& b, const char* what) {
  std::vector<uint32_t> came(M.block->warps.size());
  for (unsigned t : b.came) came[t / WARP] |= 1u << t % WARP;
  for (size_t i = 0; i < b.came.size(); ++i) {
    const unsigned w = b.came[i] / WARP;
    const uint32_t there = ~M.block->warps[w].missing;
    if (came[w] != there)
      return fault("divergence", "only " + std::to_string(__builtin_popcount(came[w])) + " of the " +
                   std::to_string(__builtin_popcount(there)) + " lanes of warp " + std::to_string(w) + " of block " +
                   std::to_string(M.block->index) + " come to " + what, b.places[i]);
  }
}

void enter(Barrier& b, bool waits, uint32_t pc) {
  b.came.push_back(M.tid);
  b.places.push_back(pc);
  if (waits) b.waiting.push_back(M.tid);
  join(b.seen, M.thread->seen);
  if (!waits) tick(*M.thread, M.tid);  // what it does from now on is not ordered by the barrier
}

bool release_block() {
  Barrier& b = M.block->named[0];
  if (b.waiting.empty() || b.waiting.size() + M.block->done < M.block->threads.size()) return false;
  whole_warps(b, "__syncthreads");
  M.block->vote_result = M.block->votes;
  open_barrier(b);
  return true;
}

}  // namespace

void warp_meets(uint32_t mask, Body body, void* slot, uint32_t immediate, const char* what, void* at) {
  if (!(mask >> lane() & 1)) fatal("divergence", who() + " calls " + what + " with a mask that leaves itself out", offset_of(at));
  meet(mask, body, slot, immediate, what, offset_of(at), false);
}

void warp_executes(Body body, void* slot, uint32_t immediate, const char* what, void* at) {
  if (M.block->warps[warp()].ended)
    fatal("divergence", who() + " executes " + what + " though lanes of its warp have ended", offset_of(at));
  meet(~0u, body, slot, immediate, what, offset_of(at), true);
}

void lane_ended() {
  Warp& w = M.block->warps[warp()];
  for (size_t i = 0; i < w.open.size();)
    if (!complete(w, &w.open[i], warp() * WARP, M.tid)) ++i;
  release_block();
}

void block_barrier(void* at) {
  Barrier& b = M.block->named[0];
  const uint32_t pc = offset_of(at);
  if (b.came.empty()) b.pc = pc;
  if (b.pc != pc) fault("place", who() + " comes to a __syncthreads while others wait at another", pc, b.pc);
  enter(b, true, pc);
  if (!release_block()) wait_here("__syncthreads", pc);
}

unsigned block_vote(bool value, Vote kind, void* at) {
  Block& b = *M.block;
  if (b.named[0].came.empty()) b.votes = kind == AND;
  if (kind == COUNT) b.votes += value;
  else if (kind == AND) b.votes &= value;
  else b.votes |= value;
  block_barrier(at);
  return b.vote_result;
}

void warp_barrier(uint32_t mask, void* at) {
  const auto body = [](void* const*, uint32_t members, uint32_t) {
    std::vector<unsigned> threads;
    Seen seen;
    const unsigned first = warp() * WARP;
    for (unsigned l = 0; l < WARP; ++l)
      if (members >> l & 1) threads.push_back(first + l), join(seen, M.block->threads[first + l].seen);
    synchronise(threads, seen);
  };
  warp_meets(mask, body, nullptr, 0, "__syncwarp", at);
}

void named_barrier(unsigned id, unsigned threads, bool waits, void* at) {
  const uint32_t pc = offset_of(at);
  if (!id || id >= NAMED || threads % WARP || !threads)
    fatal("barrier", who() + " names barrier " + std::to_string(id) + " for " + std::to_string(threads) +
          " threads; there are 1 to 15 beside __syncthreads, for whole warps", pc);
  Barrier& b = M.block->named[id];
  if (b.came.empty()) b.expects = threads, b.pc = pc;
  if (b.expects != threads)
    fatal("barrier", who() + " expects " + std::to_string(threads) + " threads at barrier " + std::to_string(id) +
          " where another expects " + std::to_string(b.expects), pc, b.pc);
  enter(b, waits, pc);
  if (b.came.size() < threads) {
    if (waits) wait_here("a named barrier", pc);
    return;
  }
  whole_warps(b, "a named barrier");
  open_barrier(b);
}

}  // namespace machine
