// The machine that stands in for a GPU: what the stand-in headers call.
//
// Every thread of a block is a fiber on one OS thread. A fiber runs until it waits (a barrier, a warp collective, a spin
// loop), then one of the ready fibers is drawn by the seed. Blocks run one after the other in an order drawn by the seed;
// a block in which everybody spins is set aside for the next one, since it waits for what another block has yet to do.
//
// Every access to memory that the compiler can see comes through the hooks of -fsanitize=thread, which this machine
// defines itself; accesses made by an instruction of the GPU come from the functions below. Both are held against
// - bounds: the tensors that the launch was given, the block's shared memory, the thread's own stack;
// - initialisation: shared memory and scratch hold nothing until somebody writes them;
// - order: vector clocks, joined by barriers, fences with atomics, and mbarriers, tell whether two accesses to one byte,
//   one of them a write, are ordered. This is the happens-before order of the PTX memory model, seen per byte.
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

// ---- collectives ----------------------------------------------------------------------------------------------------
// What all lanes of `mask` (or all threads of a group) bring to a collective, and what is then done with it by one of them.
using Body = void (*)(void* const* slots, uint32_t mask, uint32_t immediate);
// Lanes meet; `body` runs once when all of `mask` have come with the same body and immediate.
void warp_meets(uint32_t mask, Body body, void* slot, uint32_t immediate, const char* what, void* pc);

// ---- barriers -------------------------------------------------------------------------------------------------------
void block_barrier(void* pc);                                                    // __syncthreads
unsigned block_vote(unsigned value, int kind, void* pc);                         // __syncthreads_{count, and, or}: 0, 1, 2
void warp_barrier(uint32_t mask, void* pc);                                      // __syncwarp
void named_barrier(unsigned id, unsigned threads, bool waits, void* pc);         // bar.sync, bar.arrive
void fence(int scope, void* pc);                                                 // __threadfence and its kin
void spin(void* pc);                                                             // lets others run: a poll that found nothing
void trap(const char* why, void* pc);

// ---- shared memory --------------------------------------------------------------------------------------------------
uint32_t shared_offset(const void* generic, void* pc);                           // cvta.to.shared
void* shared_pointer(uint32_t offset, unsigned bytes, void* pc);
// An access by an instruction: checks and, for a write, marks; the caller moves the bytes.
void read(const void* at, unsigned bytes, unsigned alignment, void* pc);
void write(void* at, unsigned bytes, unsigned alignment, void* pc);
bool is_poison(uint32_t bits);                                                   // the pattern of memory that nobody wrote
void uninitialised(const char* what, void* pc);

// Probes: inputs whose values say where they belong, so that a fragment that holds the wrong element is seen where it is
// used. In all of them the weight is the A operand of the mma, and a zero of x is padding.
enum Probe { NO_PROBE, X_ROW, X_K, W_ROW, W_K };   // x[m][k] = 1 + m % 8; 1 + k % 16; code[n][k] = n % 16; k % 16
struct Probing { Probe what; int offset; };        // offset: what a code of zero decodes to
Probing probing();
void misplaced(const char* what, int row, int column, float value, void* pc);

// ---- asynchronous copies --------------------------------------------------------------------------------------------
void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid, void* pc);   // cp.async
void copy_commit(void* pc);
void copy_wait(unsigned pending, void* pc);
void copy_wait_all(void* pc);

// ---- atomics --------------------------------------------------------------------------------------------------------
enum Order { RELAXED = 0, ACQUIRE = 1, RELEASE = 2 };
void atomic(void* at, unsigned bytes, int order, void* pc);                       // checks and orders; the caller computes
void atomic_read(const void* at, unsigned bytes, int order, void* pc);

// Runs a kernel's entry on the arguments of the launch; the module defines it.
using Entry = void (*)(void** arguments);

}  // namespace machine
