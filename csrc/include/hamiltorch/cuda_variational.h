// Rollouts by the discrete Euler-Lagrange equations (hamiltorch/variational.h) on a GPU, and the multipliers of their
// adjoint: calls as in hamiltorch/cuda_block.h. What else the gradient needs is a few large products, which the caller
// gives to its framework's library.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "hamiltorch/cuda_block.h"
#include "hamiltorch/variational.h"

namespace hamiltorch {

struct CudaDelSize {
  int64_t dim;                  // d
  std::vector<int64_t> widths;  // hidden layers, fewer than kMostHidden
  int64_t batch;
  bool is_double;
};

// The plan for a device so described; false, with `why` saying what is missing, where there is none.
bool cuda_del_plan(const CudaDelSize& size, const GpuDescription& gpu, CudaBlockPlan* plan, std::string* why);

// The first matrix is W_1y's, the last one W_1x's.
template <class T>
struct CudaDelRollout : CudaBlockRollout<T> {
  const T* kinetic;   // m / dt, [dim]
  const T* friction;  // f / 2, [dim]
  const T* diagonal;  // -(m / dt + f / 2), [dim]
  const T* inverse;   // 1 / diagonal, [dim]
};

// A CUDA error code, 0 for success.
template <class T>
int cuda_del_forward(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, const DelArrays<T>& arrays,
                     void* workspace, int device, void* stream);
template <class T>
int cuda_del_adjoint(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, const DelAdjointArrays<T>& arrays,
                     void* workspace, int device, void* stream);

}  // namespace hamiltorch
