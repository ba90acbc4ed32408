// The machine's state, shared by its parts: schedule.cpp, barriers.cpp, memory.cpp, order.cpp, copies.cpp,
// hopper.cpp, warpgroups.cpp.
#pragma once
#include <map>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "fiber.h"
#include "launch.h"
#include "machine.h"
#include "shadow.h"

namespace machine {

constexpr unsigned WARP = 32, NAMED = 16;
constexpr size_t MOST_SHARED = 232448;  // bytes of shared memory that a block of sm_90 can have
constexpr size_t MOST_FAULTS = 16;
constexpr uint8_t POISON = 0xFE;        // as -ftrivial-auto-var-init=pattern fills locals

enum class State { READY, WAITING, POLLING, DONE };

struct Copy { uint8_t* to; const uint8_t* from; unsigned bytes, valid; uint32_t pc; };

// A local array, taken for registers, that a product under way reads, or writes where it is its sums.
struct Operand { const uint8_t* at; unsigned bytes; bool sums; unsigned group; uint32_t pc; };
struct Touch { unsigned fences; uint32_t pc; };  // an access, and how often its thread had executed wgmma.fence

struct Thread {
  fiber::Context context;
  State state = State::READY;
  const char* waits_for = "";
  uint32_t waits_at = 0;
  Seen seen;
  Seen fenced[2];  // what it had seen at its last fence of each scope: a relaxed atomic after it publishes that
  Seen heard[2];   // published by others where it read with relaxed atomics: its next fence of a scope makes it seen
  struct { const void* at = nullptr; uint64_t value = 0; } polled;
  std::vector<Copy> open;                  // not committed yet
  std::vector<std::vector<Copy>> groups;   // committed, oldest first
  unsigned fences = 0;                     // wgmma.fence: how often
  std::vector<Operand> running;            // of products that it has not waited for
  std::vector<Touch> touched;              // words of its stack, from the top down: their last access
  Place place;
};

struct Meeting {
  uint32_t mask, arrived;
  Body body;
  uint32_t immediate, pc;
  const char* what;
  bool aligned;                // the whole warp, from one place
  void* slots[WARP];
};

struct Warp {
  std::vector<Meeting> open;   // of disjoint masks
  uint32_t ended = 0;          // lanes that have returned from the kernel, or that the block does not have
  uint32_t missing = 0;        // of these, the ones that the block does not have
};

struct Barrier {
  unsigned expects = 0;
  uint32_t pc = 0;                         // where the first one came from
  std::vector<unsigned> came, waiting;
  std::vector<uint32_t> places;            // of those who came
  Seen seen;                               // by those who came, when they came
};

struct BulkCopy { Copy copy; uint32_t clock; };

// Copies that an mbarrier counts and products of a warpgroup go on beside the threads. They are agents: each has a place
// behind the threads' in the vector clocks, and who waits for one sees what it has done so far.
struct Mbarrier {
  unsigned agent = 0;
  uint32_t clock = 0;
  Epoch made;
  unsigned expected = 0, pending = 0;      // arrivals of a phase, and those that it still waits for
  unsigned phase = 0;
  long long bytes = 0;                     // still to come
  Seen arriving, done;                     // what the arrivals of this phase, and of the last, had seen
  std::vector<BulkCopy> copies;
};

struct Product { std::vector<Wgmma> lanes; unsigned tokens; uint32_t pc; std::vector<uint8_t> bytes; uint32_t clock; };

struct Warpgroup {
  unsigned agent = 0;
  uint32_t clock = 0;
  unsigned committed = 0, finished = 0;    // groups of products
  std::vector<unsigned> waiting;           // threads that have come to the instruction at `pc`
  uint32_t pc = 0;
  const char* what = "";
  Product next;
  std::vector<Product> open;
  std::vector<std::vector<Product>> groups;
};

struct Block {
  unsigned index = 0;
  std::map<const void*, Mbarrier> mbarriers;
  std::map<unsigned, Warpgroup> warpgroups;
  std::vector<Thread> threads;
  std::vector<const char*> agents;         // what each is called
  std::vector<Warp> warps;
  Barrier named[NAMED];                    // 0 is __syncthreads
  unsigned votes = 0, vote_result = 0;
  unsigned done = 0;
  Memory fixed, dynamic;                   // shared memory: declared in the module, and given at launch
  std::vector<uint8_t> saved_fixed, saved_dynamic;
  unsigned rounds = 0;                     // passes over threads that all poll in vain
  unsigned long long idle_since = 0;       // the machine's progress when it was set aside last
  unsigned idle = 0;                       // how often it was set aside since then
};

// What a thread learns that reads this atomic variable: from all of the device, and from threads of its own block.
struct Sync { Others device; std::map<unsigned, Seen> block; };

struct Fault { std::string kind, text; uint32_t pc, other; };

struct Machine {
  Launch launch{};
  std::mt19937_64 draw;
  std::vector<Memory> global;
  std::unordered_map<uintptr_t, Sync> syncs;
  std::vector<Fault> faults;
  Block* block = nullptr;
  Thread* thread = nullptr;
  unsigned tid = 0;
  fiber::Context scheduler;
  std::vector<char*> stacks;               // free ones
  uintptr_t module = 0, module_end = 0;
  uint8_t* fixed = nullptr;                // the module's thread-local memory: all shared memory that it declares
  size_t fixed_bytes = 0;
  uint8_t* dynamic = nullptr;
  unsigned hit = 0;                        // the tensor that was accessed last
  bool running = false, stop = false;
  unsigned long long progress = 0;         // changes that somebody who polls may be waiting for
};

extern Machine M;

uint32_t offset_of(void* pc);
std::string who();
std::string who(const Epoch& e);
bool of_agent(const Epoch& e);             // a bulk copy's or a product's
// A fault is listed once for each pair of places. A fatal one ends the launch: what follows it means nothing.
void fault(const char* kind, const std::string& text, uint32_t pc, uint32_t other = 0);
[[noreturn]] void fatal(const char* kind, const std::string& text, uint32_t pc, uint32_t other = 0);

inline void tick(Thread& t, unsigned tid) { ++t.seen.own[tid]; }
void wait_here(const char* what, uint32_t pc);
void wake(unsigned thread);

void lane_ended();                         // a warp or a block may be complete without the thread that has ended
void check(const void* at, unsigned bytes, unsigned alignment, Access kind, uint32_t pc);
void check_as(const View& view, const void* at, unsigned bytes, unsigned alignment, Access kind, uint32_t pc);  // an agent's
// The shadow that an address lies in and the place there, or null when it needs no shadow.
Memory* locate(uintptr_t at, unsigned bytes, bool writes, uint32_t pc, size_t& where);
void touch_register(const void* at, unsigned bytes, bool writes, uint32_t pc);  // an access to a thread's own stack
void mark(void* at, unsigned bytes, Flag flag, bool on, uint32_t pc);
bool on_own_stack(const void* at);
void find_unfinished();                    // asynchronous work that the block's last thread leaves under way
unsigned new_agent(const char* name);      // its place in the block's vector clocks
// Whether the asynchronous proxy reads, or writes over, what it may not have seen yet.
bool find_unfenced(const void* at, unsigned bytes, const Seen& seen, const char* doing, uint32_t pc);

}  // namespace machine
