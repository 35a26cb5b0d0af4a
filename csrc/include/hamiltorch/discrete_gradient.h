// Rollouts by Gonzalez's discrete gradient, of Hamiltonian and port-Hamiltonian systems, and their adjoint, over raw
// pointers. Like the rollouts of hamiltorch/rollout.h: launchers return a status and never allocate.
//
// A step takes z to y = z + Delta with Delta = dt [(J - R) D(z, y) + b], R = L L^T, where D, the discrete gradient, is
//
//     D = g + c Delta,    g = dH((z + y) / 2),    c = (H(y) - H(z) - g . Delta) / |Delta|^2,
//
// so that D . Delta = H(y) - H(z). Before and after it p is multiplied by the decay of half a step of friction.
// Source: Gonzalez 1996, eq. 2; McLachlan, Quispel and Robidoux 1999.
#pragma once
#include "hamiltorch/rollout.h"

namespace hamiltorch {

template <class T>
struct DiscreteRollout {
  Rollout<T> rollout;      // its stages are not read, but counted
  T tolerance;             // of the largest entry of the equations of y over one plus that of y
  int64_t max_iterations;  //
  const T* dissipation;    // L, [dim][columns], or its diagonal, [dim]; null: R = 0
  int64_t columns;         // 0: L is diagonal
  const T* forces;         // b, [batch][steps][dim]; null: none
  const T* decay;          // [dim / 2]; null: no friction
};

template <class T>
struct DiscreteArrays {
  const T* z0;          // [batch][dim]
  T* trajectory;        // [batch][steps + 1][dim]
  T* changes;           // [batch][steps][dim]: Delta, for the adjoint; null: not kept
  uint8_t* converged;   // [batch][steps], false from a sample's first failure on
  int64_t* iterations;  // [batch][steps]: points evaluated
  T* residual;          // [batch][steps]
};

// With cotangents on the states: v, of the equations of every step, and with m = (J - R)^T v the weights
// k = m . Delta / |Delta|^2 and directions u = m - k Delta. The gradient by all that H depends on is that of
//
//     S = dt sum [u . dH(w) + k (H(y) - H(z))]
//
// with the points held fixed; by dt it is dS by dt and what grad_dt leaves out of it, by b dt v, and by L that of
// -dt v . L L^T D.
template <class T>
struct DiscreteAdjointArrays {
  const T* trajectory;       // as the rollout left them
  const T* changes;          //
  const uint8_t* converged;  // a step that failed is a constant
  const T* grad_trajectory;  // [batch][steps + 1][dim]
  T* points;                 // w = (z + y) / 2, [batch][steps][dim]
  T* directions;             // u, likewise
  T* multipliers;            // v
  T* gradients;              // D; null: not asked for
  T* energy_weights;         // k, [batch][steps]
  T* grad_z0;                // [batch][dim]
  double* grad_dt;           // [batch]: sum of k (H(y) - H(z)) + v . b
  double* grad_decay;        // [batch][dim / 2]; null where there is no decay
};

}  // namespace hamiltorch
