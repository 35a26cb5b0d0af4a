// Rollouts in the extended phase space on a stream: the entry points.
#include "block_launch.h"
#include "extended_adjoint.h"
#include "extended_forward.h"
#include "extended_task.h"

namespace hamiltorch {

template <class T>
int cuda_extended_forward(const CudaBlockPlan& plan, const CudaExtendedRollout<T>& rollout,
                          const ExtendedArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<ExtendedForward, T>(plan, make_call(plan, rollout, workspace), arrays, device, stream);
}

template <class T>
int cuda_extended_adjoint(const CudaBlockPlan& plan, const CudaExtendedRollout<T>& rollout,
                          const ExtendedAdjointArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<ExtendedAdjoint, T>(plan, make_call(plan, rollout, workspace), arrays, device, stream);
}

template int cuda_extended_forward(const CudaBlockPlan&, const CudaExtendedRollout<float>&,
                                   const ExtendedArrays<float>&, void*, int, void*);
template int cuda_extended_forward(const CudaBlockPlan&, const CudaExtendedRollout<double>&,
                                   const ExtendedArrays<double>&, void*, int, void*);
template int cuda_extended_adjoint(const CudaBlockPlan&, const CudaExtendedRollout<float>&,
                                   const ExtendedAdjointArrays<float>&, void*, int, void*);
template int cuda_extended_adjoint(const CudaBlockPlan&, const CudaExtendedRollout<double>&,
                                   const ExtendedAdjointArrays<double>&, void*, int, void*);

}  // namespace hamiltorch
