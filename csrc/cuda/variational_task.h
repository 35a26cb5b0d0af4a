// From a rollout as the caller describes it to the task that the kernels get.
#pragma once
#include "precision.h"
#include "variational.h"
#include "variational_plan.h"

namespace hamiltorch {

template <class T>
struct DelMath;
template <>
struct DelMath<float> {
  using Type = Split;
};
template <>
struct DelMath<double> {
  using Type = Float64;
};

template <class Team, class T>
using DelEngine = Engine<Team, typename DelMath<T>::Type, PackedSource, 1, 2, StateLayout>;

template <class T>
CudaDelSize del_size(const CudaDelRollout<T>& rollout) {
  return {rollout.dim, rollout.widths, rollout.batch, sizeof(T) == sizeof(double)};
}

template <class T>
DelTask<T> make_del_task(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const StateLayout& layout,
                         void* workspace) {
  const DelWorkspaceParts parts = del_workspace_parts(plan, del_size(rollout));
  char* const base = static_cast<char*>(workspace);
  DelTask<T> task{};
  task.activation = rollout.activation;
  for (size_t l = 0; l < rollout.weights.size(); ++l) task.weights[l] = rollout.weights[l];
  for (size_t l = 0; l < rollout.biases.size(); ++l) task.biases[l] = rollout.biases[l];
  task.head = rollout.head;
  place_packed<T>(layout, 256 * static_cast<int64_t>(sizeof(T)), base + parts.packed, &task);
  task.vectors = reinterpret_cast<T*>(base + parts.vectors);
  task.base = rollout.base;
  task.base_stride = rollout.base_stride;
  task.kinetic = rollout.kinetic;
  task.friction = rollout.friction;
  task.diagonal = rollout.diagonal;
  task.inverse = rollout.inverse;
  task.dt = rollout.dt;
  task.steps = rollout.steps;
  task.batch = rollout.batch;
  task.tolerance = rollout.tolerance;
  task.max_iterations = rollout.max_iterations;
  return task;
}

}  // namespace hamiltorch
