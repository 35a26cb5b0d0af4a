// The rules of iterations that the CPU's kernels and CUDA's have in common: of discrete Euler-Lagrange steps, those of
// the damped iteration being hamiltorch_ext/_newton.py's, and of implicit stages and discrete gradients.
#pragma once

namespace hamiltorch {

inline constexpr int kHalvings = 12;       // of a step, before it is given up
inline constexpr double kDecrease = 1e-4;  // of the residual that a step has to bring, as a part of its promise
inline constexpr int kRoundings = 4;       // of y's largest entry: a smaller step is none
inline constexpr double kQuickly = 0.3;    // what Broyden's step may leave of the residual before Newton's takes over
// What GMRES is asked to leave of a Newton step's right side; where it leaves more than the most, it has failed.
inline constexpr double kLeastForcing = 1e-3, kMostForcing = 0.1;
inline constexpr int kMostDirections = 16;  // of GMRES
inline constexpr int kMostPairs = 16;       // of a step and its residual that Broyden's method remembers
inline constexpr int kMostQuickSteps = 8;   // of Broyden's method, for a system of the adjoint

// Implicit stages and discrete gradients.
inline constexpr int kMostDifferences = 4;  // a solve starts from a cubic through what the last steps found
inline constexpr int kHistory = 2;          // iterates that Anderson's acceleration remembers
inline constexpr double kSlowly = 0.7;      // what an iteration may leave of the residual before Newton's takes over
// A residual may be larger than its bound, at most so many times, where its image's own is within: iterations were seen
// to leave less than that part of a residual, even if this one leaves so many times as much.
inline constexpr double kMostSlack = 10, kCaution = 10;
inline constexpr double kIndependent = 1e-3;  // of two changes' Gram determinant, below which they say the same
inline constexpr int kLeastRoundings = 4;     // of a's largest entry: no residual is asked to be smaller

// Half of it is the largest relative error of rounding.
template <class T>
inline constexpr T kEpsilon =
    sizeof(T) == sizeof(float) ? static_cast<T>(1.1920928955078125e-07) : static_cast<T>(2.220446049250313e-16);

}  // namespace hamiltorch
