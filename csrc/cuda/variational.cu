// Discrete Euler-Lagrange rollouts on a stream: the entry points.
#include "block_launch.h"
#include "variational_adjoint.h"
#include "variational_forward.h"
#include "variational_task.h"

namespace hamiltorch {

template <class T>
int cuda_del_forward(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, const DelArrays<T>& arrays,
                     void* workspace, int device, void* stream) {
  return run_block<DelForward, T>(plan, make_call(plan, rollout, workspace), arrays, device, stream);
}

template <class T>
int cuda_del_adjoint(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, const DelAdjointArrays<T>& arrays,
                     void* workspace, int device, void* stream) {
  return run_block<DelAdjoint, T>(plan, make_call(plan, rollout, workspace), arrays, device, stream);
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
