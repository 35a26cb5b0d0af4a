// What GPU rollouts have in common of which a block takes eight samples through all steps, a warp each. Raw device
// pointers, a workspace and a stream; nothing is allocated and nothing waits, so calls can be captured. What depends on
// dt, the masses and the condition alone comes as arrays from the caller.
#pragma once
#include <cstdint>
#include <vector>

#include "hamiltorch/cuda_rollout.h"

namespace hamiltorch {

// Where a block finds things. One plan serves a rollout and its adjoint.
struct CudaBlockPlan {
  int weights;          // hamiltorch::Weights, packed
  bool vectors_global;  // the samples' vectors
  int blocks;
  int64_t shared_bytes;  // of a block
  int64_t workspace_bytes;
};

// A network of one state or two, of `dim` numbers each, and the size of a rollout.
template <class T>
struct CudaBlockRollout {
  int64_t dim;
  std::vector<int64_t> widths;
  Activation activation;
  // Matrix 0: the columns of W_1 that multiply one of the states, [width_0][dim]; then [width_l][width_(l - 1)]; of two
  // states the last one is that of the other, [width_0][dim].
  std::vector<const T*> weights;  // [hidden], of two states [hidden + 1]
  std::vector<const T*> biases;   // of layer l, [width_l]; the first is not read
  const T* head;                  // [width_last]
  const T* base;                  // b_1 + W_1c c: [batch][width_0], or with stride 0 [width_0]
  int64_t base_stride;
  const T* dt;  // [1]
  int64_t steps, batch;
  T tolerance;
  int64_t max_iterations;
};

}  // namespace hamiltorch
