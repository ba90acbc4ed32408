// What a launch is given: the border between the machine and whoever loads it (`execute.py`) or is linked with it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace machine {

struct Allocation { const char* name; uint8_t* base; size_t bytes; int writable, held; };
struct Extent { const char* name; size_t offset, bytes; };  // a variable in the shared memory that the kernel declares

struct Launch {
  unsigned grid[3], block[3];
  unsigned dynamic_shared;
  unsigned long long seed;
  int probe, probe_offset;
  const Allocation* allocations;
  unsigned count;
  const Extent* extents;
  unsigned extent_count;
  void** arguments;
  unsigned long long* traffic;  // per allocation: accesses of the kernel to it, and their bytes; null to count none
};

}  // namespace machine

extern "C" int gs_launch(const machine::Launch* launch);  // returns the number of faults
extern "C" const char* gs_report();                       // a line each: kind, place, other place or 0, text; tabs between
