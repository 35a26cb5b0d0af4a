// Rollouts by the discrete gradient on a stream: the entry points.
#include "block_launch.h"
#include "discrete_adjoint.h"
#include "discrete_forward.h"
#include "discrete_task.h"

namespace hamiltorch {

template <class T>
int cuda_discrete_forward(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                          const DiscreteArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<DiscreteForward, T>(plan, make_call(plan, rollout, workspace), arrays, device, stream);
}

template <class T>
int cuda_discrete_adjoint(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                          const DiscreteAdjointArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<DiscreteAdjoint, T>(plan, make_call(plan, rollout, workspace), arrays, device, stream);
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
