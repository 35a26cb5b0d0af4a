#include "emulator.h"

#include <ucontext.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace hamiltorch::emulator {
namespace {

// The sanitizer judges the kernel's accesses, not the emulator's own book-keeping.
struct Unwatched {
#if defined(__SANITIZE_THREAD__)
  Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unwatched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unwatched() {}
#endif
  Unwatched(const Unwatched&) = delete;
};

struct Meeting {
  int expected = 0;
  std::vector<int> waiting;          // fibers
  std::vector<void*> given;          // of a warp, by lane
  bool raised = false, any = false;  // of a block: its vote that is on, and the last one
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  int rank, thread;
  bool done = false;
  const char* waits_at = nullptr;
#if defined(__SANITIZE_THREAD__)
  void* tsan = nullptr;
#endif
};

constexpr size_t kStack = 256 << 10;

struct Machine {
  const Launch* launch;
  const std::function<void(int, int, int)>* body;
  int team;
  std::vector<Fiber> fibers;
  std::vector<int> ready;
  std::vector<Meeting> blocks, warps;
  std::vector<uint64_t> ranks;  // of the warps, where some go first
  Meeting everyone;
  std::vector<void*> shared;
  std::mt19937_64 order;
  ucontext_t scheduler;
  int running = -1;
  std::exception_ptr error;
#if defined(__SANITIZE_THREAD__)
  void* tsan = nullptr;
#endif
};

Machine* machine = nullptr;

#if defined(__SANITIZE_THREAD__)
char launch_start, launch_end;  // what the sanitizer is told orders a launch with its caller
#endif

Fiber& self() {
  const Unwatched unwatched;
  return machine->fibers[static_cast<size_t>(machine->running)];
}

void switch_to_scheduler(Fiber& fiber) {
  ucontext_t* const scheduler = &machine->scheduler;
#if defined(__SANITIZE_THREAD__)
  void* const to = machine->tsan;
  __tsan_release(&launch_end);
  __tsan_switch_to_fiber(to, 1);
#endif
  swapcontext(&fiber.context, scheduler);
}

void fiber_main() {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&launch_start);
#endif
  Fiber& fiber = self();
  try {
    (*machine->body)(machine->team, fiber.rank, fiber.thread);
  } catch (...) {
    machine->error = std::current_exception();
  }
  {
    const Unwatched unwatched;
    fiber.done = true;
  }
  switch_to_scheduler(fiber);
}

// Waits until all who are expected have come; true in the last one, who does not wait and lets the others go.
template <class Last>
void meet(Meeting& meeting, const char* where, Last last) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(&meeting);
#endif
  {
    const Unwatched unwatched;
    meeting.waiting.push_back(machine->running);
    if (static_cast<int>(meeting.waiting.size()) == meeting.expected) {
#if defined(__SANITIZE_THREAD__)
      __tsan_acquire(&meeting);
#endif
      last();
      for (const int fiber : meeting.waiting) {
        machine->fibers[static_cast<size_t>(fiber)].waits_at = nullptr;
        machine->ready.push_back(fiber);
      }
      meeting.waiting.clear();
    } else {
      machine->fibers[static_cast<size_t>(machine->running)].waits_at = where;
    }
    switch_to_scheduler(self());
  }
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&meeting);
#endif
}

size_t choose(Machine& m) {
  if (m.launch->seed % 2 == 0) return std::uniform_int_distribution<size_t>(0, m.ready.size() - 1)(m.order);
  const auto rank = [&m](size_t i) { return m.ranks[static_cast<size_t>(m.ready[i] / 32)]; };
  size_t best = 0;
  for (size_t i = 1; i < m.ready.size(); ++i)
    if (rank(i) > rank(best)) best = i;
  return best;
}

void run_team(Machine& m) {
  machine = &m;
#if defined(__SANITIZE_THREAD__)
  __tsan_release(&launch_start);
#endif
  while (!m.ready.empty()) {
    const size_t pick = choose(m);
    std::swap(m.ready[pick], m.ready.back());
    m.running = m.ready.back();
    m.ready.pop_back();
    Fiber& fiber = m.fibers[static_cast<size_t>(m.running)];
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber.tsan, 1);
#endif
    swapcontext(&m.scheduler, &fiber.context);
    if (m.error) break;
  }
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&launch_end);
#endif
  {
    const Unwatched unwatched;
    machine = nullptr;
  }
  if (m.error) std::rethrow_exception(m.error);
  for (const Fiber& fiber : m.fibers)
    if (!fiber.done)
      throw std::runtime_error("deadlock: thread " + std::to_string(fiber.thread) + " of member " +
                               std::to_string(fiber.rank) + " waits for ever at " +
                               (fiber.waits_at ? fiber.waits_at : "nothing"));
}

}  // namespace

void run(const Launch& launch, const std::function<void(int, int, int)>& body) {
  Machine m;
  m.launch = &launch;
  m.body = &body;
  m.order.seed(launch.seed);
  const int threads = launch.members * launch.threads;
#if defined(__SANITIZE_THREAD__)
  m.tsan = __tsan_get_current_fiber();
#endif
  for (m.team = 0; m.team < launch.teams; ++m.team) {
    m.fibers.clear();
    m.fibers.resize(static_cast<size_t>(threads));
    m.blocks.assign(static_cast<size_t>(launch.members), {});
    m.warps.assign(static_cast<size_t>(threads / 32), {});
    m.ranks.clear();
    for (int warp = 0; warp < threads / 32; ++warp) m.ranks.push_back(m.order());
    m.everyone = {};
    m.everyone.expected = threads;
    for (Meeting& block : m.blocks) block.expected = launch.threads;
    for (Meeting& warp : m.warps) {
      warp.expected = 32;
      warp.given.resize(32);
    }
    for (int rank = 0; rank < launch.members; ++rank) {
      void* memory = std::aligned_alloc(128, (launch.shared_bytes + 127) / 128 * 128 + 128);
      std::memset(memory, 0xff, launch.shared_bytes);
      m.shared.push_back(memory);
    }
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = m.fibers[static_cast<size_t>(i)];
      fiber.rank = i / launch.threads;
      fiber.thread = i % launch.threads;
      fiber.stack.reset(new char[kStack]);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, fiber_main, 0);
#if defined(__SANITIZE_THREAD__)
      fiber.tsan = __tsan_create_fiber(0);
#endif
      m.ready.push_back(i);
    }
    const auto clean_up = [&m] {
      for (void* memory : m.shared) std::free(memory);
      m.shared.clear();
#if defined(__SANITIZE_THREAD__)
      for (Fiber& fiber : m.fibers) __tsan_destroy_fiber(fiber.tsan);
#endif
    };
    try {
      run_team(m);
    } catch (...) {
      clean_up();
      throw;
    }
    clean_up();
  }
}

void sync_block() {
  meet(machine->blocks[static_cast<size_t>(self().rank)], "a block's barrier", [] {});
}

bool any(bool value) {
  Meeting* block;
  {
    const Unwatched unwatched;
    block = &machine->blocks[static_cast<size_t>(self().rank)];
    block->raised = block->raised || value;
  }
  meet(*block, "a block's vote", [block] {
    block->any = block->raised;
    block->raised = false;
  });
  const Unwatched unwatched;
  return block->any;
}

void sync_team() {
  meet(machine->everyone, "the team's barrier", [] {});
}

void* shared_memory(int member) {
  const Unwatched unwatched;
  return machine->shared[static_cast<size_t>(member)];
}

void warp_collective(void* mine, void (*combine)(void** lanes)) {
  Meeting* warp;
  {
    const Unwatched unwatched;
    const Fiber& fiber = self();
    warp = &machine->warps[static_cast<size_t>((fiber.rank * machine->launch->threads + fiber.thread) / 32)];
    warp->given[static_cast<size_t>(fiber.thread % 32)] = mine;
  }
  meet(*warp, "a warp's operation", [&] { combine(warp->given.data()); });
}

}  // namespace hamiltorch::emulator
