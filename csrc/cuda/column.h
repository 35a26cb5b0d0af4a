// The vectors of one sample. A warp has them to itself: lane i works on rows i, i + 32, ... of every vector, so that
// lanes exchange nothing but sums and every number that comes of them is the same in all lanes. Only what a product
// leaves in a vector takes a barrier. Vectors of several parts of equal length, q and p, are dealt to lanes part by
// part: a lane then has the same rows of each.
#pragma once
#include <math.h>

#include "warp.h"

namespace hamiltorch {

template <class Real, int kParts = 1>
class Column {
 public:
  HAMILTORCH_DEVICE Column(Real* vectors, int rows, int lane) : vectors_(vectors), rows_(rows), lane_(lane) {}

  HAMILTORCH_DEVICE int rows() const { return rows_; }
  HAMILTORCH_DEVICE bool leads() const { return lane_ == 0; }
  HAMILTORCH_DEVICE Real* vector(int which) const { return vectors_ + which * rows_; }

  template <class Body>
  HAMILTORCH_DEVICE void for_rows(Body body) const {
    if constexpr (kParts == 1) {
      HAMILTORCH_NO_UNROLL
      for (int row = lane_; row < rows_; row += 32) body(row);
    } else {
      const int each = rows_ / kParts;
      HAMILTORCH_NO_UNROLL
      for (int first = 0; first < rows_; first += each) {
        HAMILTORCH_NO_UNROLL
        for (int row = lane_; row < each; row += 32) body(first + row);
      }
    }
  }

  template <class Term>
  HAMILTORCH_DEVICE Real sum(Term term) const {
    Real sum = 0;
    for_rows([&](int row) { sum += term(row); });
    for (int mask = 16; mask > 0; mask >>= 1) sum += warp_shuffle_xor(sum, mask);
    return sum;
  }
  HAMILTORCH_DEVICE Real dot(const Real* x, const Real* y) const {
    return sum([&](int row) { return x[row] * y[row]; });
  }
  // The largest magnitude; not a number where a term is none.
  template <class Term>
  HAMILTORCH_DEVICE Real largest_of(Term term) const {
    Real most = 0;
    const auto add = [&](Real other) { most = most != most || other <= most ? most : other; };
    for_rows([&](int row) { add(fabs(term(row))); });
    for (int mask = 16; mask > 0; mask >>= 1) add(warp_shuffle_xor(most, mask));
    return most;
  }
  HAMILTORCH_DEVICE Real largest(const Real* x) const {
    return largest_of([&](int row) { return x[row]; });
  }
  // Euclidean. Where the squares leave the range of numbers, those of x over its largest entry do not.
  HAMILTORCH_DEVICE Real norm(const Real* x) const {
    const Real square = dot(x, x), huge = static_cast<Real>(sizeof(Real) == sizeof(float) ? 1e30 : 1e300);
    if (square > 1 / huge && square < huge) return sqrt(square);
    const Real most = largest(x);
    if (!(most > 0 && most < static_cast<Real>(INFINITY))) return most;
    return most * sqrt(sum([&](int row) { return (x[row] / most) * (x[row] / most); }));
  }
  HAMILTORCH_DEVICE void add_scaled(Real* y, Real factor, const Real* x) const {
    for_rows([&](int row) { y[row] += factor * x[row]; });
  }

 private:
  Real* const vectors_;
  const int rows_, lane_;
};

}  // namespace hamiltorch
