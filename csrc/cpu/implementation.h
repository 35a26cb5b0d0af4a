// The kernels as compiled for one instruction set: an object with a name that users can print and override.
#pragma once
#include "hamiltorch/discrete_gradient.h"
#include "hamiltorch/extended.h"
#include "hamiltorch/implicit.h"
#include "hamiltorch/rollout.h"
#include "hamiltorch/separable.h"
#include "hamiltorch/variational.h"

namespace hamiltorch {

template <class T>
struct Kernels {
  int64_t (*tape_size)(const Rollout<T>&);
  Sizes (*forward_sizes)(const Rollout<T>&, bool taped, int threads);
  Sizes (*backward_sizes)(const Rollout<T>&, int threads);
  Status (*forward)(const Rollout<T>&, const ForwardArrays<T>&, int threads, const Prepared&, void* workspace,
                    size_t size);
  Status (*backward)(const Rollout<T>&, const BackwardArrays<T>&, int threads, const Prepared&, void* workspace,
                     size_t size);
  Sizes (*del_sizes)(const DelRollout<T>&, int threads);
  Status (*del_forward)(const DelRollout<T>&, const DelArrays<T>&, int threads, const Prepared&, void* workspace,
                        size_t size);
  Status (*del_adjoint)(const DelRollout<T>&, const DelAdjointArrays<T>&, int threads, const Prepared&, void* workspace,
                        size_t size);
  Sizes (*del_gradient_sizes)(const DelRollout<T>&, int threads);
  Status (*del_gradient)(const DelRollout<T>&, const DelGradientArrays<T>&, int threads, const Prepared&,
                         void* workspace, size_t size);
  Sizes (*implicit_sizes)(const ImplicitRollout<T>&, bool on_states, int threads);
  Status (*implicit_forward)(const ImplicitRollout<T>&, const ImplicitArrays<T>&, int threads, const Prepared&,
                             void* workspace, size_t size);
  Status (*implicit_adjoint)(const ImplicitRollout<T>&, const ImplicitAdjointArrays<T>&, int threads, const Prepared&,
                             void* workspace, size_t size);
  Sizes (*implicit_gradient_sizes)(const ImplicitRollout<T>&, int threads);
  Status (*implicit_gradient)(const ImplicitRollout<T>&, const ImplicitGradientArrays<T>&, int threads, const Prepared&,
                              void* workspace, size_t size);
  Sizes (*separable_sizes)(const SeparableRollout<T>&, bool back, int threads);
  Status (*separable_forward)(const SeparableRollout<T>&, const SeparableArrays<T>&, int threads, const Prepared&,
                              void* workspace, size_t size);
  Status (*separable_adjoint)(const SeparableRollout<T>&, const SeparableAdjointArrays<T>&, int threads,
                              const Prepared&, void* workspace, size_t size);
  Sizes (*separable_gradient_sizes)(const SeparableRollout<T>&, Half, int threads);
  Status (*separable_gradient)(const SeparableRollout<T>&, Half, const SeparableGradientArrays<T>&, int threads,
                               const Prepared&, void* workspace, size_t size);
  Sizes (*extended_sizes)(const ExtendedRollout<T>&, bool back, int threads);
  Status (*extended_forward)(const ExtendedRollout<T>&, const ExtendedArrays<T>&, int threads, const Prepared&,
                             void* workspace, size_t size);
  Status (*extended_adjoint)(const ExtendedRollout<T>&, const ExtendedAdjointArrays<T>&, int threads, const Prepared&,
                             void* workspace, size_t size);
  Sizes (*discrete_sizes)(const DiscreteRollout<T>&, bool back, int threads);
  Status (*discrete_forward)(const DiscreteRollout<T>&, const DiscreteArrays<T>&, int threads, const Prepared&,
                             void* workspace, size_t size);
  Status (*discrete_adjoint)(const DiscreteRollout<T>&, const DiscreteAdjointArrays<T>&, int threads, const Prepared&,
                             void* workspace, size_t size);
  // The activation and its two derivatives at each of `count` numbers, for tests.
  void (*activate)(Activation, const T* a, int64_t count, T* value, T* first, T* second);
};

inline constexpr int64_t kReadUnit = 128;

struct Implementation {
  const char* name;
  const Kernels<float>* f32;
  const Kernels<double>* f64;
  // Run `iterations` of independent multiply-adds, of float32 and of bfloat16 pairs; return how many floating-point
  // operations that was. The second is null where there are no such pairs.
  double (*multiply_add)(int64_t iterations);
  double (*multiply_add_bfloat16)(int64_t iterations);
  // Reads and sums `count` floats, a multiple of kReadUnit, so many times forth and back: as a gradient goes through
  // its layers, so that what was read last may still be in a near cache.
  float (*read)(const float* values, int64_t count, int64_t times);
};

template <class T>
const Kernels<T>& kernels_of(const Implementation& implementation) {
  if constexpr (sizeof(T) == sizeof(float))
    return *implementation.f32;
  else
    return *implementation.f64;
}

extern const Implementation kBaseline;
#if defined(__x86_64__)
extern const Kernels<double> kAvx512Double;  // of all from AVX-512 on
extern const Implementation kAvx2;
extern const Implementation kAvx512;
extern const Implementation kAvx512Bf16;
extern const Implementation kAmx;
#endif

// The implementations that this processor runs, the fastest last.
int supported_implementations(const Implementation** out, int capacity);
// The one in use: the last that HAMILTORCH_MAX_ISA allows, unless `use_implementation` chose another.
const Implementation& active_implementation();
// False where no supported implementation has that name.
bool use_implementation(const char* name);

}  // namespace hamiltorch
