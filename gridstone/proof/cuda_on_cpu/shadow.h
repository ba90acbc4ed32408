// Shadow memory: who wrote and who read each byte, and when, in the happens-before order.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace shadow {

using Clock = std::vector<uint32_t>;                  // one entry per thread of a block
using Known = std::vector<std::shared_ptr<Clock>>;    // what is known of other blocks, by block; null: nothing

struct Epoch {
  uint32_t clock = 0;
  uint32_t pc = 0;     // offset in the module
  uint32_t block = 0;
  uint16_t thread = 0;
};

// How a thread sees the past.
struct View {
  uint32_t block;
  uint16_t thread;
  const Clock* own;
  const Known* known;

  bool sees(const Epoch& e) const {
    if (e.block == block) return (*own)[e.thread] >= e.clock;
    return e.block < known->size() && (*known)[e.block] && (*(*known)[e.block])[e.thread] >= e.clock;
  }
};

// HELD: there before the launch. COPIED: brought by an asynchronous copy, not stored by a thread.
enum Flag : uint8_t { WRITTEN = 1, PENDING = 2, ATOMIC = 4, HELD = 8, COPIED = 16 };

struct Read { Epoch at; uint32_t next; };

// Reads are immutable lists, so that bytes that were always accessed together share one.
struct Cell {
  Epoch write;
  uint32_t reads = 0;
  uint8_t flags = 0;

  bool same(const Cell& o) const {
    return reads == o.reads && flags == o.flags && write.clock == o.write.clock && write.thread == o.write.thread &&
           write.block == o.write.block && write.pc == o.write.pc;
  }
};

enum class Access { READ, WRITE, ATOMIC };
enum class Trouble { NONE, UNINITIALISED, NOT_DELIVERED, RACE };

struct Found { Trouble trouble = Trouble::NONE; Epoch other; bool other_wrote = false; };

class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, bool held) : cells_(bytes) {
    reads_.resize(1);
    if (held) for (Cell& cell : cells_) cell.flags = WRITTEN | HELD;
  }

  // Checks an access to bytes [at, at + count) and enters it.
  Found access(size_t at, unsigned count, Access kind, const View& view, uint32_t pc) {
    Found found;
    Cell before, after;
    bool have = false;
    for (unsigned i = 0; i < count; ++i) {
      Cell& cell = cells_[at + i];
      if (have && cell.same(before)) { cell = after; continue; }
      before = cell;
      Found one = step(cell, kind, view, pc);
      after = cell;
      have = true;
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

  size_t size() const { return cells_.size(); }

 private:
  std::vector<Cell> cells_;
  std::vector<Read> reads_;

  Found step(Cell& cell, Access kind, const View& view, uint32_t pc) {
    Found found;
    const bool atomic = kind == Access::ATOMIC, wrote = (cell.flags & WRITTEN) && !(cell.flags & HELD);
    if (cell.flags & PENDING) found = {Trouble::NOT_DELIVERED, cell.write, true};
    else if (kind != Access::WRITE && !(cell.flags & WRITTEN)) found = {Trouble::UNINITIALISED, {}, false};
    else if (wrote && !(atomic && (cell.flags & ATOMIC)) && !view.sees(cell.write)) found = {Trouble::RACE, cell.write, true};
    const Epoch now = {(*view.own)[view.thread], pc, view.block, view.thread};
    if (kind == Access::READ) {
      uint32_t kept = 0;  // reads that this one follows are implied by it
      for (uint32_t r = cell.reads; r; r = reads_[r].next)
        if (!view.sees(reads_[r].at)) kept = add(reads_[r].at, kept);
      cell.reads = add(now, kept);
      return found;
    }
    if (found.trouble == Trouble::NONE)
      for (uint32_t r = cell.reads; r; r = reads_[r].next)
        if (!view.sees(reads_[r].at)) { found = {Trouble::RACE, reads_[r].at, false}; break; }
    cell.write = now;
    cell.reads = 0;
    cell.flags = WRITTEN | (atomic ? ATOMIC : 0);
    return found;
  }

  uint32_t add(const Epoch& at, uint32_t next) {
    reads_.push_back({at, next});
    return (uint32_t)reads_.size() - 1;
  }
};

}  // namespace shadow
