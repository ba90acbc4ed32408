// The schedule: fibers of a block, blocks of the grid, who waits for what, and what is done when nobody can go on.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstring>

#include "state.h"

extern "C" void gs_invoke(void** arguments);    // the module's kernel
extern "C" unsigned char* gs_dynamic_shared();  // its dynamic shared memory, MOST_SHARED bytes

namespace machine {

Machine M;

namespace {

constexpr unsigned POLLS = 64;  // rounds of polls of a whole block that find nothing, before another block gets its turn
constexpr unsigned TURNS = 16;  // turns of every block without any progress, after which none will ever come

std::string report;

[[noreturn]] void leave() {  // abandons the launch: the scheduler never comes back to a fiber
  M.stop = true;
  fiber::switch_to(M.thread->context, M.scheduler);
  abort();
}

void yield() { fiber::switch_to(M.thread->context, M.scheduler); }

void start() {
  fiber::arrived(M.thread->context);
  gs_invoke(M.launch.arguments);
  Thread& t = *M.thread;
  t.groups.push_back(t.open);
  for (const auto& group : t.groups)
    if (!group.empty()) fault("cp.async", who() + " ended with copies that it never waited for", group[0].pc);
  t.state = State::DONE;
  if (++M.block->done == M.block->threads.size()) find_unfinished();
  ++M.progress;
  M.block->warps[warp()].ended |= 1u << lane();
  lane_ended();
  yield();
  abort();
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

// Blocks take turns in one place, so that an address of shared memory means the same in all of them.
void enter_block(Block& b) {
  M.block = &b;
  if (M.fixed_bytes) memcpy(M.fixed, b.saved_fixed.data(), M.fixed_bytes);
  if (M.launch.dynamic_shared) memcpy(M.dynamic, b.saved_dynamic.data(), M.launch.dynamic_shared);
}

void leave_block(Block& b) {
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
  if (count % WARP) b.warps.back().ended = b.warps.back().missing = ~0u << count % WARP;
  b.fixed = Memory(M.fixed_bytes, false);
  b.dynamic = Memory(l.dynamic_shared, false);
  b.saved_fixed.assign(M.fixed_bytes, POISON);
  b.saved_dynamic.assign(l.dynamic_shared, POISON);
  for (unsigned t = 0; t < count; ++t) {
    Thread& thread = b.threads[t];
    thread.seen.own.assign(count, 0);
    thread.seen.own[t] = 1;
    thread.place = {{t % l.block[0], t / l.block[0] % l.block[1], t / l.block[0] / l.block[1]},
                    {index % l.grid[0], index / l.grid[0] % l.grid[1], index / l.grid[0] / l.grid[1]},
                    {l.block[0], l.block[1], l.block[2]},
                    {l.grid[0], l.grid[1], l.grid[2]}};
    if (M.stacks.empty()) M.stacks.push_back(fiber::new_stack());
    fiber::prepare(thread.context, M.stacks.back(), start);
    M.stacks.pop_back();
  }
  return made;
}

void deadlock(const Block& b) {
  std::map<std::pair<std::string, uint32_t>, std::vector<unsigned>> waiting;
  for (unsigned t = 0; t < b.threads.size(); ++t) {
    const Thread& thread = b.threads[t];
    if (thread.state != State::DONE) waiting[{thread.waits_for, thread.waits_at}].push_back(t);
  }
  for (const auto& [where, threads] : waiting) {
    if (M.faults.size() >= MOST_FAULTS) break;
    M.faults.push_back({"deadlock", std::to_string(threads.size()) + " threads (first " + std::to_string(threads[0]) +
                        ") of block " + std::to_string(b.index) + " wait for ever for " + where.first + "; " +
                        std::to_string(b.done) + " threads have ended", where.second, 0});
  }
  M.stop = true;
}

// Runs a block until it is done (true), or has only threads left that poll for what other blocks must do (false).
bool run_block(Block& b) {
  enter_block(b);
  std::vector<unsigned> ready;
  for (b.rounds = 0;;) {
    ready.clear();
    for (unsigned t = 0; t < b.threads.size(); ++t)
      if (b.threads[t].state == State::READY) ready.push_back(t);
    if (ready.empty()) {
      bool polls = false;
      for (Thread& t : b.threads)
        if (t.state == State::POLLING) t.state = State::READY, polls = true;
      if (!polls) {
        if (b.done < b.threads.size()) deadlock(b);
        return true;
      }
      if (++b.rounds < POLLS) continue;
      leave_block(b);
      return false;
    }
    std::shuffle(ready.begin(), ready.end(), M.draw);
    const unsigned long long before = M.progress;
    for (unsigned t : ready) {
      if (b.threads[t].state != State::READY) continue;
      M.tid = t;
      M.thread = &b.threads[t];
      fiber::switch_to(M.scheduler, M.thread->context);
      if (M.stop) return true;
    }
    if (M.progress != before) b.rounds = 0;
  }
}

// Whether nobody has done anything for many turns of every block: all of them poll for ever.
bool stuck(const std::vector<std::unique_ptr<Block>>& resident) {
  for (const auto& b : resident)
    if (b->idle_since != M.progress || b->idle < TURNS) return false;
  return true;
}

void run_grid(unsigned blocks) {
  std::vector<unsigned> order(blocks);
  for (unsigned b = 0; b < blocks; ++b) order[b] = b;
  std::shuffle(order.begin(), order.end(), M.draw);
  std::vector<std::unique_ptr<Block>> resident;
  for (size_t next = 0; !M.stop && (next < blocks || !resident.empty());) {
    const bool fresh = next < blocks && (resident.empty() || M.draw() % 2);
    if (fresh) resident.push_back(make_block(order[next++]));
    const size_t at = fresh ? resident.size() - 1 : M.draw() % resident.size();
    Block& b = *resident[at];
    if (run_block(b)) {
      for (Thread& t : b.threads) M.stacks.push_back(t.context.stack);
      resident.erase(resident.begin() + (long)at);
      continue;
    }
    b.idle = b.idle_since == M.progress ? b.idle + 1 : 0;
    b.idle_since = M.progress;
    if (next == blocks && stuck(resident))
      for (const auto& each : resident) deadlock(*each);
  }
  for (auto& block : resident)
    for (Thread& t : block->threads) M.stacks.push_back(t.context.stack);
  for (char* stack : M.stacks) fiber::free_stack(stack);  // a process may load many kernels, and has few mappings
  M.stacks.clear();
}

// ---- the module -----------------------------------------------------------------------------------------------------

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
      M.fixed_bytes = (size_t)(M.dynamic - M.fixed);  // the dynamic part is linked last
    }
  return 1;
}

// What was stored last in every tensor, and by whom.
void find_stored_poison() {
  for (unsigned i = 0; i < M.launch.count; ++i) {
    const Allocation& a = M.launch.allocations[i];
    for (size_t at = (size_t)(-(uintptr_t)a.base % 4); a.writable && at + 4 <= a.bytes; at += 4) {
      uint32_t bits;
      memcpy(&bits, a.base + at, 4);
      const Epoch* by = is_poison(bits) ? M.global[i].storer(at) : nullptr;
      if (!by) continue;
      M.faults.push_back({"uninitialised", "thread " + std::to_string(by->thread) + " of block " +
                          std::to_string(by->block) + " stores in " + a.name + " what was never given a value", by->pc, 0});
      break;
    }
  }
}

}  // namespace

// ---- state.h and machine.h ------------------------------------------------------------------------------------------

uint32_t offset_of(void* pc) { return (uint32_t)((uintptr_t)pc - M.module); }

std::string who() {
  char text[96];
  const Place& p = M.thread->place;
  snprintf(text, sizeof text, "thread (%u,%u,%u) of block (%u,%u,%u)", p.thread.x, p.thread.y, p.thread.z, p.block.x,
           p.block.y, p.block.z);
  return text;
}

bool of_agent(const Epoch& e) { return e.block == M.block->index && e.thread >= M.block->threads.size(); }

std::string who(const Epoch& e) {
  if (of_agent(e)) return M.block->agents[e.thread - M.block->threads.size()];
  return "thread " + std::to_string(e.thread) + (e.block == M.block->index ? "" : " of block " + std::to_string(e.block));
}

void fault(const char* kind, const std::string& text, uint32_t pc, uint32_t other) {
  for (const Fault& f : M.faults)
    if (f.kind == kind && f.pc == pc && f.other == other) return;
  M.faults.push_back({kind, text, pc, other});
  if (M.faults.size() >= MOST_FAULTS) leave();
}

void fatal(const char* kind, const std::string& text, uint32_t pc, uint32_t other) {
  fault(kind, text, pc, other);
  leave();
}

void wait_here(const char* what, uint32_t pc) {
  M.thread->state = State::WAITING;
  M.thread->waits_for = what;
  M.thread->waits_at = pc;
  yield();
}

void wake(unsigned t) {
  M.block->threads[t].state = State::READY;
  ++M.progress;
}

void poll(void* at, const char* what) {
  M.thread->state = State::POLLING;
  M.thread->waits_for = what;
  M.thread->waits_at = offset_of(at);
  yield();
}

Place place() { return M.thread->place; }
unsigned lane() { return M.tid % WARP; }
unsigned warp() { return M.tid / WARP; }
void trap(const char* why, void* at) { fatal("trap", who() + ": " + why, offset_of(at)); }

}  // namespace machine

extern "C" int gs_launch(const machine::Launch* launch) {
  using namespace machine;
  M.launch = *launch;
  M.draw.seed(launch->seed);
  M.faults.clear();
  M.syncs.clear();
  M.stop = false;
  M.hit = 0;
  M.progress = 0;
  M.dynamic = gs_dynamic_shared();
  dl_iterate_phdr(find_module, nullptr);
  M.global.clear();
  for (unsigned i = 0; i < launch->count; ++i) {
    const Allocation& a = launch->allocations[i];
    M.global.emplace_back(a.writable ? a.bytes : 0, a.held);
  }
  M.running = true;
  run_grid(launch->grid[0] * launch->grid[1] * launch->grid[2]);
  M.running = false;
  if (!M.stop) find_stored_poison();
  return (int)M.faults.size();
}

extern "C" const char* gs_report() {
  using namespace machine;
  report.clear();
  for (const Fault& f : M.faults)
    report += f.kind + "\t" + std::to_string(f.pc) + "\t" + std::to_string(f.other) + "\t" + f.text + "\n";
  return report.c_str();
}
