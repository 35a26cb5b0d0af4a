// Rollouts by implicit stages on a stream: the entry points.
#include "block_launch.h"
#include "implicit_adjoint.h"
#include "implicit_forward.h"
#include "implicit_task.h"

namespace hamiltorch {

template <class T>
int cuda_implicit_forward(const CudaBlockPlan& plan, const CudaImplicitRollout<T>& rollout,
                          const ImplicitArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<ImplicitForward, T>(plan, make_call(plan, rollout, workspace), arrays, device, stream);
}

template <class T>
int cuda_implicit_adjoint(const CudaBlockPlan& plan, const CudaImplicitRollout<T>& rollout,
                          const ImplicitAdjointArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<ImplicitAdjoint, T>(plan, make_call(plan, rollout, workspace), arrays, device, stream);
}

template int cuda_implicit_forward(const CudaBlockPlan&, const CudaImplicitRollout<float>&,
                                   const ImplicitArrays<float>&, void*, int, void*);
template int cuda_implicit_forward(const CudaBlockPlan&, const CudaImplicitRollout<double>&,
                                   const ImplicitArrays<double>&, void*, int, void*);
template int cuda_implicit_adjoint(const CudaBlockPlan&, const CudaImplicitRollout<float>&,
                                   const ImplicitAdjointArrays<float>&, void*, int, void*);
template int cuda_implicit_adjoint(const CudaBlockPlan&, const CudaImplicitRollout<double>&,
                                   const ImplicitAdjointArrays<double>&, void*, int, void*);

}  // namespace hamiltorch
