// The launch as a program of its own, for AddressSanitizer and UBSan: reads a problem file, runs it, writes the outputs
// back and prints the report. The sanitizer's guard begins right behind every tensor.
//
// The file: eight 64-bit numbers (grid 3, block 3, dynamic shared bytes, seed), then the numbers of tensors, of arguments
// and of variables in shared memory. Per tensor its name, its size, its address modulo 256, whether it is writable and
// whether it is held, then its bytes; per argument the index of its tensor or -1, then 8 bytes: an offset into the tensor,
// or the value; per variable its name, offset and size. A name is its length and its characters.
#include <sanitizer/asan_interface.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "launch.h"

static int64_t number(FILE* file) {
  int64_t v = 0;
  if (fread(&v, 8, 1, file) != 1) exit(3);
  return v;
}

static const char* name(FILE* file) {
  const size_t length = (size_t)number(file);
  char* text = (char*)calloc(length + 1, 1);
  if (length && fread(text, length, 1, file) != 1) exit(3);
  return text;
}

int main(int, char** argv) {
  FILE* file = fopen(argv[1], "rb");
  if (!file) return 3;
  machine::Launch launch{};
  for (unsigned& g : launch.grid) g = (unsigned)number(file);
  for (unsigned& b : launch.block) b = (unsigned)number(file);
  launch.dynamic_shared = (unsigned)number(file);
  launch.seed = (unsigned long long)number(file);
  std::vector<machine::Allocation> tensors((size_t)number(file));
  std::vector<int64_t> values((size_t)number(file));
  std::vector<machine::Extent> extents((size_t)number(file));
  std::vector<void*> arguments(values.size());
  for (machine::Allocation& t : tensors) {
    t.name = name(file);
    t.bytes = (size_t)number(file);
    const size_t misaligned = (size_t)number(file);
    t.base = (uint8_t*)aligned_alloc(256, (misaligned + t.bytes + 255) / 256 * 256 + 256) + misaligned;
    ASAN_POISON_MEMORY_REGION(t.base + t.bytes, 256);
    t.writable = (int)number(file), t.held = (int)number(file);
    if (t.bytes && fread(t.base, t.bytes, 1, file) != 1) return 3;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t tensor = number(file);
    values[i] = number(file);
    if (tensor >= 0) values[i] += (int64_t)(uintptr_t)tensors[(size_t)tensor].base;  // the value is an offset
    arguments[i] = &values[i];
  }
  for (machine::Extent& e : extents) e.name = name(file), e.offset = (size_t)number(file), e.bytes = (size_t)number(file);
  fclose(file);
  launch.allocations = tensors.data(), launch.count = (unsigned)tensors.size();
  launch.extents = extents.data(), launch.extent_count = (unsigned)extents.size();
  launch.arguments = arguments.data();
  const int faults = gs_launch(&launch);
  fputs(gs_report(), stdout);
  FILE* back = fopen(argv[2], "wb");
  for (const machine::Allocation& t : tensors)
    if (t.writable) fwrite(t.base, t.bytes, 1, back);
  fclose(back);
  return faults ? 10 : 0;
}
