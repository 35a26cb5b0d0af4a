// What a sample of a discrete Euler-Lagrange rollout has in a block's memory.
#pragma once
#include "block_layout.h"

namespace hamiltorch {

// Of layer 0's rows, beside dN/da_1: what a_1 has besides W_1y y, bias included.
inline constexpr int kFromX = kDelta + 1, kDelFirstLayerVectors = kFromX + 1;

// A sample's vectors of d numbers: the algorithm's, then those of GMRES and of Broyden's method, then GMRES' numbers.
enum DelVector { kX, kY, kOut, kImage, kStep };
enum DelForwardVector { kTried = kStep + 1, kStart, kCarried, kResidual, kForwardVectors };
enum DelAdjointVector { kRight = kStep + 1, kLeft, kMultiplier, kOwn, kNext, kOnX, kLater, kAdjointVectors };
static_assert(static_cast<int>(kForwardVectors) <= static_cast<int>(kAdjointVectors), "one layout serves both");
inline constexpr int kKrylovBasis = kAdjointVectors;
inline constexpr int kBroydenPairs = kKrylovBasis + kKrylovVectors;
inline constexpr int kDelVectors = kBroydenPairs + 2 * kMostPairs;

HAMILTORCH_HOST_DEVICE inline int64_t del_column_size(int64_t dim) {
  return column_size(kDelVectors * dim + kKrylovNumbers);
}

}  // namespace hamiltorch
