// Stands in for csrc/cuda/discrete.cu in tests.
#include "../cuda/discrete_adjoint.h"
#include "../cuda/discrete_forward.h"
#include "../cuda/discrete_task.h"
#include "block.h"

namespace hamiltorch {

template <class T>
int cuda_discrete_forward(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                          const DiscreteArrays<T>& arrays, void* workspace, int, void* stream) {
  return run_block<DiscreteForward, T>(plan, make_call(plan, rollout, workspace), arrays, stream);
}

template <class T>
int cuda_discrete_adjoint(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                          const DiscreteAdjointArrays<T>& arrays, void* workspace, int, void* stream) {
  return run_block<DiscreteAdjoint, T>(plan, make_call(plan, rollout, workspace), arrays, stream);
}

template int cuda_discrete_forward(const CudaBlockPlan&, const CudaDiscreteRollout<float>&,
                                   const DiscreteArrays<float>&, void*, int, void*);
template int cuda_discrete_forward(const CudaBlockPlan&, const CudaDiscreteRollout<double>&,
                                   const DiscreteArrays<double>&, void*, int, void*);
template int cuda_discrete_adjoint(const CudaBlockPlan&, const CudaDiscreteRollout<float>&,
                                   const DiscreteAdjointArrays<float>&, void*, int, void*);
template int cuda_discrete_adjoint(const CudaBlockPlan&, const CudaDiscreteRollout<double>&,
                                   const DiscreteAdjointArrays<double>&, void*, int, void*);

}  // namespace hamiltorch
