#include <atomic>
#include <cstdlib>
#include <cstring>

#include "implementation.h"

#if defined(HAMILTORCH_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace hamiltorch {
namespace {

constexpr int kMostImplementations = 5;
std::atomic<const Implementation*> active{nullptr};

#if defined(HAMILTORCH_AMX)
// Whether the processor multiplies tiles of bfloat16 and the system lets this process: their registers are so large
// that Linux wants to be asked before it saves them.
bool may_use_amx() {
  constexpr unsigned kAmxBfloat16 = 1u << 22, kAmxTile = 1u << 24;  // of CPUID leaf 7's edx
  constexpr long kAskForState = 0x1023, kTileData = 18;             // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  return (edx & kAmxBfloat16) && (edx & kAmxTile) && syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
}
#endif

const Implementation* find(const char* name) {
  const Implementation* all[kMostImplementations];
  const int count = supported_implementations(all, kMostImplementations);
  for (int i = 0; i < count; ++i)
    if (std::strcmp(all[i]->name, name) == 0) return all[i];
  return nullptr;
}

const Implementation* detect() {
  const Implementation* all[kMostImplementations];
  const int count = supported_implementations(all, kMostImplementations);
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
#if defined(HAMILTORCH_X86)  // the other instruction sets are built
  __builtin_cpu_init();
  add(kAvx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  add(kAvx512, avx512);
  const bool bfloat16 = avx512 && __builtin_cpu_supports("avx512bf16");
  add(kAvx512Bf16, bfloat16);
#if defined(HAMILTORCH_AMX)
  static const bool amx = bfloat16 && may_use_amx();
  add(kAmx, amx);
#endif
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

bool supports_bfloat16() { return active_implementation().multiply_add_bfloat16 != nullptr; }

template <class T>
int64_t tape_size(const Rollout<T>& rollout) {
  return kernels_of<T>(active_implementation()).tape_size(rollout);
}

template <class T>
Sizes forward_sizes(const Rollout<T>& rollout, bool taped, int threads) {
  return kernels_of<T>(active_implementation()).forward_sizes(rollout, taped, threads);
}

template <class T>
Sizes backward_sizes(const Rollout<T>& rollout, int threads) {
  return kernels_of<T>(active_implementation()).backward_sizes(rollout, threads);
}

template <class T>
Status rollout_forward(const Rollout<T>& rollout, const ForwardArrays<T>& arrays, int threads, const Prepared& prepared,
                       void* workspace, size_t workspace_size) {
  return kernels_of<T>(active_implementation()).forward(rollout, arrays, threads, prepared, workspace, workspace_size);
}

template <class T>
Status rollout_backward(const Rollout<T>& rollout, const BackwardArrays<T>& arrays, int threads,
                        const Prepared& prepared, void* workspace, size_t workspace_size) {
  return kernels_of<T>(active_implementation()).backward(rollout, arrays, threads, prepared, workspace, workspace_size);
}

template <class T>
Sizes del_sizes(const DelRollout<T>& rollout, int threads) {
  return kernels_of<T>(active_implementation()).del_sizes(rollout, threads);
}

template <class T>
Status del_forward(const DelRollout<T>& rollout, const DelArrays<T>& arrays, int threads, const Prepared& prepared,
                   void* workspace, size_t workspace_size) {
  return kernels_of<T>(active_implementation())
      .del_forward(rollout, arrays, threads, prepared, workspace, workspace_size);
}

template <class T>
Status del_adjoint(const DelRollout<T>& rollout, const DelAdjointArrays<T>& arrays, int threads,
                   const Prepared& prepared, void* workspace, size_t workspace_size) {
  return kernels_of<T>(active_implementation())
      .del_adjoint(rollout, arrays, threads, prepared, workspace, workspace_size);
}

template <class T>
Sizes del_gradient_sizes(const DelRollout<T>& rollout, int threads) {
  return kernels_of<T>(active_implementation()).del_gradient_sizes(rollout, threads);
}

template <class T>
Status del_gradient(const DelRollout<T>& rollout, const DelGradientArrays<T>& arrays, int threads,
                    const Prepared& prepared, void* workspace, size_t workspace_size) {
  return kernels_of<T>(active_implementation())
      .del_gradient(rollout, arrays, threads, prepared, workspace, workspace_size);
}

template int64_t tape_size(const Rollout<float>&);
template int64_t tape_size(const Rollout<double>&);
template Sizes forward_sizes(const Rollout<float>&, bool, int);
template Sizes forward_sizes(const Rollout<double>&, bool, int);
template Sizes backward_sizes(const Rollout<float>&, int);
template Sizes backward_sizes(const Rollout<double>&, int);
template Status rollout_forward(const Rollout<float>&, const ForwardArrays<float>&, int, const Prepared&, void*,
                                size_t);
template Status rollout_forward(const Rollout<double>&, const ForwardArrays<double>&, int, const Prepared&, void*,
                                size_t);
template Status rollout_backward(const Rollout<float>&, const BackwardArrays<float>&, int, const Prepared&, void*,
                                 size_t);
template Status rollout_backward(const Rollout<double>&, const BackwardArrays<double>&, int, const Prepared&, void*,
                                 size_t);
template Sizes del_sizes(const DelRollout<float>&, int);
template Sizes del_sizes(const DelRollout<double>&, int);
template Status del_forward(const DelRollout<float>&, const DelArrays<float>&, int, const Prepared&, void*, size_t);
template Status del_forward(const DelRollout<double>&, const DelArrays<double>&, int, const Prepared&, void*, size_t);
template Status del_adjoint(const DelRollout<float>&, const DelAdjointArrays<float>&, int, const Prepared&, void*,
                            size_t);
template Status del_adjoint(const DelRollout<double>&, const DelAdjointArrays<double>&, int, const Prepared&, void*,
                            size_t);
template Sizes del_gradient_sizes(const DelRollout<float>&, int);
template Sizes del_gradient_sizes(const DelRollout<double>&, int);
template Status del_gradient(const DelRollout<float>&, const DelGradientArrays<float>&, int, const Prepared&, void*,
                             size_t);
template Status del_gradient(const DelRollout<double>&, const DelGradientArrays<double>&, int, const Prepared&, void*,
                             size_t);

}  // namespace hamiltorch
