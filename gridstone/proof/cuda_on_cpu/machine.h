// The machine that stands in for a GPU: what the stand-in headers call.
//
// Every thread of a block is a fiber on one OS thread. A fiber runs until it waits (a barrier, a warp collective, a poll),
// then one of the ready fibers is drawn by the seed. Blocks start in an order drawn by the seed; a block in which
// everybody polls in vain is set aside for another one, since it waits for what that one has yet to do.
//
// Every access to memory that the compiler can see comes through the hooks of -fsanitize=thread, which this machine
// defines itself; accesses made by an instruction of the GPU come from the functions below. Both are held against
// - bounds: the tensors that the launch was given, each variable in shared memory, the thread's own stack;
// - initialisation: shared memory and scratch hold nothing until somebody writes them;
// - order: vector clocks, joined by barriers and by fences with atomics, tell whether two accesses to one byte, one of
//   them a write, are ordered. This is the happens-before order of the PTX memory model, seen per byte.
#pragma once
#include <cstddef>
#include <cstdint>

namespace machine {

struct Dim3 { unsigned x, y, z; };

// ---- who am I -------------------------------------------------------------------------------------------------------
struct Place { Dim3 thread, block, block_dim, grid_dim; };
Place place();  // by value: the caller's accesses are watched, and this memory is not a kernel's
unsigned lane();
unsigned warp();

// ---- what lanes do together -----------------------------------------------------------------------------------------
// What the lanes of `mask` have brought, and what is then done with it by one of them.
using Body = void (*)(void* const* slots, uint32_t mask, uint32_t immediate);
// Lanes of `mask` that have not ended meet, wherever they come from; `body` runs once when all have come.
void warp_meets(uint32_t mask, Body body, void* slot, uint32_t immediate, const char* what, void* pc);
// The same for instructions that are .aligned: the whole warp comes, and from one place in the text.
void warp_executes(Body body, void* slot, uint32_t immediate, const char* what, void* pc);

// ---- barriers and order ---------------------------------------------------------------------------------------------
enum Vote { COUNT, AND, OR };
enum Scope { BLOCK, DEVICE };
void block_barrier(void* pc);                                             // __syncthreads
unsigned block_vote(bool value, Vote kind, void* pc);                     // __syncthreads_{count, and, or}
void warp_barrier(uint32_t mask, void* pc);                               // __syncwarp
void named_barrier(unsigned id, unsigned threads, bool waits, void* pc);  // bar.sync, bar.arrive
void fence(Scope scope);                                                  // __threadfence and its kin
// Nothing found: lets others run, which must bring what it waits for.
void poll(void* pc, const char* what = "a value that another thread must write");
void trap(const char* why, void* pc);

// ---- memory ---------------------------------------------------------------------------------------------------------
uint32_t shared_offset(const void* generic, void* pc);                    // cvta.to.shared
// An access by an instruction: checks and, for a write, marks; the caller moves the bytes.
void read(const void* at, unsigned bytes, unsigned alignment, void* pc);
void read_only(const void* at, unsigned bytes, unsigned alignment, void* pc);  // ld.global.nc: nobody writes there
void write(void* at, unsigned bytes, unsigned alignment, void* pc);
[[noreturn]] void misaligned(const void* at, unsigned alignment, void* pc);
[[noreturn]] void beyond_array(long long index, void* pc);
bool is_poison(uint32_t bits);                                            // the pattern of memory that nobody wrote
void uninitialised(const char* what, void* pc);

// ---- atomics: strong accesses of the PTX memory model ---------------------------------------------------------------
enum Order { RELAXED = 0, ACQUIRE = 1, RELEASE = 2 };
void strong_load(const void* at, unsigned bytes, Order order, void* pc);  // lets others run first; the caller then reads
void strong_store(void* at, unsigned bytes, Order order, void* pc);
void strong_update(void* at, unsigned bytes, int order, void* pc);        // an Order, or ACQUIRE | RELEASE
void updated(bool changed, void* pc);                                     // an update that changed nothing is a poll

// ---- asynchronous copies --------------------------------------------------------------------------------------------
void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid, void* pc);   // cp.async
void copy_commit();
void copy_wait(unsigned pending);
void copy_wait_all();

// ---- sm_90a: mbarriers, bulk copies, products of a warpgroup --------------------------------------------------------
void mbarrier_init(void* at, unsigned arrivals, void* pc);
void mbarrier_arrive(void* at, unsigned expect_bytes, void* pc);
void mbarrier_wait(void* at, unsigned parity, void* pc);                  // for the end of the phase of this parity
void bulk_copy(void* shared, const void* global, unsigned bytes, void* mbarrier, void* pc);
void proxy_fence();
// What one lane brings: sums, registers of A, the descriptor of B, whether to add to the sums; how to widen an element.
struct Wgmma { float* d; const uint32_t* a; uint64_t tile; int accumulate; float (*widen)(uint16_t); };
uint32_t tile_start(const void* start, void* pc);                         // a shared address that a descriptor can hold
void wgmma_fence(void* pc);
void wgmma_issue(const Wgmma& lane, unsigned tokens, const char* what, void* pc);
void wgmma_commit(void* pc);
void wgmma_wait(unsigned pending, void* pc);

// ---- probes ---------------------------------------------------------------------------------------------------------
// Inputs whose values say where they belong, so that a fragment that holds the wrong element is seen where it is used.
// In all of them the weight is the A operand of the mma, and a zero of x is padding.
enum Probe { NO_PROBE, X_ROW, X_K, W_ROW, W_K };   // x[m][k] = 1 + m % 8; 1 + k % 16; code[n][k] = n % 16; k % 16
struct Probing { Probe what; int offset; };        // offset: what a code of zero decodes to
Probing probing();
void misplaced(const char* what, int row, int column, float value, void* pc);

}  // namespace machine
