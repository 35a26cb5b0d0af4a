// Rollouts by the discrete gradient on a stream: their kernels, and the entry points.
#include "block_launch.h"
#include "discrete_adjoint.h"
#include "discrete_forward.h"
#include "discrete_task.h"

namespace hamiltorch {
namespace {

template <template <class> class Walk, class T, class Arrays>
__global__ void __launch_bounds__(kThreads, 1)
    discrete_kernel(const __grid_constant__ DiscreteTask<T> task, const __grid_constant__ Arrays arrays,
                    const __grid_constant__ StateLayout layout) {
  SoloTeam team;
  using Walked = BlockEngine<SoloTeam, T>;
  Walked engine(team, task, layout);
  Walk<Walked>(engine, task, arrays).run();
}

}  // namespace

template <class T>
int cuda_discrete_forward(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                          const DiscreteArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<T>(discrete_kernel<DiscreteForward, T, DiscreteArrays<T>>, plan, make_call(plan, rollout, workspace),
                      arrays, device, stream);
}

template <class T>
int cuda_discrete_adjoint(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                          const DiscreteAdjointArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<T>(discrete_kernel<DiscreteAdjoint, T, DiscreteAdjointArrays<T>>, plan,
                      make_call(plan, rollout, workspace), arrays, device, stream);
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
