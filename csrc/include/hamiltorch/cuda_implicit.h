// Rollouts by implicit stages (hamiltorch/implicit.h) on a GPU, and the directions of their adjoint: calls as in
// hamiltorch/cuda_block.h. What else the gradient needs is a few large products, which the caller gives to its
// framework's library.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "hamiltorch/cuda_block.h"
#include "hamiltorch/implicit.h"

namespace hamiltorch {

struct CudaImplicitSize {
  int64_t dim;                  // d, of q and of p
  std::vector<int64_t> widths;  // hidden layers, fewer than kMostHidden
  int64_t batch;
  int64_t stages;
  bool is_double;
};

// The plan for a device so described; false, with `why` saying what is missing, where there is none.
bool cuda_implicit_plan(const CudaImplicitSize& size, const GpuDescription& gpu, CudaBlockPlan* plan, std::string* why);

// The first matrix is W_1q's, the last one W_1p's.
template <class T>
struct CudaImplicitRollout : CudaBlockRollout<T> {
  std::vector<Stage> stages;  // at most kMostStages, each implicit and moving both halves
};

// A CUDA error code, 0 for success.
template <class T>
int cuda_implicit_forward(const CudaBlockPlan& plan, const CudaImplicitRollout<T>& rollout,
                          const ImplicitArrays<T>& arrays, void* workspace, int device, void* stream);
template <class T>
int cuda_implicit_adjoint(const CudaBlockPlan& plan, const CudaImplicitRollout<T>& rollout,
                          const ImplicitAdjointArrays<T>& arrays, void* workspace, int device, void* stream);

}  // namespace hamiltorch
