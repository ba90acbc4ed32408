// The launch as a program of its own, for AddressSanitizer and UBSan: reads a problem file, runs it, writes the outputs
// back and prints the report. Every tensor has a heap block of exactly its size, so that the sanitizer's guards touch it.
//
// The file: eight 64-bit numbers (grid 3, block 3, dynamic shared bytes, seed), the number of tensors and of arguments;
// per tensor its size, whether it is writable and whether it is held, then its bytes; per argument the index of its tensor
// or -1, then 8 bytes: an offset into the tensor, or the value.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

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
extern "C" int gs_launch(const Launch* launch);
extern "C" const char* gs_report();

static int64_t number(FILE* file) {
  int64_t v = 0;
  if (fread(&v, 8, 1, file) != 1) exit(3);
  return v;
}

int main(int, char** argv) {
  FILE* file = fopen(argv[1], "rb");
  if (!file) return 3;
  Launch launch{};
  for (unsigned& g : launch.grid) g = (unsigned)number(file);
  for (unsigned& b : launch.block) b = (unsigned)number(file);
  launch.dynamic_shared = (unsigned)number(file);
  launch.seed = (unsigned long long)number(file);
  std::vector<Allocation> tensors((size_t)number(file));
  std::vector<int64_t> values((size_t)number(file));
  std::vector<void*> arguments(values.size());
  for (Allocation& t : tensors) {
    const int64_t bytes = number(file);
    t = {"a tensor", (uint8_t*)malloc((size_t)bytes), (size_t)bytes, (int)number(file), (int)number(file)};
    if (bytes && fread(t.base, (size_t)bytes, 1, file) != 1) return 3;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t tensor = number(file);
    values[i] = number(file);
    if (tensor >= 0) values[i] += (int64_t)(uintptr_t)tensors[(size_t)tensor].base;  // the value is an offset
    arguments[i] = &values[i];
  }
  fclose(file);
  launch.allocations = tensors.data();
  launch.count = (unsigned)tensors.size();
  launch.arguments = arguments.data();
  const int faults = gs_launch(&launch);
  fputs(gs_report(), stdout);
  FILE* back = fopen(argv[2], "wb");
  for (const Allocation& t : tensors)
    if (t.writable) fwrite(t.base, t.bytes, 1, back);
  fclose(back);
  return faults ? 10 : 0;
}
