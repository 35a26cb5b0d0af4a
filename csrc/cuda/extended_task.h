// A rollout in the extended phase space as the kernels get it.
#pragma once
#include "block_task.h"
#include "extended.h"

namespace hamiltorch {

template <class T>
BlockCall<ExtendedTask<T>> make_call(const CudaBlockPlan& plan, const CudaExtendedRollout<T>& rollout,
                                     void* workspace) {
  const CudaExtendedSize size = {rollout.dim, rollout.widths, rollout.batch, sizeof(T) == sizeof(double)};
  BlockCall<ExtendedTask<T>> call = begin_call<ExtendedTask<T>>(plan, block_size(size), rollout, workspace);
  call.task.binding = rollout.binding;
  return call;
}

}  // namespace hamiltorch
