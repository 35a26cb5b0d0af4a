#include <atomic>
#include <cstdlib>
#include <cstring>

#include "implementation.h"

namespace hamiltorch {
namespace {

std::atomic<const Implementation*> active{nullptr};

const Implementation* find(const char* name) {
  const Implementation* all[3];
  const int count = supported_implementations(all, 3);
  for (int i = 0; i < count; ++i)
    if (std::strcmp(all[i]->name, name) == 0) return all[i];
  return nullptr;
}

const Implementation* detect() {
  const Implementation* all[3];
  const int count = supported_implementations(all, 3);
  if (const char* most = std::getenv("HAMILTORCH_MAX_ISA"))
    if (const Implementation* capped = find(most)) return capped;
  return all[count - 1];
}

}  // namespace

int supported_implementations(const Implementation** out, int capacity) {
  int count = 0;
  const auto add = [&](const Implementation& implementation, bool supported) {
    if (supported && count < capacity) out[count++] = &implementation;
  };
  add(kBaseline, true);
#if defined(__x86_64__)
  __builtin_cpu_init();
  add(kAvx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
  add(kAvx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"));
#endif
  return count;
}

const Implementation& active_implementation() {
  const Implementation* current = active.load(std::memory_order_acquire);
  if (current) return *current;
  const Implementation* detected = detect();
  return active.compare_exchange_strong(current, detected) ? *detected : *current;
}

bool use_implementation(const char* name) {
  const Implementation* found = find(name);
  if (found) active.store(found, std::memory_order_release);
  return found != nullptr;
}

template <class T>
const Kernels<T>& kernels_of(const Implementation& implementation) {
  if constexpr (sizeof(T) == sizeof(float))
    return implementation.f32;
  else
    return implementation.f64;
}

template <class T>
size_t forward_workspace(const Rollout<T>& rollout, int threads) {
  return kernels_of<T>(active_implementation()).forward_workspace(rollout, threads);
}

template <class T>
size_t backward_workspace(const Rollout<T>& rollout, int threads) {
  return kernels_of<T>(active_implementation()).backward_workspace(rollout, threads);
}

template <class T>
Status rollout_forward(const Rollout<T>& rollout, const ForwardArrays<T>& arrays, int threads, void* workspace,
                       size_t workspace_size) {
  return kernels_of<T>(active_implementation()).forward(rollout, arrays, threads, workspace, workspace_size);
}

template <class T>
Status rollout_backward(const Rollout<T>& rollout, const BackwardArrays<T>& arrays, int threads, void* workspace,
                        size_t workspace_size) {
  return kernels_of<T>(active_implementation()).backward(rollout, arrays, threads, workspace, workspace_size);
}

template size_t forward_workspace(const Rollout<float>&, int);
template size_t forward_workspace(const Rollout<double>&, int);
template size_t backward_workspace(const Rollout<float>&, int);
template size_t backward_workspace(const Rollout<double>&, int);
template Status rollout_forward(const Rollout<float>&, const ForwardArrays<float>&, int, void*, size_t);
template Status rollout_forward(const Rollout<double>&, const ForwardArrays<double>&, int, void*, size_t);
template Status rollout_backward(const Rollout<float>&, const BackwardArrays<float>&, int, void*, size_t);
template Status rollout_backward(const Rollout<double>&, const BackwardArrays<double>&, int, void*, size_t);

}  // namespace hamiltorch
