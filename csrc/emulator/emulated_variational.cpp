// Stands in for csrc/cuda/variational.cu in tests.
#include "../cuda/variational_adjoint.h"
#include "../cuda/variational_forward.h"
#include "../cuda/variational_task.h"
#include "block.h"

namespace hamiltorch {

template <class T>
int cuda_del_forward(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, const DelArrays<T>& arrays,
                     void* workspace, int, void* stream) {
  return run_block<DelForward, T>(plan, make_call(plan, rollout, workspace), arrays, stream);
}

template <class T>
int cuda_del_adjoint(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, const DelAdjointArrays<T>& arrays,
                     void* workspace, int, void* stream) {
  return run_block<DelAdjoint, T>(plan, make_call(plan, rollout, workspace), arrays, stream);
}

template int cuda_del_forward(const CudaBlockPlan&, const CudaDelRollout<float>&, const DelArrays<float>&, void*, int,
                              void*);
template int cuda_del_forward(const CudaBlockPlan&, const CudaDelRollout<double>&, const DelArrays<double>&, void*, int,
                              void*);
template int cuda_del_adjoint(const CudaBlockPlan&, const CudaDelRollout<float>&, const DelAdjointArrays<float>&, void*,
                              int, void*);
template int cuda_del_adjoint(const CudaBlockPlan&, const CudaDelRollout<double>&, const DelAdjointArrays<double>&,
                              void*, int, void*);

}  // namespace hamiltorch
