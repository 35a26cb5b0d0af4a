// A rollout by the discrete gradient as the kernels get it.
#pragma once
#include "block_task.h"
#include "discrete.h"

namespace hamiltorch {

template <class T>
BlockCall<DiscreteTask<T>> make_call(const CudaBlockPlan& plan, const CudaDiscreteRollout<T>& rollout,
                                     void* workspace) {
  const CudaDiscreteSize size = {rollout.dim, rollout.widths, rollout.batch, sizeof(T) == sizeof(double)};
  BlockCall<DiscreteTask<T>> call = begin_call<DiscreteTask<T>>(plan, block_size(size), rollout, workspace);
  call.task.head_bias = rollout.head_bias;
  call.task.dissipation = rollout.dissipation;
  call.task.columns = rollout.columns;
  call.task.forces = rollout.forces;
  call.task.decay = rollout.decay;
  return call;
}

}  // namespace hamiltorch
