// Rollouts in the extended phase space on a stream: their kernels, and the entry points.
#include "block_launch.h"
#include "extended_adjoint.h"
#include "extended_forward.h"
#include "extended_task.h"

namespace hamiltorch {
namespace {

template <template <class> class Walk, class T, class Arrays>
__global__ void __launch_bounds__(kThreads, 1)
    extended_kernel(const __grid_constant__ ExtendedTask<T> task, const __grid_constant__ Arrays arrays,
                    const __grid_constant__ StateLayout layout) {
  SoloTeam team;
  using Walked = BlockEngine<SoloTeam, T>;
  Walked engine(team, task, layout);
  Walk<Walked>(engine, task, arrays).run();
}

}  // namespace

template <class T>
int cuda_extended_forward(const CudaBlockPlan& plan, const CudaExtendedRollout<T>& rollout,
                          const ExtendedArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<T>(extended_kernel<ExtendedForward, T, ExtendedArrays<T>>, plan, make_call(plan, rollout, workspace),
                      arrays, device, stream);
}

template <class T>
int cuda_extended_adjoint(const CudaBlockPlan& plan, const CudaExtendedRollout<T>& rollout,
                          const ExtendedAdjointArrays<T>& arrays, void* workspace, int device, void* stream) {
  return run_block<T>(extended_kernel<ExtendedAdjoint, T, ExtendedAdjointArrays<T>>, plan,
                      make_call(plan, rollout, workspace), arrays, device, stream);
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
