// Threads as the kernels see them: a pool that runs one function on several threads, and a barrier among them.
#pragma once
#include <cstdint>

namespace hamiltorch {

// Runs task(context, index) for index in [0, threads) on the process's OpenMP workers or a pool of our own, the caller
// being index 0, all in the caller's floating-point mode, and returns when all have ended. One fork and one join;
// callers from several threads take turns. Tasks must not throw.
void parallel(int threads, void (*task)(void* context, int index), void* context);

// Gives the processor away while a barrier waits for a thread that has none.
void yield_thread();

// A reusable barrier that spins: the phases between two barriers last microseconds. Release on arrival, acquire on
// departure, so that all writes before the barrier are seen after it.
struct alignas(64) Barrier {
  int32_t arrived;
  int32_t generation;

  __attribute__((always_inline)) void reset() {
    __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&generation, 0, __ATOMIC_RELAXED);
  }
};

// What one thread knows of the group it works in: its place and the group's barrier.
struct Member {
  int index;
  int count;
  Barrier* barrier;
};

static inline void wait_for_all(const Member& member) {
  if (member.count == 1) return;
  Barrier* barrier = member.barrier;
  const int32_t generation = __atomic_load_n(&barrier->generation, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == member.count) {
    __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier->generation, generation + 1, __ATOMIC_RELEASE);
    return;
  }
  for (int spins = 0; __atomic_load_n(&barrier->generation, __ATOMIC_ACQUIRE) == generation; ++spins) {
    if (spins > 4000) {
      yield_thread();
      continue;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

}  // namespace hamiltorch
