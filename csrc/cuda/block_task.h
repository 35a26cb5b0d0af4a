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

  template <class Body>
  void for_networks(Body body) const {
    body(task, layout);
  }
};

template <class T, class Layout>
void describe_network(const CudaBlockRollout<T>& rollout, const Layout& layout, const BlockWorkspaceParts& parts,
                      void* workspace, BlockTask<T>* task) {
  char* const base = static_cast<char*>(workspace);
  task->activation = rollout.activation;
  for (size_t l = 0; l < rollout.weights.size(); ++l) task->weights[l] = rollout.weights[l];
  for (size_t l = 0; l < rollout.biases.size(); ++l) task->biases[l] = rollout.biases[l];
  task->head = rollout.head;
  place_packed<T>(layout, 256 * static_cast<int64_t>(sizeof(T)), base + parts.packed, task);
  task->vectors = reinterpret_cast<T*>(base + parts.vectors);
  task->base = rollout.base;
  task->base_stride = rollout.base_stride;
  task->dt = rollout.dt;
  task->steps = rollout.steps;
  task->batch = rollout.batch;
  task->tolerance = rollout.tolerance;
  task->max_iterations = rollout.max_iterations;
}

template <class Task, class T>
BlockCall<Task> begin_call(const CudaBlockPlan& plan, const BlockSize& size, const CudaBlockRollout<T>& rollout,
                           void* workspace) {
  BlockCall<Task> call{block_layout(plan, size), {}};
  describe_network<T>(rollout, call.layout, block_workspace_parts(plan, size), workspace, &call.task);
  return call;
}

}  // namespace hamiltorch
