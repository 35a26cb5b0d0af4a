// Rollouts of any H in Tao's extended phase space, and their adjoint, over raw pointers. Like the rollouts of
// hamiltorch/rollout.h: launchers return a status and never allocate.
//
// Two copies of the state, X = (q, y) and Y = (x, p) in Tao's names, start at z0. A step is, with J (a, b) = (b, -a),
//
//     Y += dt/2 J dH(X),  X += dt/2 J dH(Y),  X - Y turns by 2 binding dt while X + Y stays,
//     X += dt/2 J dH(Y),  Y += dt/2 J dH(X);
//
// the state after it is X's q and Y's p. The last gradient is the next step's first. Source: Tao 2016, eqs. 1 and 2.
#pragma once
#include "hamiltorch/rollout.h"

namespace hamiltorch {

template <class T>
struct ExtendedRollout {
  Rollout<T> rollout;  // its stages are not read, but counted: the gradients of a step
  double binding;
};

// Points of a sample's rollout at which the gradient is taken: X at the start, and of every step Y, Y turned, and X.
inline int64_t extended_points(int64_t steps) { return steps > 0 ? 3 * steps + 1 : 0; }

template <class T>
struct ExtendedArrays {
  const T* z0;    // [batch][2d]
  T* trajectory;  // [batch][steps + 1][2d]
  T* points;      // [batch][extended_points][2d], for the adjoint; null: not kept
  T* turned;      // [batch][steps][2d], X - Y after it has turned, likewise
};

// With cotangents on the states, u at each point is such that the gradient by the parameters is that of
// S = dt sum u . dH(point) with the points held fixed. By dt it is dS by dt + 2 binding times that by the angle.
template <class T>
struct ExtendedAdjointArrays {
  const T* points;           // as the rollout left them
  const T* turned;           //
  const T* grad_trajectory;  // [batch][steps + 1][2d]
  T* directions;             // u, [batch][extended_points][2d]
  T* grad_z0;                // [batch][2d]
  double* grad_angle;        // [batch]
};

}  // namespace hamiltorch
