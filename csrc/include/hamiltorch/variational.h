// Rollouts by the discrete Euler-Lagrange equations, and the multipliers of their adjoint, over raw pointers. Like the
// rollouts of hamiltorch/rollout.h: launchers return a status and never allocate.
//
// The discrete Lagrangian is L_d(x, y) = 1/2 sum_i m_i (y - x)_i^2 / dt + dt N(x, y, c), N being the network, whose
// input z = (x, y) has 2d numbers. With friction coefficients f, step k solves for y = q_{k+2}, x = q_{k+1}:
//
//     r_k = D2 L_d(q_k, x) + D1 L_d(x, y) - f (y - q_k) / 2 + impulse_k = 0.
#pragma once
#include "hamiltorch/rollout.h"

namespace hamiltorch {

template <class T>
struct DelRollout {
  Mlp<T> network;    // dim = 2d
  const T* mass;     // [d]
  const T* damping;  // f, [d]
  T dt;
  int64_t steps;
  int64_t batch;
  const T* condition;  // [batch][condition_dim], null where condition_dim is 0
  T tolerance;         // of the largest entry of r over one plus the largest of what the step before carries over
  int64_t max_iterations;
};

template <class T>
struct DelArrays {
  const T* q0;          // [batch][d]
  const T* q1;          // [batch][d]
  const T* impulses;    // [batch][steps][d], null for none
  T* trajectory;        // [batch][steps + 2][d]
  uint8_t* converged;   // [batch][steps]
  int64_t* iterations;  // [batch][steps]
  T* residual;          // [batch][steps]
  T* smallest_pivot;    // [batch][steps], infinite where no matrix was factorised
};

// With cotangents g on q_2, q_3, ... the multipliers l solve (dr/dq)^T l = g; they are zero where a step has not
// converged. The gradient by anything else that r depends on is then that of S = -sum_k l_k . r_k with the points from
// q_2 on held fixed.
template <class T>
struct DelAdjointArrays {
  const T* trajectory;       // [batch][steps + 2][d]
  const uint8_t* converged;  // [batch][steps], false from a sample's first failure on
  const T* grad_trajectory;  // [batch][steps][d]
  T* multipliers;            // [batch][steps][d]: minus dS by the impulses
  T* grad_start;             // [batch][2][d]: dS by q0 and q1
};

// dS by everything else, from the multipliers.
template <class T>
struct DelGradientArrays {
  const T* trajectory;       // [batch][steps + 2][d]
  const uint8_t* converged;  // [batch][steps]
  const T* multipliers;      // [batch][steps][d]
  T* const* grad_weights;    // [hidden + 1], shapes of the weights
  T* const* grad_biases;     // [hidden], shapes of the hidden layers' biases
  T* grad_mass;              // [d]
  T* grad_damping;           // [d]
  T* grad_dt;                // [1]
  T* grad_condition;         // [batch][steps + 1][condition_dim], of every interval; null where condition_dim is 0
};

template <class T>
Sizes del_sizes(const DelRollout<T>& rollout, int threads);
template <class T>
Status del_forward(const DelRollout<T>& rollout, const DelArrays<T>& arrays, int threads, const Prepared& prepared,
                   void* workspace, size_t workspace_size);
template <class T>
Status del_adjoint(const DelRollout<T>& rollout, const DelAdjointArrays<T>& arrays, int threads,
                   const Prepared& prepared, void* workspace, size_t workspace_size);
template <class T>
Sizes del_gradient_sizes(const DelRollout<T>& rollout, int threads);
template <class T>
Status del_gradient(const DelRollout<T>& rollout, const DelGradientArrays<T>& arrays, int threads,
                    const Prepared& prepared, void* workspace, size_t workspace_size);

}  // namespace hamiltorch
