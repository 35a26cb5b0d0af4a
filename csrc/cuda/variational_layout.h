// What a sample of a discrete Euler-Lagrange rollout has in a block's memory: plain arithmetic, as layout.h's.
#pragma once
#include "hamiltorch/cuda_variational.h"
#include "hamiltorch/iteration.h"
#include "layout.h"

namespace hamiltorch {

// Of every layer's rows: s'(a) and s''(a) dN/dh at the point last evaluated, and the change of a in the direction last
// multiplied.
enum Kept { kFirst, kSecond, kChange, kKeptVectors };
// Of layer 0's rows: what a_1 has besides W_1y y, bias included, and dN/da_1.
enum FirstLayer { kFromX, kDelta, kFirstLayerVectors };

// A sample's vectors of d numbers: the algorithm's, then those of GMRES and of Broyden's method, then GMRES' numbers.
enum DelVector { kX, kY, kOut, kImage, kStep };
enum DelForwardVector { kTried = kStep + 1, kStart, kCarried, kResidual, kForwardVectors };
enum DelAdjointVector { kRight = kStep + 1, kLeft, kMultiplier, kOwn, kNext, kOnX, kLater, kAdjointVectors };
static_assert(static_cast<int>(kForwardVectors) <= static_cast<int>(kAdjointVectors), "one layout serves both");
inline constexpr int kKrylovBasis = kAdjointVectors;
inline constexpr int kBroydenPairs = kKrylovBasis + kMostDirections + 1;
inline constexpr int kDelVectors = kBroydenPairs + 2 * kMostPairs;
inline constexpr int kKrylovNumbers = kMostDirections * (kMostDirections + 4) + 1;

// Elements of a sample. The same rows of neighbouring samples are in different banks.
HAMILTORCH_HOST_DEVICE inline int64_t del_column_size(int64_t dim) {
  return (kDelVectors * dim + kKrylovNumbers + 15) / 16 * 16 + 4;
}

}  // namespace hamiltorch
