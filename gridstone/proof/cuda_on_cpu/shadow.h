// Shadow memory: who wrote and who read each byte, and when, in the happens-before order.
#pragma once
#include <cstdint>
#include <vector>

#include "clocks.h"

namespace machine {

// One access. STRONG ones, as the PTX memory model calls them (atomics, volatile), never race with each other.
struct Epoch {
  uint32_t clock = 0;
  uint32_t pc = 0;     // offset in the module
  uint32_t block = 0;
  uint16_t thread = 0;
  bool strong = false;
  bool wrote = false;
};

// How the running thread sees the past.
struct View {
  uint32_t block;
  uint16_t thread;
  const Seen* seen;

  bool sees(const Epoch& e) const {
    if (e.block == block) return known(seen->own, e.thread) >= e.clock;
    const Others& others = seen->others;
    return e.block < others.size() && others[e.block] && known(*others[e.block], e.thread) >= e.clock;
  }
};

// PENDING: an asynchronous copy is on its way. HELD: there before the launch. COPIED: not stored by a thread.
enum Flag : uint8_t { WRITTEN = 1, PENDING = 2, HELD = 4, COPIED = 8 };

struct Access { bool loads, stores, strong; };
constexpr Access LOAD = {true, false, false}, STORE = {false, true, false};
constexpr Access STRONG_LOAD = {true, false, true}, STRONG_STORE = {false, true, true}, UPDATE = {true, true, true};

enum class Trouble { NONE, UNINITIALISED, NOT_DELIVERED, RACE };
struct Found { Trouble trouble = Trouble::NONE; Epoch other; };

class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, bool held) : cells_(bytes), past_(1) {
    if (held) for (Cell& cell : cells_) cell.flags = WRITTEN | HELD;
  }

  // Checks an access to bytes [at, at + count) and enters it.
  Found access(size_t at, unsigned count, Access kind, const View& view, uint32_t pc) {
    const Epoch now = {view.seen->own[view.thread], pc, view.block, view.thread, kind.strong, kind.stores};
    Found found;
    Cell before, after;
    for (unsigned i = 0; i < count; ++i) {
      Cell& cell = cells_[at + i];
      if (i && cell.same(before)) {
        cell = after;
        continue;
      }
      before = cell;
      const Found one = step(cell, kind, view, now);
      after = cell;
      if (found.trouble == Trouble::NONE) found = one;
    }
    return found;
  }

  void mark(size_t at, unsigned count, Flag flag, bool on) {
    for (unsigned i = 0; i < count; ++i) {
      uint8_t& flags = cells_[at + i].flags;
      flags = (uint8_t)(on ? flags | flag : flags & ~flag);
    }
  }

  // The store that put the value at a byte there, or null when no thread's store did.
  const Epoch* storer(size_t at) const {
    const Cell& cell = cells_[at];
    return (cell.flags & (WRITTEN | HELD | COPIED | PENDING)) == WRITTEN ? &cell.write : nullptr;
  }

  // The access that put the value at a byte there, or null when it was there before the launch or nobody did.
  const Epoch* writer(size_t at) const {
    const Cell& cell = cells_[at];
    return (cell.flags & (WRITTEN | HELD)) == WRITTEN ? &cell.write : nullptr;
  }

 private:
  struct Past { Epoch at; uint32_t next; };

  // The last write, and a list of accesses that may collide with what comes: reads since, and strong accesses that the
  // last write did not follow. Lists are never changed, so that bytes that were always accessed together share one.
  struct Cell {
    Epoch write;
    uint32_t past = 0;
    uint8_t flags = 0;

    bool same(const Cell& o) const {
      return past == o.past && flags == o.flags && write.clock == o.write.clock && write.thread == o.write.thread &&
             write.block == o.write.block && write.pc == o.write.pc && write.strong == o.write.strong;
    }
  };

  std::vector<Cell> cells_;
  std::vector<Past> past_;  // 0 is the end of a list

  static bool collide(const Epoch& then, const Epoch& now, const View& view) {
    return (then.wrote || now.wrote) && !(then.strong && now.strong) && !view.sees(then);
  }

  Found step(Cell& cell, Access kind, const View& view, const Epoch& now) {
    const bool written = (cell.flags & WRITTEN) && !(cell.flags & HELD);
    Found found;
    if (cell.flags & PENDING) found = {Trouble::NOT_DELIVERED, cell.write};
    else if (kind.loads && !(cell.flags & WRITTEN)) found = {Trouble::UNINITIALISED, {}};
    else if (written && collide(cell.write, now, view)) found = {Trouble::RACE, cell.write};
    if (found.trouble == Trouble::NONE)
      for (uint32_t p = cell.past; p; p = past_[p].next)
        if (collide(past_[p].at, now, view)) {
          found = {Trouble::RACE, past_[p].at};
          break;
        }
    if (!kind.stores) {
      const Epoch& last = past_[cell.past].at;
      if (cell.past && last.clock == now.clock && last.thread == now.thread && last.block == now.block &&
          last.wrote == now.wrote && last.strong == now.strong)
        return found;  // read before, with nothing in between
      cell.past = add(now, concurrent(cell.past, view));
      return found;
    }
    // A plain store follows everything, or has just been reported. A strong one may leave strong accesses beside it.
    uint32_t kept = 0;
    if (kind.strong) {
      kept = concurrent(cell.past, view);
      if (written && cell.write.strong && !view.sees(cell.write)) kept = add(cell.write, kept);
    }
    cell.write = now;
    cell.past = kept;
    cell.flags = WRITTEN;
    return found;
  }

  // The part of a list that the running thread has not seen: what it has seen is implied by its own access.
  uint32_t concurrent(uint32_t list, const View& view) {
    bool all = true;
    for (uint32_t p = list; p && all; p = past_[p].next) all = !view.sees(past_[p].at);
    if (all) return list;
    uint32_t kept = 0;
    for (uint32_t p = list; p; p = past_[p].next)
      if (!view.sees(past_[p].at)) kept = add(past_[p].at, kept);
    return kept;
  }

  uint32_t add(const Epoch& at, uint32_t next) {
    past_.push_back({at, next});
    return (uint32_t)past_.size() - 1;
  }
};

}  // namespace machine
