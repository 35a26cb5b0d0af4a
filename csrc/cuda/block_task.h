// From a rollout as the caller describes it to the task that the kernels get.
#pragma once
#include "block.h"
#include "block_plan.h"
#include "precision.h"

namespace hamiltorch {

template <class T>
struct BlockMath;
template <>
struct BlockMath<float> {
  using Type = Split;
};
template <>
struct BlockMath<double> {
  using Type = Float64;
};

template <class Team, class T>
using BlockEngine = Engine<Team, typename BlockMath<T>::Type, PackedSource, 1, 2, StateLayout>;

// A call: its task, and where things are.
template <class Task>
struct BlockCall {
  StateLayout layout;
  Task task;
};

template <class Task, class T>
BlockCall<Task> begin_call(const CudaBlockPlan& plan, const BlockSize& size, const CudaBlockRollout<T>& rollout,
                           void* workspace) {
  const BlockWorkspaceParts parts = block_workspace_parts(plan, size);
  char* const base = static_cast<char*>(workspace);
  BlockCall<Task> call{block_layout(plan, size), {}};
  Task& task = call.task;
  task.activation = rollout.activation;
  for (size_t l = 0; l < rollout.weights.size(); ++l) task.weights[l] = rollout.weights[l];
  for (size_t l = 0; l < rollout.biases.size(); ++l) task.biases[l] = rollout.biases[l];
  task.head = rollout.head;
  place_packed<T>(call.layout, 256 * static_cast<int64_t>(sizeof(T)), base + parts.packed, &task);
  task.vectors = reinterpret_cast<T*>(base + parts.vectors);
  task.base = rollout.base;
  task.base_stride = rollout.base_stride;
  task.dt = rollout.dt;
  task.steps = rollout.steps;
  task.batch = rollout.batch;
  task.tolerance = rollout.tolerance;
  task.max_iterations = rollout.max_iterations;
  return call;
}

}  // namespace hamiltorch
