// A rollout in layer-1 space (hamiltorch/cuda_rollout.h) as the kernels see it: plain data that travels as a parameter.
#pragma once
#include "hamiltorch/cuda_rollout.h"
#include "layout.h"

namespace hamiltorch {

template <class T>
struct Chain {
  Activation activation;
  const T* weights[kMostHidden];               // matrix 0: G [width_0][width_0]; matrix l: [width_l][width_(l - 1)]
  const T* biases[kMostHidden];                // of layer l >= 1: [width_l]; biases[0] unused, it is in s
  const T* head;                               // [width_last]
  const void* packed[kMostHidden];             // fragments of the matrix, in units of 16 x 16: [row tile][column tile]
  const void* packed_transposed[kMostHidden];  // of its transpose: [column tile][row tile]
  Stage stages[kMostStages];
  int stage_count;
  const T* dt;  // [1]
  int64_t steps, batch;
  T* exchange;  // grid teams: [teams][members][halves * half_size]
  T* vectors;   // where not in shared memory: [teams][members][vectors_size]
};

}  // namespace hamiltorch
