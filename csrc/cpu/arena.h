// Buffers cut from one workspace. Laid out twice by the same code: once to measure, once to hand out.
#pragma once
#include "vector.h"

namespace hamiltorch {
namespace {

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  // `count` elements, aligned to a cache line; null while measuring.
  template <class U>
  U* take(int64_t count) {
    char* const at = base_ ? base_ + used_ : nullptr;
    used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(U)), 64));
    return reinterpret_cast<U*>(at);
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace
}  // namespace hamiltorch
