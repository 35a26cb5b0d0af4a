// A rollout by implicit stages as the kernels get it.
#pragma once
#include "block_task.h"
#include "implicit.h"

namespace hamiltorch {

template <class T>
BlockCall<ImplicitTask<T>> make_call(const CudaBlockPlan& plan, const CudaImplicitRollout<T>& rollout,
                                     void* workspace) {
  const int stages = static_cast<int>(rollout.stages.size());
  const CudaImplicitSize size = {rollout.dim, rollout.widths, rollout.batch, stages, sizeof(T) == sizeof(double)};
  BlockCall<ImplicitTask<T>> call = begin_call<ImplicitTask<T>>(plan, block_size(size), rollout, workspace);
  call.task.stage_count = stages;
  for (int k = 0; k < stages; ++k) {
    const Stage& stage = rollout.stages[static_cast<size_t>(k)];
    call.task.stages[k] = {static_cast<T>(stage.coefficient), {static_cast<T>(stage.at_q), static_cast<T>(stage.at_p)}};
  }
  return call;
}

}  // namespace hamiltorch
