// A rollout in layer-1 space (hamiltorch/cuda_rollout.h) as the kernels see it: plain data that travels as a parameter.
#pragma once
#include "parameters.h"

namespace hamiltorch {

// Matrix 0 is G.
template <class T>
struct Chain : Parameters<T> {
  Stage stages[kMostStages];
  int stage_count;
  const T* dt;  // [1]
  int64_t steps, batch;
};

}  // namespace hamiltorch
