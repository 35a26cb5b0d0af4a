// Discrete Euler-Lagrange rollouts on a stream: their kernels, and the entry points.
#include "block_launch.h"
#include "variational_adjoint.h"
#include "variational_forward.h"
#include "variational_task.h"

namespace hamiltorch {
namespace {

template <template <class> class Walk, class T, class Arrays>
__global__ void __launch_bounds__(kThreads, 1)
    del_kernel(const __grid_constant__ DelTask<T> task, const __grid_constant__ Arrays arrays,
               const __grid_constant__ StateLayout layout) {
  SoloTeam team;
  using Walked = BlockEngine<SoloTeam, T>;
  Walked engine(team, task, layout);
  Walk<Walked>(engine, task, arrays).run();
}

}  // namespace

template <class T>
int cuda_del_forward(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, const DelArrays<T>& arrays,
                     void* workspace, int device, void* stream) {
  return run_block<T>(del_kernel<DelForward, T, DelArrays<T>>, plan, make_call(plan, rollout, workspace), arrays,
                      device, stream);
}

template <class T>
int cuda_del_adjoint(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, const DelAdjointArrays<T>& arrays,
                     void* workspace, int device, void* stream) {
  return run_block<T>(del_kernel<DelAdjoint, T, DelAdjointArrays<T>>, plan, make_call(plan, rollout, workspace), arrays,
                      device, stream);
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
