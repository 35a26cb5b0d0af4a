#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
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
    const std::lock_guard<std::mutex> turn(turn_);
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

  std::mutex turn_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  int workers_ = 0;
  uint64_t call_ = 0;
  void (*task_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int threads_ = 0;
  int pending_ = 0;
};

std::atomic<Pool*> pool{nullptr};

// A forked child has the parent's memory but none of its threads: it starts a pool of its own.
void forget_pool() { pool.store(nullptr, std::memory_order_relaxed); }

Pool& the_pool() {
  Pool* existing = pool.load(std::memory_order_acquire);
  if (existing) return *existing;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  static_cast<void>(registered);
  Pool* created = new Pool;
  if (pool.compare_exchange_strong(existing, created)) return *created;
  delete created;
  return *existing;
}

}  // namespace

void parallel(int threads, void (*task)(void*, int), void* context) {
  if (threads == 1)
    task(context, 0);
  else
    the_pool().run(threads, task, context);
}

void yield_thread() { sched_yield(); }

}  // namespace hamiltorch
