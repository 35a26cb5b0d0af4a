// Memory of results: malloc's, and where they are large, kept for the next one when the tensor is gone. malloc hands
// large memory back to the system at once, and to have it anew, page by page, can take as long on a virtual machine as
// the rollout that fills it.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>

namespace hamiltorch {

class ResultMemory {
 public:
  static ResultMemory& instance() {
    static ResultMemory* const memory = new ResultMemory;  // never destroyed: tensors may outlive the statics
    return *memory;
  }

  // Large memory begins where a large page does. Nobody waits here, as in prepared_pool.h.
  void* take(size_t size) {
    if (!keeps(size)) return allocate(64, size);
    {
      const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      for (auto part = kept_.begin(); lock && part != kept_.end(); ++part)
        if (part->size == rounded(size)) {
          void* const found = part->memory;
          bytes_ -= part->size;
          kept_.erase(part);
          return found;
        }
    }
    return allocate(kPage, size);
  }

  void give_back(void* memory, size_t size) noexcept {
    const std::unique_lock<std::mutex> lock =
        keeps(size) ? std::unique_lock(mutex_, std::try_to_lock) : std::unique_lock<std::mutex>();
    if (!lock) return std::free(memory);
    try {
      kept_.push_front({memory, rounded(size)});
    } catch (const std::bad_alloc&) {
      return std::free(memory);
    }
    for (bytes_ += rounded(size); bytes_ > kMost; kept_.pop_back()) {
      bytes_ -= kept_.back().size;
      std::free(kept_.back().memory);
    }
  }

 private:
  static constexpr size_t kLeast = size_t{32} << 20;  // what is smaller malloc keeps itself
  static constexpr size_t kMost = size_t{256} << 20;  // of one result, and of all that is kept
  static constexpr size_t kPage = size_t{2} << 20;

  static bool keeps(size_t size) { return size >= kLeast && size <= kMost; }
  static size_t rounded(size_t size) { return (size + kPage - 1) / kPage * kPage; }
  static void* allocate(size_t alignment, size_t size) {
    void* const memory = std::aligned_alloc(alignment, size / alignment * alignment + alignment);
    if (!memory) throw std::bad_alloc();
    return memory;
  }

  struct Part {
    void* memory;
    size_t size;
  };
  std::mutex mutex_;
  std::list<Part> kept_;  // used last, first
  size_t bytes_ = 0;
};

}  // namespace hamiltorch
