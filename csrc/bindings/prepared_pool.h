// Prepared weights kept between calls. A call takes what an earlier call with the same network in the same layout left,
// or fresh memory, has it to itself, and gives it back. Which weights it holds needs no trust: the kernels compare.
// Nobody waits here: where another thread is at the list, fresh memory does (and a forked child may find it locked for
// good).
#pragma once
#include <cstddef>
#include <cstdlib>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "hamiltorch/rollout.h"

namespace hamiltorch {

struct PreparedWeights {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::string key;
  std::unique_ptr<void, Free> memory;
  size_t size = 0;
  bool filled = false;
};

class PreparedPool {
 public:
  static PreparedPool& instance() {
    static PreparedPool* const pool = new PreparedPool;  // never destroyed: other threads may outlive the statics
    return *pool;
  }

  // `key` says the network's addresses and sizes, and the layout.
  PreparedWeights take(std::string key, size_t size) {
    PreparedWeights found;
    if (size == 0) return found;
    {
      const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      for (auto entry = kept_.begin(); lock && entry != kept_.end(); ++entry)
        if (entry->size == size && entry->key == key) {
          found = std::move(*entry);
          kept_.erase(entry);
          bytes_ -= size;
          return found;
        }
    }
    found.key = std::move(key);
    found.size = size;
    found.memory.reset(std::aligned_alloc(64, (size + 63) / 64 * 64));
    if (!found.memory) throw std::bad_alloc();
    return found;
  }

  void give_back(PreparedWeights weights) {
    if (weights.size == 0 || weights.size > kPreparedKept) return;
    weights.filled = true;
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return;
    bytes_ += weights.size;
    kept_.push_front(std::move(weights));
    for (; bytes_ > kPreparedKept || kept_.size() > kMostEntries; kept_.pop_back()) bytes_ -= kept_.back().size;
  }

 private:
  static constexpr size_t kMostEntries = 32;
  std::mutex mutex_;
  std::list<PreparedWeights> kept_;  // used last, first
  size_t bytes_ = 0;
};

}  // namespace hamiltorch
