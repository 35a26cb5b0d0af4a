// Rollouts in Tao's extended phase space (hamiltorch/extended.h) on a GPU, and the directions of their adjoint: calls
// as in hamiltorch/cuda_block.h. What else the gradient needs is a few large products, which the caller gives to its
// framework's library.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "hamiltorch/cuda_block.h"
#include "hamiltorch/extended.h"

namespace hamiltorch {

struct CudaExtendedSize {
  int64_t dim;                  // d, of q and of p
  std::vector<int64_t> widths;  // hidden layers, fewer than kMostHidden
  int64_t batch;
  bool is_double;
};

// The plan for a device so described; false, with `why` saying what is missing, where there is none.
bool cuda_extended_plan(const CudaExtendedSize& size, const GpuDescription& gpu, CudaBlockPlan* plan, std::string* why);

// The first matrix is W_1q's, the last one W_1p's. No step is an equation: tolerance and max_iterations are not read.
template <class T>
struct CudaExtendedRollout : CudaBlockRollout<T> {
  double binding;
};

// A CUDA error code, 0 for success.
template <class T>
int cuda_extended_forward(const CudaBlockPlan& plan, const CudaExtendedRollout<T>& rollout,
                          const ExtendedArrays<T>& arrays, void* workspace, int device, void* stream);
template <class T>
int cuda_extended_adjoint(const CudaBlockPlan& plan, const CudaExtendedRollout<T>& rollout,
                          const ExtendedAdjointArrays<T>& arrays, void* workspace, int device, void* stream);

}  // namespace hamiltorch
