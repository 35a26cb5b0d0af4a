// What rollouts of eight samples on a block keep for every layer and sample: plain arithmetic, as layout.h's.
#pragma once
#include "hamiltorch/iteration.h"
#include "layout.h"

namespace hamiltorch {

// Of every layer's rows: s'(a) and s''(a) dN/dh at the point last evaluated, and the change of a in the direction last
// multiplied.
enum Kept { kFirst, kSecond, kChange, kKeptVectors };
// Of layer 0's rows: dN/da_1 at that point.
inline constexpr int kDelta = 0;

// A sample's systems by GMRES: its vectors, and its numbers.
inline constexpr int kKrylovVectors = kMostDirections + 1;
inline constexpr int kKrylovNumbers = kMostDirections * (kMostDirections + 4) + 1;

// Elements of a sample that has so many numbers. The same rows of neighbouring samples are in different banks.
HAMILTORCH_HOST_DEVICE inline int64_t column_size(int64_t numbers) { return (numbers + 15) / 16 * 16 + 4; }

}  // namespace hamiltorch
