// Weights as fragments, in the order in which the lanes of a warp read them: one wide, coalesced load each, from global
// memory or shared, for both directions of a product.
#pragma once
#include "layout.h"
#include "precision.h"

namespace hamiltorch {

// Fragment `index` (= ((row tile * k fragments) + k) * 32 + lane) of W [rows][columns], or of its transpose.
template <class Math>
HAMILTORCH_DEVICE typename Math::Packed pack_fragment(const typename Math::Real* weights, int rows, int columns,
                                                      bool transposed, int64_t index) {
  using Real = typename Math::Real;
  const int k_fragments = tiles_of(transposed ? rows : columns) * (kTile / Math::kDepth);
  const int lane = static_cast<int>(index % 32), g = lane >> 2, t = lane & 3;
  const int k = static_cast<int>(index / 32 % k_fragments), m = static_cast<int>(index / 32 / k_fragments);
  Real a[2][4] = {};
  for (int part = 0; part < Math::kDepth / 8; ++part)
    for (int i = 0; i < 4; ++i) {
      const int out = m * kTile + g + 8 * (i & 1), in = k * Math::kDepth + 8 * part + t + 4 * (i >> 1);
      const int row = transposed ? in : out, column = transposed ? out : in;
      if (row < rows && column < columns) a[part][i] = weights[static_cast<int64_t>(row) * columns + column];
    }
  return Math::pack(a);
}

// Fragments of one direction, a lane's counted each.
template <class Math>
HAMILTORCH_HOST_DEVICE inline int64_t packed_count(int rows, int columns) {
  return static_cast<int64_t>(tiles_of(rows)) * tiles_of(columns) * (kTile / Math::kDepth) * 32;
}

}  // namespace hamiltorch
