// Rollouts by implicit stages, and their adjoint, over raw pointers. Like the rollouts of hamiltorch/rollout.h:
// launchers return a status and never allocate.
//
// A stage takes z to z + c dt J H_z(w), where w = z + Theta c dt J H_z(w) is so far on the way there as the stage says:
// those equations are solved. Every stage moves both halves.
#pragma once
#include "hamiltorch/rollout.h"

namespace hamiltorch {

template <class T>
struct ImplicitRollout {
  Rollout<T> rollout;
  // Of the largest entry of the equations, as layer 1's arguments (a = W_1 w + b_1) see them, over one plus that of a.
  T tolerance;
  int64_t max_iterations;
};

template <class T>
struct ImplicitArrays {
  const T* z0;          // [batch][dim]
  T* trajectory;        // [batch][steps + 1][dim]
  T* points;            // [batch][steps][stages][dim]: w of every stage, for the adjoint; null: not kept
  uint8_t* converged;   // [batch][steps], false from a sample's first failure on
  int64_t* iterations;  // [batch][steps]: gradients evaluated
  T* residual;          // [batch][steps]
};

// With cotangents g on the states, u of a stage is such that the gradient by anything that H depends on is that of
// S = dt sum u . H_z(w) with the points held fixed, and dS by dt is sum u . H_z(w).
template <class T>
struct ImplicitAdjointArrays {
  const T* points;           // [batch][steps][stages][dim]
  const uint8_t* converged;  // [batch][steps]; a step that failed is a constant
  const T* grad_trajectory;  // [batch][steps + 1][dim]
  T* directions;             // [batch][steps][stages][dim]: u
  T* grad_z0;                // [batch][dim]
};

// dS from the directions.
template <class T>
struct ImplicitGradientArrays {
  const T* points;           // [batch][steps][stages][dim]
  const uint8_t* converged;  // [batch][steps]
  const T* directions;       // [batch][steps][stages][dim]
  T* const* grad_weights;    // [hidden + 1], shapes of the weights
  T* const* grad_biases;     // [hidden], shapes of the hidden layers' biases
  T* grad_dt;                // [1]
  T* grad_condition;         // [batch][steps][stages][condition_dim]; null where condition_dim is 0
};

}  // namespace hamiltorch
