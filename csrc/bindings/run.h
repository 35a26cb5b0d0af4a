// The memory of a call, kept between calls, and the call itself without the GIL.
#pragma once
#include <pybind11/pybind11.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "../cpu/implementation.h"
#include "hamiltorch/rollout.h"
#include "hamiltorch/variational.h"
#include "prepared_pool.h"

namespace hamiltorch {

// One buffer per calling thread, kept between calls while it is of modest size: fresh pages cost more than small
// rollouts do.
class Workspace {
 public:
  void* at_least(size_t size) {
    if (size > size_) {
      buffer_.reset();
      size_ = 0;
      const size_t rounded = (size + 4095) / 4096 * 4096;
      buffer_.reset(std::aligned_alloc(4096, rounded));
      if (!buffer_) throw std::bad_alloc();
      size_ = rounded;
    }
    return buffer_.get();
  }

  void trim() {
    if (size_ <= kKept) return;
    buffer_.reset();
    size_ = 0;
  }

 private:
  static constexpr size_t kKept = size_t{64} << 20;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> buffer_;
  size_t size_ = 0;
};

inline Workspace& workspace() {
  static thread_local Workspace instance;
  return instance;
}

// What tells prepared weights apart.
template <class T>
std::string prepared_key(const Implementation& implementation, const Mlp<T>& network, bool bfloat16, int32_t layout) {
  std::string bytes;
  bytes.reserve(static_cast<size_t>(5 + 2 * network.hidden) * sizeof(int64_t));
  const auto add = [&](int64_t number) { bytes.append(reinterpret_cast<const char*>(&number), sizeof(number)); };
  add(layout | static_cast<int32_t>(sizeof(T)) << 8 | bfloat16 << 16);
  add(reinterpret_cast<int64_t>(&implementation));
  add(network.dim);
  add(network.condition_dim);
  for (int64_t l = 0; l < network.hidden; ++l) add(network.widths[l]);
  for (int64_t l = 0; l <= network.hidden; ++l) add(reinterpret_cast<int64_t>(network.weights[l]));
  return bytes;
}

// Finds the memory and runs. `key` tells apart all that is prepared in it.
template <class Run>
void run(std::string key, const Sizes& sizes, const Run& run) {
  Workspace& memory = workspace();
  PreparedWeights weights = PreparedPool::instance().take(std::move(key), sizes.prepared);
  const Prepared prepared = {weights.memory.get(), weights.filled};
  if (run(prepared, memory.at_least(sizes.workspace), sizes.workspace) != Status::kOk)
    throw std::runtime_error("the workspace must be as large as the kernels asked for");
  PreparedPool::instance().give_back(std::move(weights));
  memory.trim();
}

// A kernel of one network. A call asks for the instruction set once: another thread may choose another meanwhile.
template <class T, class Task, class Arrays>
void run(const Implementation& implementation, const Mlp<T>& network, bool bfloat16, const Sizes& sizes,
         Kernel<Task, Arrays> kernel, const Task& task, const Arrays& arrays, int threads) {
  run(prepared_key(implementation, network, bfloat16, sizes.layout), sizes,
      [&](const Prepared& prepared, void* memory, size_t size) {
        return kernel(task, arrays, threads, prepared, memory, size);
      });
}

// Asks for large pages behind an array that is about to be written: a large result is fresh memory, and to have it a
// small page at a time takes long.
inline void prefer_large_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  if (data && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish, no more
#else
  static_cast<void>(data), static_cast<void>(bytes);
#endif
}

template <class T>
void run_forward(const Implementation& implementation, const Rollout<T>& rollout, const ForwardArrays<T>& arrays,
                 int threads) {
  const pybind11::gil_scoped_release release;
  const Kernels<T>& kernels = kernels_of<T>(implementation);
  const int64_t states = rollout.batch * (rollout.steps + 1);
  prefer_large_pages(arrays.trajectory, static_cast<size_t>(states * rollout.network.dim) * sizeof(T));
  run(implementation, rollout.network, rollout.bfloat16,
      kernels.forward_sizes(rollout, arrays.tape != nullptr, threads), kernels.forward, rollout, arrays, threads);
}

template <class T>
void run_backward(const Implementation& implementation, const Rollout<T>& rollout, const BackwardArrays<T>& arrays,
                  int threads) {
  const pybind11::gil_scoped_release release;
  const Kernels<T>& kernels = kernels_of<T>(implementation);
  run(implementation, rollout.network, rollout.bfloat16, kernels.backward_sizes(rollout, threads), kernels.backward,
      rollout, arrays, threads);
}

// One of the three calls of hamiltorch/variational.h.
template <class T, class Arrays>
void run_del(const Implementation& implementation, const DelRollout<T>& rollout, const Arrays& arrays, int threads,
             Sizes (*Kernels<T>::*sizes)(const DelRollout<T>&, int),
             Kernel<DelRollout<T>, Arrays> Kernels<T>::* kernel) {
  const pybind11::gil_scoped_release release;
  const Kernels<T>& kernels = kernels_of<T>(implementation);
  run(implementation, rollout.network, false, (kernels.*sizes)(rollout, threads), kernels.*kernel, rollout, arrays,
      threads);
}

}  // namespace hamiltorch
