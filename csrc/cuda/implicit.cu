// Rollouts by implicit stages on a stream: their kernels, and the entry points.
#include "block_launch.h"
#include "implicit_adjoint.h"
#include "implicit_forward.h"
#include "implicit_task.h"

namespace hamiltorch {
namespace {

template <template <class> class Walk, class T, class Arrays>
__global__ void __launch_bounds__(kThreads, 1)
    implicit_kernel(const __grid_constant__ ImplicitTask<T> task, const __grid_constant__ Arrays arrays,
                    const __grid_constant__ StateLayout layout) {
  SoloTeam team;
  using Walked = BlockEngine<SoloTeam, T>;
  Walked engine(team, task, layout);
  Walk<Walked>(engine, task, arrays).run();
}

}  // namespace

template <class T>
int cuda_implicit_forward(const CudaBlockPlan& plan, const CudaImplicitRollout<T>& rollout,
                          const ImplicitArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<T>(implicit_kernel<ImplicitForward, T, ImplicitArrays<T>>, plan, make_call(plan, rollout, workspace),
                      arrays, device, stream);
}

template <class T>
int cuda_implicit_adjoint(const CudaBlockPlan& plan, const CudaImplicitRollout<T>& rollout,
                          const ImplicitAdjointArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<T>(implicit_kernel<ImplicitAdjoint, T, ImplicitAdjointArrays<T>>, plan,
                      make_call(plan, rollout, workspace), arrays, device, stream);
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
