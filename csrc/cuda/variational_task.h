// A discrete Euler-Lagrange rollout as the kernels get it.
#pragma once
#include "block_task.h"
#include "variational.h"

namespace hamiltorch {

template <class T>
BlockCall<DelTask<T>> make_call(const CudaBlockPlan& plan, const CudaDelRollout<T>& rollout, void* workspace) {
  const CudaDelSize size = {rollout.dim, rollout.widths, rollout.batch, sizeof(T) == sizeof(double)};
  BlockCall<DelTask<T>> call = begin_call<DelTask<T>>(plan, block_size(size), rollout, workspace);
  call.task.kinetic = rollout.kinetic;
  call.task.friction = rollout.friction;
  call.task.diagonal = rollout.diagonal;
  call.task.inverse = rollout.inverse;
  return call;
}

}  // namespace hamiltorch
