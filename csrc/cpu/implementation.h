// The kernels as compiled for one instruction set: an object with a name that users can print and override.
#pragma once
#include "hamiltorch/rollout.h"

namespace hamiltorch {

template <class T>
struct Kernels {
  size_t (*forward_workspace)(const Rollout<T>&, int threads);
  size_t (*backward_workspace)(const Rollout<T>&, int threads);
  Status (*forward)(const Rollout<T>&, const ForwardArrays<T>&, int threads, void* workspace, size_t size);
  Status (*backward)(const Rollout<T>&, const BackwardArrays<T>&, int threads, void* workspace, size_t size);
};

struct Implementation {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
  // Runs `iterations` of independent float32 multiply-adds; returns how many floating-point operations that was.
  double (*multiply_add)(int64_t iterations);
};

extern const Implementation kBaseline;
#if defined(__x86_64__)
extern const Implementation kAvx2;
extern const Implementation kAvx512;
#endif

// The implementations that this processor runs, widest vectors last.
int supported_implementations(const Implementation** out, int capacity);
// The one in use: the widest that HAMILTORCH_MAX_ISA allows, unless `use_implementation` chose another.
const Implementation& active_implementation();
// False where no supported implementation has that name.
bool use_implementation(const char* name);

}  // namespace hamiltorch
