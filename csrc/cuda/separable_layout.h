// What a rollout of T(p) + V(q) has in a block's memory: scratch, which the networks share, what each of them keeps,
// and in V's part for every sample vectors of d numbers.
#pragma once
#include "block_layout.h"

namespace hamiltorch {

// Of each Half; T's is empty where there are masses.
struct SeparableLayouts {
  OneStateLayout of[2];
};

// Two vectors each, q's and p's.
enum SeparableVectors {
  kSeparableState,                            // or its cotangent
  kSeparableSlope = kSeparableState + 2,      // dV/dq and dT/dp; of an adjoint, a Hessian's product
  kSeparableDirection = kSeparableSlope + 2,  // of an adjoint: u
  kSeparableVectors = kSeparableDirection + 2,
};

HAMILTORCH_HOST_DEVICE inline int64_t separable_column_size(int64_t dim) {
  return column_size(kSeparableVectors * dim);
}

}  // namespace hamiltorch
