// The machine: blocks, fibers, barriers, checks and the report. See machine.h for what it promises.
#include "machine.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <unordered_map>

#include "fiber.h"
#include "shadow.h"

extern "C" void gs_invoke(void** arguments);   // the module's kernel
extern "C" unsigned char* gs_dynamic_shared();  // its dynamic shared memory, MOST_SHARED bytes

namespace machine {
namespace {

using shadow::Access;
using shadow::Clock;
using shadow::Epoch;
using shadow::Known;
using shadow::Trouble;

constexpr unsigned WARP = 32, NAMED = 16;
constexpr int SPIN_ROUNDS = 64;     // polls of a whole block that find nothing, before another block gets its turn
constexpr int STUCK_ROUNDS = 4096;  // after this many nobody will ever come
constexpr size_t MOST_FAULTS = 16;
constexpr size_t MOST_SHARED = 232448;  // bytes of shared memory that a block of sm_90 can have
constexpr uint8_t POISON = 0xFE;    // as -ftrivial-auto-var-init=pattern fills locals

struct Allocation { const char* name; uint8_t* base; size_t bytes; int writable; int held; };

struct Launch {
  unsigned grid[3], block[3];
  unsigned dynamic_shared;
  unsigned long long seed;
  int probe, probe_offset;
  const Allocation* allocations;
  unsigned count;
  void** arguments;
};

enum class State { READY, WAITING, SPINNING, DONE };

struct Copy { uint8_t* to; const uint8_t* from; unsigned bytes, valid; uint32_t pc; };

struct Thread {
  fiber::Context context;
  State state = State::READY;
  const char* waits_for = "";
  uint32_t waits_at = 0;
  Clock clock;
  Known known;
  Clock fenced;        // its clock at the last fence: what a relaxed atomic after it publishes
  Known fenced_known;
  bool has_fenced = false;
  struct { bool any = false; Clock own; Known known; } acquired;  // seen by relaxed atomics, effective at the next fence
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
  Place place;
};

struct Meeting { uint32_t arrived = 0; Body body = nullptr; uint32_t immediate = 0, mask = 0, pc = 0; const char* what = ""; };
struct Named { unsigned arrived = 0, expects = 0; std::vector<unsigned> waiting, members; };

struct Warp { Meeting meeting; void* slots[WARP]; uint32_t at_barrier = 0, barrier_mask = 0; };

struct Block {
  unsigned index = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Named named[NAMED];
  Named whole;
  unsigned votes = 0, vote_result = 0;
  int vote_kind = 0;
  unsigned done = 0;
  shadow::Memory fixed, dynamic;       // shared memory: declared in the module, and given at launch
  std::vector<uint8_t> saved_fixed, saved_dynamic;
  int rounds = 0;
  bool started = false;
};

struct Sync { Known by_block; };       // what a thread that reads this atomic variable learns

struct Fault { std::string kind, text; uint32_t pc, other; };

struct Machine {
  Launch launch{};
  std::mt19937_64 draw;
  std::vector<shadow::Memory> global;
  std::unordered_map<const void*, Sync> syncs;
  std::vector<Fault> faults;
  Block* block = nullptr;
  Thread* thread = nullptr;
  unsigned tid = 0;
  fiber::Context scheduler;
  std::vector<char*> stacks;
  uintptr_t module = 0, module_end = 0;
  uint8_t* fixed = nullptr;
  size_t fixed_bytes = 0;
  uint8_t* dynamic = nullptr;
  unsigned hit = 0;
  bool running = false, stop = false;
  unsigned long long progress = 0;
};

Machine M;
std::string report;

uint32_t offset_of(void* pc) { return (uint32_t)((uintptr_t)pc - M.module); }

std::string who() {
  char text[96];
  const Place& p = M.thread->place;
  snprintf(text, sizeof text, "thread (%u,%u,%u) of block (%u,%u,%u)", p.thread.x, p.thread.y, p.thread.z, p.block.x,
           p.block.y, p.block.z);
  return text;
}

std::string who(const Epoch& e) {
  return "thread " + std::to_string(e.thread) + (e.block == M.block->index ? "" : " of block " + std::to_string(e.block));
}

[[noreturn]] void leave() {  // abandons the launch: the scheduler never comes back to a fiber
  M.stop = true;
  fiber::switch_to(M.thread->context, M.scheduler);
  abort();
}

void fault(const char* kind, const std::string& text, uint32_t pc, uint32_t other = 0, bool fatal = false) {
  bool known = false;
  for (const Fault& f : M.faults) known |= f.kind == kind && f.pc == pc && f.other == other;
  if (!known) M.faults.push_back({kind, text, pc, other});
  if (fatal || M.faults.size() >= MOST_FAULTS) leave();
}

// ---- clocks ---------------------------------------------------------------------------------------------------------

void join(Clock& into, const Clock& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void join(Known& into, const Known& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t b = 0; b < from.size(); ++b) {
    if (!from[b] || into[b] == from[b]) continue;
    if (!into[b]) { into[b] = from[b]; continue; }
    auto joined = std::make_shared<Clock>(*into[b]);
    join(*joined, *from[b]);
    into[b] = joined;
  }
}

void tick(Thread& t, unsigned tid) { ++t.clock[tid]; }

void synchronise(const std::vector<unsigned>& members) {
  Clock all(M.block->threads.size());
  Known known;
  for (unsigned t : members) join(all, M.block->threads[t].clock), join(known, M.block->threads[t].known);
  for (unsigned t : members) {
    Thread& thread = M.block->threads[t];
    thread.clock = all;
    thread.known = known;
    tick(thread, t);
  }
}

shadow::View view() { return {M.block->index, (uint16_t)M.tid, &M.thread->clock, &M.thread->known}; }

// ---- scheduling -----------------------------------------------------------------------------------------------------

void yield() { fiber::switch_to(M.thread->context, M.scheduler); }

void wait_here(const char* what, uint32_t pc) {
  M.thread->state = State::WAITING;
  M.thread->waits_for = what;
  M.thread->waits_at = pc;
  yield();
}

void wake(unsigned t) { M.block->threads[t].state = State::READY; ++M.progress; }

void start() {
  fiber::arrived(M.thread->context);
  gs_invoke(M.launch.arguments);
  Thread& t = *M.thread;
  t.groups.push_back(t.open);
  for (const auto& group : t.groups)
    if (!group.empty()) fault("cp.async", who() + " ended with copies that it never waited for", group[0].pc);
  t.state = State::DONE;
  ++M.block->done;
  ++M.progress;
  yield();
  abort();
}

// A barrier that counts the living may be complete once a thread has ended.
void release_whole() {
  Named& b = M.block->whole;
  if (b.waiting.empty() || b.waiting.size() + M.block->done < M.block->threads.size()) return;
  std::vector<unsigned> members;
  members.swap(b.waiting);
  synchronise(members);
  M.block->vote_result = M.block->votes;
  for (unsigned t : members) wake(t);
}

void enter_block(Block& b) {
  M.block = &b;
  if (M.fixed_bytes) memcpy(M.fixed, b.saved_fixed.data(), M.fixed_bytes);
  if (M.launch.dynamic_shared) memcpy(M.dynamic, b.saved_dynamic.data(), M.launch.dynamic_shared);
}

void save_block(Block& b) {
  if (M.fixed_bytes) memcpy(b.saved_fixed.data(), M.fixed, M.fixed_bytes);
  if (M.launch.dynamic_shared) memcpy(b.saved_dynamic.data(), M.dynamic, M.launch.dynamic_shared);
}

std::unique_ptr<Block> make_block(unsigned index) {
  auto made = std::make_unique<Block>();
  Block& b = *made;
  const Launch& l = M.launch;
  const unsigned count = l.block[0] * l.block[1] * l.block[2];
  b.index = index;
  b.threads.resize(count);
  b.warps.resize((count + WARP - 1) / WARP);
  b.fixed = shadow::Memory(M.fixed_bytes, false);
  b.dynamic = shadow::Memory(l.dynamic_shared, false);
  b.saved_fixed.assign(M.fixed_bytes, POISON);
  b.saved_dynamic.assign(l.dynamic_shared, POISON);
  for (unsigned t = 0; t < count; ++t) {
    Thread& thread = b.threads[t];
    thread.clock.assign(count, 0);
    thread.clock[t] = 1;
    thread.place = {{t % l.block[0], t / l.block[0] % l.block[1], t / l.block[0] / l.block[1]},
                    {index % l.grid[0], index / l.grid[0] % l.grid[1], index / l.grid[0] / l.grid[1]},
                    {l.block[0], l.block[1], l.block[2]},
                    {l.grid[0], l.grid[1], l.grid[2]}};
    if (M.stacks.empty()) M.stacks.push_back(fiber::new_stack());
    char* stack = M.stacks.back();
    M.stacks.pop_back();
    fiber::prepare(thread.context, stack, start);
  }
  return made;
}

void deadlock() {
  std::map<std::pair<std::string, uint32_t>, std::vector<unsigned>> at;
  for (unsigned t = 0; t < M.block->threads.size(); ++t) {
    const Thread& thread = M.block->threads[t];
    if (thread.state != State::DONE) at[{thread.waits_for, thread.waits_at}].push_back(t);
  }
  for (const auto& [where, threads] : at) {
    std::string text = std::to_string(threads.size()) + " threads (first " + std::to_string(threads[0]) + ") of block " +
                       std::to_string(M.block->index) + " wait for ever for " + where.first + "; " +
                       std::to_string(M.block->done) + " threads have ended";
    M.faults.push_back({"deadlock", text, where.second, 0});
  }
  M.stop = true;
}

// Runs a block until it is done (true) or has only spinning threads left that other blocks must release (false).
bool run_block(Block& b, bool others) {
  enter_block(b);
  std::vector<unsigned> ready;
  for (;;) {
    ready.clear();
    for (unsigned t = 0; t < b.threads.size(); ++t)
      if (b.threads[t].state == State::READY) ready.push_back(t);
    if (ready.empty()) {
      unsigned spinning = 0;
      for (Thread& t : b.threads)
        if (t.state == State::SPINNING) t.state = State::READY, ++spinning;
      if (!spinning) {
        if (b.done == b.threads.size()) return true;
        deadlock();
        return true;
      }
      ++b.rounds;
      if (b.rounds > STUCK_ROUNDS) {
        deadlock();
        return true;
      }
      if (others && b.rounds % SPIN_ROUNDS == 0) {
        save_block(b);
        return false;
      }
      continue;
    }
    // One pass over a drawn order: each thread runs until it waits.
    std::shuffle(ready.begin(), ready.end(), M.draw);
    for (unsigned t : ready) {
      if (b.threads[t].state != State::READY) continue;
      M.tid = t;
      M.thread = &b.threads[t];
      fiber::switch_to(M.scheduler, M.thread->context);
      if (M.stop) return true;
      if (M.thread->state == State::DONE) release_whole();
      if (M.thread->state != State::SPINNING) b.rounds = 0;
    }
  }
}

// ---- checks ---------------------------------------------------------------------------------------------------------

bool in_module(uintptr_t at) { return at >= M.module && at < M.module_end; }

// Returns the shadow that an address lies in and its place there, or null when it needs no shadow.
shadow::Memory* locate(uintptr_t at, unsigned bytes, bool writes, uint32_t pc, size_t& where) {
  const uintptr_t stack = (uintptr_t)M.thread->context.stack;
  if (at - stack < fiber::STACK_BYTES) return nullptr;
  if (at - (uintptr_t)M.fixed < M.fixed_bytes && at + bytes <= (uintptr_t)M.fixed + M.fixed_bytes) {
    where = at - (uintptr_t)M.fixed;
    return &M.block->fixed;
  }
  if (at - (uintptr_t)M.dynamic < MOST_SHARED) {
    where = at - (uintptr_t)M.dynamic;
    if (where + bytes > M.launch.dynamic_shared)
      fault("bounds", who() + (writes ? " writes" : " reads") + " byte " + std::to_string(where) + " of " +
            std::to_string(M.launch.dynamic_shared) + " bytes of dynamic shared memory", pc, 0, true);
    return &M.block->dynamic;
  }
  for (unsigned i = 0; i < M.launch.count; ++i) {
    const unsigned a = (M.hit + i) % M.launch.count;
    const Allocation& t = M.launch.allocations[a];
    if (at - (uintptr_t)t.base >= t.bytes) continue;
    if (at + bytes > (uintptr_t)t.base + t.bytes) break;
    M.hit = a;
    if (!t.writable) {
      if (writes) fault("bounds", who() + " writes to the input " + t.name, pc, 0, true);
      return nullptr;
    }
    where = at - (uintptr_t)t.base;
    return &M.global[a];
  }
  if (in_module(at) && !writes) return nullptr;  // constants
  std::string near;
  for (unsigned i = 0; i < M.launch.count; ++i) {
    const Allocation& t = M.launch.allocations[i];
    const long long from = (long long)at - (long long)(uintptr_t)t.base;
    if (from >= -4096 && from < (long long)t.bytes + 4096)
      near = ", byte " + std::to_string(from) + " of " + t.name + ", which has " + std::to_string(t.bytes);
  }
  fault("bounds", who() + (writes ? " writes" : " reads") + " outside every tensor" + near, pc, 0, true);
  return nullptr;
}

void check(const void* pointer, unsigned bytes, unsigned alignment, Access kind, uint32_t pc) {
  if (!M.running) return;
  const uintptr_t at = (uintptr_t)pointer;
  size_t where = 0;
  shadow::Memory* memory = locate(at, bytes, kind != Access::READ, pc, where);
  if (alignment > 1 && at % alignment && at - (uintptr_t)M.thread->context.stack >= fiber::STACK_BYTES)
    fault("alignment", who() + " accesses " + std::to_string(bytes) + " bytes at an address that is not a multiple of " +
          std::to_string(alignment), pc, 0, true);
  if (!memory) return;
  const shadow::Found found = memory->access(where, bytes, kind, view(), pc);
  const bool shared = memory == &M.block->fixed || memory == &M.block->dynamic;
  const char* space = shared ? " shared memory" : " global memory";
  switch (found.trouble) {
    case Trouble::NONE: {
      if (kind != Access::READ || bytes % 4 || at % 4) return;
      for (unsigned i = 0; i < bytes; i += 4) {
        const Epoch* by = memory->storer(where + i);
        uint32_t bits;
        memcpy(&bits, (const uint8_t*)pointer + i, 4);
        if (by && is_poison(bits))
          return fault("uninitialised", who() + " reads from" + space + " what " + who(*by) +
                       " stored there without ever giving it a value", pc, by->pc);
      }
      return;
    }
    case Trouble::UNINITIALISED:
      return fault("uninitialised", who() + " reads" + space + " that nobody has written", pc);
    case Trouble::NOT_DELIVERED:
      return fault("cp.async", who() + (kind == Access::READ ? " reads" : " writes") + space + " before the copy of " +
                   who(found.other) + " has been waited for", pc, found.other.pc);
    case Trouble::RACE:
      return fault("race", who() + (kind == Access::READ ? " reads" : " writes") + space + " that " + who(found.other) +
                   (found.other_wrote ? " writes" : " reads") + " with nothing to order the two", pc, found.other.pc);
  }
}

void mark(void* at, unsigned bytes, shadow::Flag flag, bool on, uint32_t pc) {
  size_t where = 0;
  shadow::Memory* memory = locate((uintptr_t)at, bytes, true, pc, where);
  if (memory) memory->mark(where, bytes, flag, on);
}

void deliver(const Copy& c) {
  mark(c.to, c.bytes, shadow::PENDING, false, c.pc);
  memcpy(c.to, c.from, c.valid);
  memset(c.to + c.valid, 0, c.bytes - c.valid);
  check(c.to, c.bytes, 1, Access::WRITE, c.pc);
  mark(c.to, c.bytes, shadow::COPIED, true, c.pc);
}

void acquire(const Known& by_block) {
  for (size_t b = 0; b < by_block.size(); ++b) {
    if (!by_block[b]) continue;
    if (b == M.block->index) {
      join(M.thread->clock, *by_block[b]);
      continue;
    }
    Known one(b + 1);
    one[b] = by_block[b];
    join(M.thread->known, one);
  }
}

void publish(Sync& sync, const Clock& own, const Known& known) {
  Known all = known;
  if (all.size() <= M.block->index) all.resize(M.block->index + 1);
  all[M.block->index] = std::make_shared<Clock>(own);
  join(sync.by_block, all);
}

}  // namespace

// ---- machine.h ------------------------------------------------------------------------------------------------------

Place place() { return M.thread->place; }
unsigned lane() { return M.tid % WARP; }
unsigned warp() { return M.tid / WARP; }

void warp_meets(uint32_t mask, Body body, void* slot, uint32_t immediate, const char* what, void* at) {
  const uint32_t pc = offset_of(at), bit = 1u << lane();
  Warp& w = M.block->warps[warp()];
  Meeting& m = w.meeting;
  if (!(mask & bit)) fault("divergence", who() + " calls " + what + " with a mask that leaves itself out", pc, 0, true);
  if (!m.arrived) m = {0, body, immediate, mask, pc, what};
  if (m.body != body || m.immediate != immediate || m.mask != mask)
    fault("divergence", who() + " calls " + what + " while other lanes of its warp are in " + m.what, pc, m.pc, true);
  m.arrived |= bit;
  w.slots[lane()] = slot;
  if (m.arrived != mask) return wait_here(what, pc);
  m.arrived = 0;
  body(w.slots, mask, immediate);
  const unsigned first = warp() * WARP;
  for (unsigned l = 0; l < WARP; ++l)
    if ((mask >> l & 1) && l != lane()) wake(first + l);
}

void block_barrier(void* at) {
  Block& b = *M.block;
  b.whole.waiting.push_back(M.tid);
  if (b.whole.waiting.size() + b.done == b.threads.size()) {
    release_whole();
    return;
  }
  wait_here("__syncthreads", offset_of(at));
}

unsigned block_vote(unsigned value, int kind, void* at) {
  Block& b = *M.block;
  if (b.whole.waiting.empty()) b.votes = kind == 1;
  if (kind == 0) b.votes += value != 0;
  else if (kind == 1) b.votes &= value != 0;
  else b.votes |= value != 0;
  block_barrier(at);
  return b.vote_result;
}

void warp_barrier(uint32_t mask, void* at) {
  const auto body = [](void* const*, uint32_t members, uint32_t) {
    std::vector<unsigned> who;
    for (unsigned l = 0; l < WARP; ++l)
      if (members >> l & 1) who.push_back(warp() * WARP + l);
    synchronise(who);
  };
  warp_meets(mask, body, nullptr, 0, "__syncwarp", at);
}

void named_barrier(unsigned id, unsigned threads, bool waits, void* at) {
  const uint32_t pc = offset_of(at);
  if (id >= NAMED || threads % WARP || !threads)
    fault("barrier", who() + " names barrier " + std::to_string(id) + " for " + std::to_string(threads) +
          " threads; there are 16, for whole warps", pc, 0, true);
  Named& n = M.block->named[id];
  if (n.members.empty()) n.expects = threads;
  if (n.expects != threads)
    fault("barrier", who() + " expects " + std::to_string(threads) + " threads at barrier " + std::to_string(id) +
          " where another expects " + std::to_string(n.expects), pc, 0, true);
  n.members.push_back(M.tid);
  if (waits) n.waiting.push_back(M.tid);
  if (n.members.size() < threads) {
    if (waits) wait_here("a named barrier", pc);
    return;
  }
  std::vector<unsigned> members, waiting;
  members.swap(n.members);
  waiting.swap(n.waiting);
  Clock all(M.block->threads.size());
  Known known;
  for (unsigned t : members) join(all, M.block->threads[t].clock), join(known, M.block->threads[t].known);
  for (unsigned t : waiting) {
    Thread& thread = M.block->threads[t];
    thread.clock = all;
    join(thread.known, known);
    tick(thread, t);
    if (t != M.tid) wake(t);
  }
}

void fence(int, void*) {
  Thread& t = *M.thread;
  if (t.acquired.any) {
    join(t.clock, t.acquired.own);
    join(t.known, t.acquired.known);
    t.acquired = {};
  }
  t.fenced = t.clock;
  t.fenced_known = t.known;
  t.has_fenced = true;
  tick(t, M.tid);
}

void spin(void* at) {
  M.thread->state = State::SPINNING;
  M.thread->waits_for = "a value that another thread must write";
  M.thread->waits_at = offset_of(at);
  yield();
}

void trap(const char* why, void* at) { fault("trap", who() + ": " + why, offset_of(at), 0, true); }

uint32_t shared_offset(const void* generic, void* at) {
  const uintptr_t p = (uintptr_t)generic;
  if (p - (uintptr_t)M.dynamic <= M.launch.dynamic_shared) return (uint32_t)(p - (uintptr_t)M.dynamic);
  if (p - (uintptr_t)M.fixed < M.fixed_bytes) return (uint32_t)(p - (uintptr_t)M.fixed) + (1u << 24);
  fault("bounds", who() + " takes an address for one of shared memory, which it is not", offset_of(at), 0, true);
  return 0;
}

void* shared_pointer(uint32_t offset, unsigned, void*) {
  return offset >= (1u << 24) ? M.fixed + (offset - (1u << 24)) : M.dynamic + offset;
}

void read(const void* at, unsigned bytes, unsigned alignment, void* pc) {
  check(at, bytes, alignment, Access::READ, offset_of(pc));
}

void write(void* at, unsigned bytes, unsigned alignment, void* pc) {
  check(at, bytes, alignment, Access::WRITE, offset_of(pc));
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

void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid, void* at) {
  const uint32_t pc = offset_of(at);
  if (valid > bytes) fault("cp.async", who() + " copies more bytes than it names", pc, 0, true);
  if (valid) check(global, valid, bytes, Access::READ, pc);
  shared_offset(shared, at);
  check(shared, bytes, bytes, Access::WRITE, pc);
  memset(shared, 0xFF, bytes);
  mark(shared, bytes, shadow::PENDING, true, pc);
  M.thread->open.push_back({(uint8_t*)shared, (const uint8_t*)global, bytes, valid, pc});
}

void copy_commit(void*) {
  M.thread->groups.push_back({});
  M.thread->groups.back().swap(M.thread->open);
}

void copy_wait(unsigned pending, void*) {
  Thread& t = *M.thread;
  const size_t last = t.groups.size() > pending ? t.groups.size() - pending : 0;
  for (size_t g = 0; g < last; ++g)
    for (const Copy& c : t.groups[g]) deliver(c);
  t.groups.erase(t.groups.begin(), t.groups.begin() + (long)last);
  for (size_t g = 0; g < t.groups.size();)  // empty groups are complete as soon as those before them are
    if (t.groups[g].empty() && g == 0) t.groups.erase(t.groups.begin());
    else break;
}

void copy_wait_all(void* at) {
  copy_commit(at);
  copy_wait(0, at);
}

void atomic(void* pointer, unsigned bytes, int order, void* at) {
  Thread& t = *M.thread;
  const uintptr_t p = (uintptr_t)pointer;
  const bool shared = p - (uintptr_t)M.dynamic < MOST_SHARED || p - (uintptr_t)M.fixed < M.fixed_bytes;
  Sync& sync = M.syncs[(const void*)(shared ? p + ((uintptr_t)(M.block->index + 1) << 48) : p)];
  // The order that it brings comes before the access: a reader of an atomic may read what its writer published.
  if (order & ACQUIRE) acquire(sync.by_block);
  else {
    t.acquired.any = true;
    if (M.block->index < sync.by_block.size() && sync.by_block[M.block->index])
      join(t.acquired.own, *sync.by_block[M.block->index]);
    Known others = sync.by_block;
    if (M.block->index < others.size()) others[M.block->index] = nullptr;
    join(t.acquired.known, others);
  }
  check(pointer, bytes, bytes, Access::ATOMIC, offset_of(at));
  if (order & RELEASE) {
    publish(sync, t.clock, t.known);
    tick(t, M.tid);
  } else if (t.has_fenced) {
    publish(sync, t.fenced, t.fenced_known);
  }
  ++M.progress;
}

void atomic_read(const void* pointer, unsigned bytes, int order, void* at) { atomic((void*)pointer, bytes, order, at); }

}  // namespace machine

// ---- the launcher ---------------------------------------------------------------------------------------------------

using namespace machine;

namespace {

// The module's own extent and its thread-local memory: the shared memory that the kernel declares, then the dynamic one.
int find_module(dl_phdr_info* info, size_t, void*) {
  const uintptr_t here = (uintptr_t)&find_module;
  uintptr_t low = ~0ull, high = 0;
  bool ours = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& p = info->dlpi_phdr[i];
    if (p.p_type != PT_LOAD) continue;
    const uintptr_t from = info->dlpi_addr + p.p_vaddr, to = from + p.p_memsz;
    low = std::min(low, from), high = std::max(high, to);
    ours |= here >= from && here < to;
  }
  if (!ours) return 0;
  M.module = low, M.module_end = high;
  for (int i = 0; i < info->dlpi_phnum; ++i)
    if (info->dlpi_phdr[i].p_type == PT_TLS) {
      M.fixed = (uint8_t*)info->dlpi_tls_data;
      M.fixed_bytes = M.dynamic - M.fixed;  // the dynamic part is linked last
    }
  return 1;
}

}  // namespace

extern "C" int gs_launch(const Launch* launch) {
  M.launch = *launch;
  M.draw.seed(launch->seed);
  M.faults.clear();
  M.syncs.clear();
  M.stop = false;
  M.hit = 0;
  M.dynamic = gs_dynamic_shared();
  dl_iterate_phdr(find_module, nullptr);
  M.global.clear();
  for (unsigned i = 0; i < launch->count; ++i)
    M.global.emplace_back(launch->allocations[i].writable ? launch->allocations[i].bytes : 0, launch->allocations[i].held);
  const unsigned blocks = launch->grid[0] * launch->grid[1] * launch->grid[2];
  std::vector<unsigned> order(blocks);
  for (unsigned b = 0; b < blocks; ++b) order[b] = b;
  std::shuffle(order.begin(), order.end(), M.draw);
  std::vector<std::unique_ptr<Block>> resident;
  size_t next = 0;
  M.running = true;
  while (!M.stop && (next < blocks || !resident.empty())) {
    const bool fresh = next < blocks && (resident.empty() || M.draw() % 2);
    if (fresh) resident.push_back(make_block(order[next++]));
    const size_t at = fresh ? resident.size() - 1 : M.draw() % resident.size();
    const bool others = next < blocks || resident.size() > 1;
    if (!run_block(*resident[at], others)) continue;
    for (Thread& t : resident[at]->threads) M.stacks.push_back(t.context.stack);
    resident.erase(resident.begin() + (long)at);
  }
  for (auto& block : resident)
    for (Thread& t : block->threads) M.stacks.push_back(t.context.stack);
  M.running = false;
  for (unsigned i = 0; i < launch->count && !M.stop; ++i) {  // what was stored last, and by whom
    const Allocation& a = launch->allocations[i];
    for (size_t at = 0; a.writable && at + 4 <= a.bytes; at += 4) {
      uint32_t bits;
      memcpy(&bits, a.base + at, 4);
      const shadow::Epoch* by = is_poison(bits) ? M.global[i].storer(at) : nullptr;
      if (!by) continue;
      M.faults.push_back({"uninitialised", "thread " + std::to_string(by->thread) + " of block " + std::to_string(by->block) +
                          " stores in " + a.name + " what was never given a value", by->pc, 0});
      break;
    }
  }
  return (int)M.faults.size();
}

// One line per fault: kind, offset of the access, offset of the other one or 0, text; fields parted by tabs.
extern "C" const char* gs_report() {
  report.clear();
  for (const Fault& f : M.faults)
    report += f.kind + "\t" + std::to_string(f.pc) + "\t" + std::to_string(f.other) + "\t" + f.text + "\n";
  return report.c_str();
}

// ---- hooks of -fsanitize=thread -------------------------------------------------------------------------------------

#define HERE __builtin_return_address(0)
#define HOOK(bytes)                                                                                         \
  extern "C" void __tsan_read##bytes(void* a) { machine::read(a, bytes, 1, HERE); }                         \
  extern "C" void __tsan_write##bytes(void* a) { machine::write(a, bytes, 1, HERE); }
#define UNALIGNED(bytes)                                                                                    \
  extern "C" void __tsan_unaligned_read##bytes(void* a) { machine::read(a, bytes, 1, HERE); }               \
  extern "C" void __tsan_unaligned_write##bytes(void* a) { machine::write(a, bytes, 1, HERE); }
HOOK(1) HOOK(2) HOOK(4) HOOK(8) HOOK(16)
UNALIGNED(2) UNALIGNED(4) UNALIGNED(8) UNALIGNED(16)
extern "C" void __tsan_read_range(void* a, unsigned long bytes) { machine::read(a, (unsigned)bytes, 1, HERE); }
extern "C" void __tsan_write_range(void* a, unsigned long bytes) { machine::write(a, (unsigned)bytes, 1, HERE); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
