// What a sample of a rollout in the extended phase space has in a block's memory: vectors of width_0 numbers, then
// vectors of d numbers.
#pragma once
#include "block_layout.h"

namespace hamiltorch {

struct ExtendedVectors {
  enum Wide {
    kStart,    // W_1 z + b_1 (+ W_1c c) where the gradient is taken
    kTangent,  // of an adjoint: W_1 u
    kWideVectors,
  };
  // Two vectors each, q's and p's.
  enum Narrow {
    kX,  // the copies (q, y) and (x, p), or their cotangents
    kY = kX + 2,
    kDirection = kY + 2,      // of an adjoint: u
    kMoved = kDirection + 2,  // a transposed product's; of an adjoint, also where the gradient was taken
    kNarrowVectors = kMoved + 2,
  };
};

HAMILTORCH_HOST_DEVICE inline int64_t extended_column_size(int64_t width, int64_t dim) {
  return column_size(ExtendedVectors::kWideVectors * width + ExtendedVectors::kNarrowVectors * dim);
}

}  // namespace hamiltorch
