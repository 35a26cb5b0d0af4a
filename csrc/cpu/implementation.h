// The kernels as compiled for one instruction set: an object with a name that users can print and override.
#pragma once
#include "hamiltorch/discrete_gradient.h"
#include "hamiltorch/extended.h"
#include "hamiltorch/implicit.h"
#include "hamiltorch/rollout.h"
#include "hamiltorch/separable.h"
#include "hamiltorch/variational.h"

namespace hamiltorch {

// Runs a call's task on its arrays in this workspace.
template <class Task, class Arrays>
using Kernel = Status (*)(const Task&, const Arrays&, int threads, const Prepared&, void* workspace, size_t size);

template <class T>
struct Kernels {
  int64_t (*tape_size)(const Rollout<T>&);
  Sizes (*forward_sizes)(const Rollout<T>&, bool taped, int threads);
  Sizes (*backward_sizes)(const Rollout<T>&, int threads);
  Kernel<Rollout<T>, ForwardArrays<T>> forward;
  Kernel<Rollout<T>, BackwardArrays<T>> backward;
  Sizes (*del_sizes)(const DelRollout<T>&, int threads);
  Kernel<DelRollout<T>, DelArrays<T>> del_forward;
  Kernel<DelRollout<T>, DelAdjointArrays<T>> del_adjoint;
  Sizes (*del_gradient_sizes)(const DelRollout<T>&, int threads);
  Kernel<DelRollout<T>, DelGradientArrays<T>> del_gradient;
  Sizes (*implicit_sizes)(const ImplicitRollout<T>&, bool on_states, int threads);
  Kernel<ImplicitRollout<T>, ImplicitArrays<T>> implicit_forward;
  Kernel<ImplicitRollout<T>, ImplicitAdjointArrays<T>> implicit_adjoint;
  Sizes (*implicit_gradient_sizes)(const ImplicitRollout<T>&, int threads);
  Kernel<ImplicitRollout<T>, ImplicitGradientArrays<T>> implicit_gradient;
  Sizes (*separable_sizes)(const SeparableRollout<T>&, bool back, int threads);
  Kernel<SeparableRollout<T>, SeparableArrays<T>> separable_forward;
  Kernel<SeparableRollout<T>, SeparableAdjointArrays<T>> separable_adjoint;
  Sizes (*separable_gradient_sizes)(const SeparableRollout<T>&, Half, int threads);
  Status (*separable_gradient)(const SeparableRollout<T>&, Half, const SeparableGradientArrays<T>&, int threads,
                               const Prepared&, void* workspace, size_t size);
  Sizes (*extended_sizes)(const ExtendedRollout<T>&, bool back, int threads);
  Kernel<ExtendedRollout<T>, ExtendedArrays<T>> extended_forward;
  Kernel<ExtendedRollout<T>, ExtendedAdjointArrays<T>> extended_adjoint;
  Sizes (*discrete_sizes)(const DiscreteRollout<T>&, bool back, int threads);
  Kernel<DiscreteRollout<T>, DiscreteArrays<T>> discrete_forward;
  Kernel<DiscreteRollout<T>, DiscreteAdjointArrays<T>> discrete_adjoint;
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
