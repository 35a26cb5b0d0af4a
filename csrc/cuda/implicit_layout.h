// What a sample of a rollout by implicit stages has in a block's memory: vectors of width_0 numbers, the algorithm's,
// GMRES' and the stages' differences; then vectors of d numbers; then GMRES' numbers.
#pragma once
#include "block_layout.h"

namespace hamiltorch {

// Names as in csrc/cpu/implicit.h. The adjoint's right sides are residuals, and its solutions displacements.
struct ImplicitVectors {
  enum Wide {
    kStart,  // W_1 z + b_1 (+ W_1c c) where the stage begins; the adjoint's, where its gradient is taken
    kDisplacement,
    kResidual,
    kImage,    // of what was multiplied last
    kTried,    // the displacement at which the network is evaluated next
    kImpulse,  // c dt dH/da_1 at the displacement
    kStep,
    kBasis,            // of GMRES
    kImages = kBasis,  // which begins where plain iteration, that remembers images and residuals, has ended
    kResiduals = kImages + kHistory,
    kDifferences = kBasis + kKrylovVectors,  // [stages][kMostDifferences]
  };
  // Two vectors each, q's and p's.
  enum Narrow {
    kState,               // or its cotangent
    kMoved = kState + 2,  // a transposed product's
    kNarrowVectors = kMoved + 2,
  };
};

HAMILTORCH_HOST_DEVICE inline int64_t implicit_wide_vectors(int64_t stages) {
  return ImplicitVectors::kDifferences + stages * kMostDifferences;
}
HAMILTORCH_HOST_DEVICE inline int64_t implicit_column_size(int64_t width, int64_t dim, int64_t stages) {
  return column_size(implicit_wide_vectors(stages) * width + ImplicitVectors::kNarrowVectors * dim + kKrylovNumbers);
}

}  // namespace hamiltorch
