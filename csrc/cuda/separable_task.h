// A rollout of T(p) + V(q) as the kernels get it.
#pragma once
#include "separable.h"

namespace hamiltorch {

template <class T>
struct SeparableCall {
  SeparableLayouts layout;
  SeparableTask<T> task;

  template <class Body>
  void for_networks(Body body) const {
    for (int half = 0; half < 2; ++half)
      if (layout.of[half].hidden > 0) body(task.networks[half], layout.of[half]);
  }
};

template <class T>
SeparableCall<T> make_call(const CudaBlockPlan& plan, const CudaSeparableRollout<T>& rollout, void* workspace) {
  const CudaBlockRollout<T>& first = rollout.networks[kPotential];
  const CudaSeparableSize size = {
      first.dim, {first.widths, rollout.networks[kKinetic].widths}, first.batch, sizeof(T) == sizeof(double)};
  const SeparablePlaces places = separable_places(plan, size);
  SeparableCall<T> call{places.layouts, {}};
  for (int half = 0; half < 2; ++half)
    if (places.layouts.of[half].hidden > 0)
      describe_network(rollout.networks[half], places.layouts.of[half], places.parts[half], workspace,
                       &call.task.networks[half]);
  call.task.inverse_mass = rollout.inverse_mass;
  call.task.stage_count = static_cast<int>(rollout.stages.size());
  for (int k = 0; k < call.task.stage_count; ++k) {
    const Stage& stage = rollout.stages[static_cast<size_t>(k)];
    const bool kicks = stage.moves == kMovesP;
    call.task.stages[k] = {static_cast<T>(kicks ? -stage.coefficient : stage.coefficient),
                           kicks ? kPotential : kKinetic};
  }
  Rollout<T> counted{};
  counted.stages = rollout.stages.data();
  counted.stage_count = call.task.stage_count;
  counted.steps = first.steps;
  for (const Half half : {kPotential, kKinetic}) call.task.evaluations[half] = evaluations(counted, half);
  return call;
}

}  // namespace hamiltorch
