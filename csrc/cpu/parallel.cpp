#include "parallel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace hamiltorch {
namespace {

// Workers sleep between calls; a call wakes the ones it needs. The pool lives as long as the process: threads must not
// be joined from a static destructor of a Python extension.
class Pool {
 public:
  void run(int threads, void (*task)(void*, int), void* context) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(workers_) < threads - 1) {
        std::thread(&Pool::work, this, workers_ + 1, call_).detach();
        ++workers_;  // not before: starting a thread may throw
      }
      task_ = task;
      context_ = context;
      threads_ = threads;
      pending_ = threads - 1;
      ++call_;
    }
    wake_.notify_all();
    task(context, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
  }

 private:
  void work(int index, uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return call_ != seen; });
      seen = call_;
      if (index >= threads_) continue;
      const auto task = task_;
      void* const context = context_;
      lock.unlock();
      task(context, index);
      lock.lock();
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  int workers_ = 0;
  uint64_t call_ = 0;
  void (*task_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int threads_ = 0;
  int pending_ = 0;
};

// What calls share: whose turn it is, and workers of our own.
struct Threads {
  std::mutex turn;
  Pool pool;
};

std::atomic<Threads*> threads_of_process{nullptr};
std::atomic<bool> forked{false};

// A forked child has the parent's memory but none of its threads, and locks that a thread held stay locked: it starts
// anew, and leaves the OpenMP runtime alone, which cannot.
void forget_threads() {
  threads_of_process.store(nullptr, std::memory_order_relaxed);
  forked.store(true, std::memory_order_relaxed);
}
const int registered = pthread_atfork(nullptr, nullptr, forget_threads);

Threads& the_threads() {
  Threads* existing = threads_of_process.load(std::memory_order_acquire);
  if (existing) return *existing;
  Threads* created = new Threads;
  if (threads_of_process.compare_exchange_strong(existing, created)) return *created;
  delete created;
  return *existing;
}

// The process's OpenMP runtime, where one is loaded: torch brings one. Its workers spin for milliseconds after each of
// torch's operators; threads of our own would have to compete with them for the processor.
struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags);
  int (*thread)();
  int (*threads)();
  int (*in_parallel)();

  OpenMp() {
    find("GOMP_parallel", parallel);
    find("omp_get_thread_num", thread);
    find("omp_get_num_threads", threads);
    find("omp_in_parallel", in_parallel);
  }

  // False where the runtime would not give that many threads; the task has not begun then.
  bool run(int count, void (*task)(void*, int), void* context) const {
    if (!parallel || !thread || !threads || !in_parallel || in_parallel()) return false;
    struct Region {
      const OpenMp* runtime;
      int count;
      void (*task)(void*, int);
      void* context;
      bool complete;
    } region = {this, count, task, context, true};
    parallel(
        [](void* data) {
          Region& r = *static_cast<Region*>(data);
          const int index = r.runtime->thread();
          if (r.runtime->threads() == r.count)
            r.task(r.context, index);
          else if (index == 0)
            r.complete = false;
        },
        &region, static_cast<unsigned>(count), 0);
    return region.complete;
  }

 private:
  template <class F>
  static void find(const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  }
};

// A task that every thread runs in the caller's floating-point mode: members of a team decide each for itself, and must
// not come to different numbers because torch.set_flush_denormal, say, speaks of its own thread alone.
struct InMode {
  void (*task)(void*, int);
  void* context;
  std::fenv_t mode;

  static void run(void* self, int index) {
    const InMode& call = *static_cast<const InMode*>(self);
    if (index == 0) return call.task(call.context, 0);
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&call.mode);
    call.task(call.context, index);
    std::fesetenv(&own);
  }
};

}  // namespace

void parallel(int threads, void (*task)(void*, int), void* context) {
  if (threads == 1) {
    task(context, 0);
    return;
  }
  InMode call = {task, context, {}};
  std::fegetenv(&call.mode);
  static_cast<void>(registered);
  static const OpenMp openmp;
  Threads& shared = the_threads();
  const std::lock_guard<std::mutex> lock(shared.turn);
  if (forked.load(std::memory_order_relaxed) || !openmp.run(threads, InMode::run, &call))
    shared.pool.run(threads, InMode::run, &call);
}

void yield_thread() { sched_yield(); }

}  // namespace hamiltorch
