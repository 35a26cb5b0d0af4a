// Rollouts by the discrete gradient (hamiltorch/discrete_gradient.h) on a GPU, and what their adjoint leaves: calls as
// in hamiltorch/cuda_block.h. What else the gradient needs is a few large products, which the caller gives to its
// framework's library.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "hamiltorch/cuda_block.h"
#include "hamiltorch/discrete_gradient.h"

namespace hamiltorch {

struct CudaDiscreteSize {
  int64_t dim;                  // d, of q and of p
  std::vector<int64_t> widths;  // hidden layers, fewer than kMostHidden
  int64_t batch;
  bool is_double;
};

// The plan for a device so described; false, with `why` saying what is missing, where there is none.
bool cuda_discrete_plan(const CudaDiscreteSize& size, const GpuDescription& gpu, CudaBlockPlan* plan, std::string* why);

// The first matrix is W_1q's, the last one W_1p's. Ports as in DiscreteRollout.
template <class T>
struct CudaDiscreteRollout : CudaBlockRollout<T> {
  const T* head_bias;    // [1]
  const T* dissipation;  // L, [2 dim][columns], or its diagonal, [2 dim]; null: R = 0
  int64_t columns;       // 0: L is diagonal
  const T* forces;       // b, [batch][steps][2 dim]; null: none
  const T* decay;        // [dim]; null: no friction
};

// A CUDA error code, 0 for success.
template <class T>
int cuda_discrete_forward(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                          const DiscreteArrays<T>& arrays, void* workspace, int device, void* stream);
template <class T>
int cuda_discrete_adjoint(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                          const DiscreteAdjointArrays<T>& arrays, void* workspace, int device, void* stream);

}  // namespace hamiltorch
