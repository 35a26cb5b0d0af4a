// Rollouts of H = T(p) + V(q) by explicit stages, each of which moves one half, and their adjoint, over raw pointers.
// Like the rollouts of hamiltorch/rollout.h: launchers return a status and never allocate.
//
// Neighbouring stages that move one half take the same gradient, also across the end of a step: it is evaluated once,
// at one point. `evaluations` counts them.
#pragma once
#include "hamiltorch/rollout.h"

namespace hamiltorch {

enum Half : int { kPotential, kKinetic };  // V, which reads q and moves p; T, which reads p and moves q

template <class T>
struct SeparableRollout {
  Rollout<T> rollout;     // its network is V, with dim = d; every stage moves one half, at_q = at_p = 0
  const Mlp<T>* kinetic;  // T, with dim = d; null: T = sum_i p_i^2 / (2 m_i)
  const T* inverse_mass;  // 1 / m, [d]; null where T is a network
};

// Points of V or of T along a sample's rollout.
template <class T>
static int64_t evaluations(const Rollout<T>& rollout, Half half) {
  const int32_t moves = half == kPotential ? kMovesP : kMovesQ;
  int64_t first = 0, each = 0;
  const Stage* const stages = rollout.stages;
  for (int64_t k = 0; k < rollout.stage_count; ++k) {
    if (stages[k].moves != moves) continue;
    const bool begins = k == 0 || stages[k - 1].moves != moves;
    first += begins;
    each += begins && (k > 0 || stages[rollout.stage_count - 1].moves != moves);
  }
  return rollout.steps > 0 ? first + (rollout.steps - 1) * each : 0;
}

template <class T>
struct SeparableArrays {
  const T* z0;    // [batch][2d]
  T* trajectory;  // [batch][steps + 1][2d]
  T* points[2];   // of each Half: [batch][evaluations][d], for the adjoint; null: not kept
};

// With cotangents g on the states, u at a point of V or T is such that the gradient by that one's parameters is that of
// S = dt sum u . dV/dq (or dT/dp) with the points held fixed, and dS by dt is sum u . dV/dq + sum u . dT/dp.
template <class T>
struct SeparableAdjointArrays {
  const T* points[2];        // as the rollout left them
  const T* grad_trajectory;  // [batch][steps + 1][2d]
  T* directions[2];          // u, of each Half: [batch][evaluations][d]
  T* grad_z0;                // [batch][2d]
};

// dS by one network's parameters, from its directions.
template <class T>
struct SeparableGradientArrays {
  const T* points;         // [batch][evaluations][d]
  const T* directions;     // [batch][evaluations][d]
  T* const* grad_weights;  // [hidden + 1], shapes of the weights
  T* const* grad_biases;   // [hidden], shapes of the hidden layers' biases
  T* grad_dt;              // [1]: this network's part
  T* grad_condition;       // [batch][evaluations][condition_dim]; null where condition_dim is 0
};

}  // namespace hamiltorch
