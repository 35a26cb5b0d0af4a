// Runs the kernels' own text on the CPU: every GPU thread is a fiber, blocks have memory of their own, and barriers and
// warp operations wait for exactly those threads that the GPU waits for.
//
// Threads take turns at these points only, in an order drawn from a seed: for even ones any that can go on, for odd
// ones warps by a rank of their own, so that some run far ahead. A missing barrier then shows as a wrong result under
// some seed, and as a data race under the thread sanitizer, which is told of fibers and barriers. A thread that waits
// for ever is reported. Memory starts as NaN. What is not modelled: timing, and the GPU's weaker memory order.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

namespace hamiltorch::emulator {

struct Launch {
  int teams, members, threads;  // threads of a block, whole warps
  size_t shared_bytes;          // of a block
  uint64_t seed;                // of the order of the threads
};

// Runs `body(team, rank, thread)` for every thread of every team. Throws std::runtime_error on a deadlock.
void run(const Launch& launch, const std::function<void(int team, int rank, int thread)>& body);

// Of the running thread.
void sync_block();
bool any(bool value);  // in its block, and a barrier
void sync_team();
void* shared_memory(int member);

// Gathers `bytes` from every lane of the warp; the last lane to come calls `combine(lane pointers)`.
void warp_collective(void* mine, void (*combine)(void** lanes));

}  // namespace hamiltorch::emulator
