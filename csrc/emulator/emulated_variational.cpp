// Stands in for csrc/cuda/variational.cu in tests: the kernels' own text on the emulator. Its "stream" is the seed of
// the threads' order.
#include "../cuda/variational_adjoint.h"
#include "../cuda/variational_forward.h"
#include "../cuda/variational_task.h"
#include "pack.h"
#include "team.h"

namespace hamiltorch {
namespace {

template <template <class> class Walk, class T, class Arrays>
int run(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const Arrays& arrays, void* workspace,
        void* stream) {
  using Team = EmulatedTeam<true, false>;
  using Walked = DelEngine<Team, T>;
  const StateLayout layout = del_layout(plan, del_size(rollout));
  const DelTask<T> task = make_del_task(plan, rollout, layout, workspace);
  pack<typename DelMath<T>::Type>(task, layout);
  const emulator::Launch launch = {plan.blocks, 1, kThreads, static_cast<size_t>(plan.shared_bytes),
                                   reinterpret_cast<uintptr_t>(stream)};
  emulator::run(launch, [&](int index, int rank, int thread) {
    Team team(index, plan.blocks, rank, thread);
    Walked engine(team, task, layout);
    Walk<Walked>(engine, task, arrays).run();
  });
  return 0;
}

}  // namespace

template <class T>
int cuda_del_forward(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const DelArrays<T>& arrays,
                     void* workspace, int, void* stream) {
  return run<DelForward>(plan, rollout, arrays, workspace, stream);
}

template <class T>
int cuda_del_adjoint(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const DelAdjointArrays<T>& arrays,
                     void* workspace, int, void* stream) {
  return run<DelAdjoint>(plan, rollout, arrays, workspace, stream);
}

template int cuda_del_forward(const CudaDelPlan&, const CudaDelRollout<float>&, const DelArrays<float>&, void*, int,
                              void*);
template int cuda_del_forward(const CudaDelPlan&, const CudaDelRollout<double>&, const DelArrays<double>&, void*, int,
                              void*);
template int cuda_del_adjoint(const CudaDelPlan&, const CudaDelRollout<float>&, const DelAdjointArrays<float>&, void*,
                              int, void*);
template int cuda_del_adjoint(const CudaDelPlan&, const CudaDelRollout<double>&, const DelAdjointArrays<double>&, void*,
                              int, void*);

}  // namespace hamiltorch
