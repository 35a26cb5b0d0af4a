// Rollouts of H = T(p) + V(q) (hamiltorch/separable.h) on a GPU, and the directions of their adjoint: calls as in
// hamiltorch/cuda_block.h. What else the gradient needs is a few large products, which the caller gives to its
// framework's library.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "hamiltorch/cuda_block.h"
#include "hamiltorch/separable.h"

namespace hamiltorch {

struct CudaSeparableSize {
  int64_t dim;  // d, of q and of p
  std::vector<int64_t>
      widths[2];  // of each Half: hidden layers, fewer than kMostHidden; T's are none where it has masses
  int64_t batch;
  bool is_double;
};

// The plan for a device so described; false, with `why` saying what is missing, where there is none.
bool cuda_separable_plan(const CudaSeparableSize& size, const GpuDescription& gpu, CudaBlockPlan* plan,
                         std::string* why);

// The networks have one matrix for their state, W_1, and no other: as many as hidden layers. dt, steps and batch are
// read of V; no step is an equation, so tolerance and max_iterations are not read.
template <class T>
struct CudaSeparableRollout {
  CudaBlockRollout<T> networks[2];  // of each Half; T's has no widths where there are masses
  const T* inverse_mass;            // 1 / m, [d]; null where T is a network
  std::vector<Stage> stages;        // at most kMostStages, each moving one half, at_q = at_p = 0
};

// A CUDA error code, 0 for success.
template <class T>
int cuda_separable_forward(const CudaBlockPlan& plan, const CudaSeparableRollout<T>& rollout,
                           const SeparableArrays<T>& arrays, void* workspace, int device, void* stream);
template <class T>
int cuda_separable_adjoint(const CudaBlockPlan& plan, const CudaSeparableRollout<T>& rollout,
                           const SeparableAdjointArrays<T>& arrays, void* workspace, int device, void* stream);

}  // namespace hamiltorch
