// The native core's interface: whole rollouts and their adjoint over raw pointers. Launchers return a status and never
// allocate: ask for the workspace's size first.
#pragma once
#include <cstddef>
#include <cstdint>

#include "hamiltorch/mlp.h"

namespace hamiltorch {

enum class Status : int32_t { kOk = 0, kWorkspaceTooSmall };

// One stage of a step: the gradient is evaluated once, then p -= c dt H_q where bit 0 of `moves` is set and
// q += c dt H_p where bit 1 is. The table of methods is hamiltorch_ext/integrators.py.
struct Stage {
  int32_t moves;
  double coefficient;
};
inline constexpr int32_t kMovesP = 1;
inline constexpr int32_t kMovesQ = 2;

template <class T>
struct Rollout {
  Mlp<T> network;
  const Stage* stages;  // [stage_count]
  int64_t stage_count;
  T dt;
  int64_t steps;
  int64_t batch;
  const T* condition;  // [batch][condition_dim], null where condition_dim is 0
};

template <class T>
struct ForwardArrays {
  const T* z0;    // [batch][dim]
  T* trajectory;  // [batch][steps + 1][dim]
  T* energies;    // [batch][steps + 1], null where they are not asked for
};

// Cotangents may be null (zero). The trajectory is the checkpoint: one state per step, all else is recomputed.
template <class T>
struct BackwardArrays {
  const T* trajectory;       // [batch][steps + 1][dim]
  const T* grad_trajectory;  // [batch][steps + 1][dim] or null
  const T* grad_energies;    // [batch][steps + 1] or null
  T* grad_z0;                // [batch][dim]
  T* grad_dt;                // [1]
  T* const* grad_weights;    // [hidden + 1], shapes of the weights
  T* const* grad_biases;     // [hidden + 1]
  T* grad_condition;         // [batch][condition_dim], null where condition_dim is 0
};

// CPU. `threads` is the most that may be used; results depend on it only through rounding, and are the same bits for
// the same value. `workspace` is aligned to 64 bytes.
template <class T>
size_t forward_workspace(const Rollout<T>& rollout, int threads);
template <class T>
size_t backward_workspace(const Rollout<T>& rollout, int threads);
template <class T>
Status rollout_forward(const Rollout<T>& rollout, const ForwardArrays<T>& arrays, int threads, void* workspace,
                       size_t workspace_size);
template <class T>
Status rollout_backward(const Rollout<T>& rollout, const BackwardArrays<T>& arrays, int threads, void* workspace,
                        size_t workspace_size);

}  // namespace hamiltorch
