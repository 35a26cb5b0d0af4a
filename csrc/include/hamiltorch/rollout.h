// The native core's interface: whole rollouts and their adjoint over raw pointers. Launchers return a status and never
// allocate: ask for the workspace's size first.
#pragma once
#include <cstddef>
#include <cstdint>

#include "hamiltorch/mlp.h"

namespace hamiltorch {

enum class Status : int32_t { kOk = 0, kWorkspaceTooSmall };

// One stage of a step: the gradient is evaluated once, then p -= c dt H_q where bit 0 of `moves` is set and
// q += c dt H_p where bit 1 is. The gradient is taken so far on the way of q and of p from their old to their new
// values; with both zero the stage is explicit. The table of methods is hamiltorch_ext/integrators.py.
struct Stage {
  int32_t moves;
  double coefficient;
  double at_q = 0, at_p = 0;
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
  // Products with the weights in bfloat16, their sums and the states in float: for T = float, if supports_bfloat16().
  bool bfloat16;
};

template <class T>
struct ForwardArrays {
  const T* z0;    // [batch][dim]
  T* trajectory;  // [batch][steps + 1][dim]
  T* energies;    // [batch][steps + 1], null where they are not asked for
  T* tape;        // [tape_size], what the adjoint needs of every evaluation; null: nothing is kept
};

// Cotangents may be null (zero). The trajectory is the checkpoint: one state per step; without a tape all else is
// recomputed.
template <class T>
struct BackwardArrays {
  const T* trajectory;       // [batch][steps + 1][dim]
  const T* tape;             // [tape_size] as the rollout left it, or null
  const T* grad_trajectory;  // [batch][steps + 1][dim] or null
  const T* grad_energies;    // [batch][steps + 1] or null
  T* grad_z0;                // [batch][dim]
  T* grad_dt;                // [1]
  T* const* grad_weights;    // [hidden + 1], shapes of the weights
  T* const* grad_biases;     // [hidden + 1]
  T* grad_condition;         // [batch][condition_dim], null where condition_dim is 0
};

// Weights as the kernels read them: copies, panels, products of theirs. The caller keeps the memory between calls of
// one network; every call compares the weights with it, bit for bit, and remakes what has changed.
struct Prepared {
  void* memory;  // of prepared_size bytes, aligned to 64
  bool filled;   // whether an earlier call with equal sizes and plan has filled it
};

// Callers keep no more of it than this between calls; what needs more is made at every call.
inline constexpr size_t kPreparedKept = size_t{128} << 20;

// CPU. `threads` is the most that may be used; results depend on it only through rounding, and are the same bits for
// the same value. `workspace` is aligned to 64 bytes.
struct Sizes {
  size_t workspace, prepared;  // bytes
  int32_t layout;              // of what is prepared; calls of one network with the same layout share it
};
bool supports_bfloat16();
template <class T>
int64_t tape_size(const Rollout<T>& rollout);  // numbers
template <class T>
Sizes forward_sizes(const Rollout<T>& rollout, bool taped, int threads);
template <class T>
Sizes backward_sizes(const Rollout<T>& rollout, int threads);
template <class T>
Status rollout_forward(const Rollout<T>& rollout, const ForwardArrays<T>& arrays, int threads, const Prepared& prepared,
                       void* workspace, size_t workspace_size);
template <class T>
Status rollout_backward(const Rollout<T>& rollout, const BackwardArrays<T>& arrays, int threads,
                        const Prepared& prepared, void* workspace, size_t workspace_size);

}  // namespace hamiltorch
