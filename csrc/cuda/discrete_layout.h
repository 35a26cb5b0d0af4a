// What a sample of a rollout by the discrete gradient has in a block's memory: vectors of width_0 numbers; then states
// of 2 d numbers, the algorithm's, GMRES' and the steps' differences; then GMRES' numbers.
#pragma once
#include "block_layout.h"

namespace hamiltorch {

// Names as in csrc/cpu/discrete_gradient.h.
struct DiscreteVectors {
  enum Wide {
    kStart,      // W_1 z + b_1 (+ W_1c c) where the step begins
    kProjected,  // W_1 Delta
    kTangent,    // W_1 x of a product with the Hessian
    kWideVectors,
  };
  enum State {
    kZ,
    kDisplacement,
    kResidual,
    kImage,
    kTried,
    kStep,
    kSlope,            // a gradient, or the Hessian's product
    kAhead,            // dH(y) - g
    kFlowing,          // what J - R multiplies
    kBasis,            // of GMRES
    kImages = kBasis,  // which begins where plain iteration, that remembers images and residuals, has ended
    kResiduals = kImages + kHistory,
    kDifferences = kBasis + kKrylovVectors,  // [kMostDifferences]
    kStates = kDifferences + kMostDifferences,
    // An adjoint's, which finds no step:
    kMiddle = kTried,  // g
    kBar = kDifferences,
    kUndamped,
    kBehind,    // g - dH(z)
    kSolution,  // v
  };
  static constexpr int kMoved = 2 * kSlope;  // as StateBlock counts, in halves of states
};
static_assert(DiscreteVectors::kSolution < DiscreteVectors::kStates, "the adjoint has no more vectors");

HAMILTORCH_HOST_DEVICE inline int64_t discrete_column_size(int64_t width, int64_t dim) {
  return column_size(DiscreteVectors::kWideVectors * width + DiscreteVectors::kStates * 2 * dim + kKrylovNumbers);
}

}  // namespace hamiltorch
