// Stands in for csrc/cuda/separable.cu in tests.
#include "../cuda/separable_adjoint.h"
#include "../cuda/separable_forward.h"
#include "../cuda/separable_task.h"
#include "block.h"

namespace hamiltorch {

template <class T>
int cuda_separable_forward(const CudaBlockPlan& plan, const CudaSeparableRollout<T>& rollout,
                           const SeparableArrays<T>& arrays, void* workspace, int, void* stream) {
  return run_block<SeparableForward, T, SeparableEngines>(plan, make_call(plan, rollout, workspace), arrays, stream);
}

template <class T>
int cuda_separable_adjoint(const CudaBlockPlan& plan, const CudaSeparableRollout<T>& rollout,
                           const SeparableAdjointArrays<T>& arrays, void* workspace, int, void* stream) {
  return run_block<SeparableAdjoint, T, SeparableEngines>(plan, make_call(plan, rollout, workspace), arrays, stream);
}

template int cuda_separable_forward(const CudaBlockPlan&, const CudaSeparableRollout<float>&,
                                    const SeparableArrays<float>&, void*, int, void*);
template int cuda_separable_forward(const CudaBlockPlan&, const CudaSeparableRollout<double>&,
                                    const SeparableArrays<double>&, void*, int, void*);
template int cuda_separable_adjoint(const CudaBlockPlan&, const CudaSeparableRollout<float>&,
                                    const SeparableAdjointArrays<float>&, void*, int, void*);
template int cuda_separable_adjoint(const CudaBlockPlan&, const CudaSeparableRollout<double>&,
                                    const SeparableAdjointArrays<double>&, void*, int, void*);

}  // namespace hamiltorch
